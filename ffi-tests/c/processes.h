/* What the programs about worker processes share. */
#ifndef LLAMAPEN_FFI_TESTS_PROCESSES_H
#define LLAMAPEN_FFI_TESTS_PROCESSES_H

#include <errno.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { TOKENS = 24 };
static const char counting[] = "{\"prompt\": \"One, two,\", \"max_tokens\": 24, \"ignore_eos\": true, \"temperature\": 0}";

typedef struct answer {
    int32_t tokens[TOKENS];
    int n, restarts, kind, in_order;
} answer;

/* All events of `counting`. Once there are `at` tokens, `victim` is killed; 0: nobody is. */
static inline answer check_answer(const llamapen_supervisor *supervisor, pid_t victim, int at)
{
    answer got;
    llamapen_event event;
    llamapen_request *request = check_submit(supervisor, counting);
    memset(&got, 0, sizeof got);
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    got.in_order = 1;
    while (llamapen_request_next(request, 120000, &event, NULL) == LLAMAPEN_STATUS_EVENT) {
        got.kind = (int)event.kind;
        if (event.kind == LLAMAPEN_EVENT_RESTARTED) got.restarts++;
        if (event.kind != LLAMAPEN_EVENT_TOKEN) continue;
        if (event.index != (uint32_t)got.n || got.n >= TOKENS) {
            got.in_order = 0;
            break;
        }
        got.tokens[got.n++] = event.token;
        if (victim > 0 && got.n == at) kill(victim, SIGKILL);
    }
    llamapen_request_free(request);
    return got;
}

static inline int check_same(const answer *one, const answer *other)
{
    return one->in_order && other->in_order && one->kind == LLAMAPEN_EVENT_FINISHED && other->kind == one->kind &&
           one->n == TOKENS && other->n == TOKENS && memcmp(one->tokens, other->tokens, sizeof one->tokens) == 0;
}

/* The health, which the caller frees. */
static inline char *check_health(const llamapen_supervisor *supervisor)
{
    char *json = NULL;
    llamapen_error *error = NULL;
    int32_t status = check_explain(llamapen_supervisor_health_json(supervisor, &json, &error), &error);
    REQUIRE(status == LLAMAPEN_STATUS_OK && json != NULL, "the health");
    return json;
}

/* The number of the first worker's process. */
static inline pid_t check_pid(const llamapen_supervisor *supervisor)
{
    static const char key[] = "\"process\":{\"pid\":";
    char *json = check_health(supervisor);
    const char *found = strstr(json, key);
    pid_t pid = found != NULL ? (pid_t)strtol(found + sizeof key - 1, NULL, 10) : 0;
    llamapen_string_free(json);
    REQUIRE(pid > 1, "the worker is a process");
    return pid;
}

static inline int check_exists(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld", (long)pid);
    return access(path, F_OK) == 0;
}

static inline int check_gone(pid_t pid)
{
    for (int i = 0; i < 1000 && check_exists(pid); i++) check_sleep_ms(5);
    return !check_exists(pid);
}

/* Whether a file of this name is mapped here. */
static inline int check_mapped(const char *path)
{
    const char *name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    char line[8192];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) found = found || strstr(line, name) != NULL;
    if (maps != NULL) fclose(maps);
    return found;
}

/* With `config`; ready. Ends the program where it does not come to that. */
static inline llamapen_supervisor *check_start_with(const llamapen_engine *engine, const char *config)
{
    llamapen_supervisor *supervisor = NULL;
    llamapen_error *error = NULL;
    int32_t status = llamapen_supervisor_start(engine, config, strlen(config), &supervisor, &error);
    REQUIRE(check_explain(status, &error) == LLAMAPEN_STATUS_OK && supervisor != NULL, "the supervisor starts");
    check_wait_ready(supervisor);
    return supervisor;
}

#endif
