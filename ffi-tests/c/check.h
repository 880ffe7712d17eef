/* What all C and C++ tests share: checks that print TAP lines, and small helpers around llamapen.h.
 *
 * Checks count without a lock: only the main thread checks, other threads hand their results to it. */
#ifndef LLAMAPEN_FFI_TESTS_CHECK_H
#define LLAMAPEN_FFI_TESTS_CHECK_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llamapen.h"

static int check_count;
static int check_failures;

/* Prints one TAP line; goes on after a failure, so that one run shows all of them. Gives the condition back. */
#define CHECK(condition, what) check_at((condition) ? 1 : 0, (what), #condition, __FILE__, __LINE__)

/* As CHECK, and ends the program: for what the rest cannot do without. */
#define REQUIRE(condition, what) \
    do { \
        if (!CHECK(condition, what)) exit(check_end()); \
    } while (0)

static inline int check_at(int good, const char *what, const char *condition, const char *file, int line)
{
    check_count++;
    if (good) {
        printf("ok - %s\n", what);
    } else {
        check_failures++;
        printf("not ok - %s\n# %s:%d: %s\n", what, file, line, condition);
    }
    /* A crash right after must not swallow the line. */
    fflush(stdout);
    return good;
}

/* Exit status of the program. No check at all is a failure too. */
static inline int check_end(void)
{
    printf("1..%d\n", check_count);
    return check_failures == 0 && check_count > 0 ? 0 : 1;
}

/* Prints the error of an unexpected failure, frees it, and gives the status back. */
static inline int32_t check_explain(int32_t status, llamapen_error **error)
{
    if (*error != NULL) {
        printf("# %s: %s\n", llamapen_status_name(status), llamapen_error_message(*error));
        llamapen_error_free(*error);
        *error = NULL;
    }
    return status;
}

/* Checks one failure: its status, that the error agrees, that its message holds `part`. Frees the error. */
static inline void check_refused(int32_t status, int32_t wanted, llamapen_error **error, const char *part, const char *what)
{
    int good = status == wanted && *error != NULL && llamapen_error_status(*error) == wanted &&
               strstr(llamapen_error_message(*error), part) != NULL;
    if (!good)
        printf("# %s: %s\n", llamapen_status_name(status), *error != NULL ? llamapen_error_message(*error) : "no error");
    CHECK(good, what);
    llamapen_error_free(*error);
    *error = NULL;
}

/* Something that is not NULL, to see it set. Never freed, never looked into. */
#define CHECK_STALE(type) ((type *)(void *)&check_count)

/* {"model": path, ...}; `more` is empty or begins with a comma. The caller frees it. */
static inline char *check_config(const char *path, const char *more)
{
    size_t room = 2 * strlen(path) + strlen(more) + 32;
    char *config = (char *)malloc(room);
    size_t at;
    if (config == NULL) abort();
    strcpy(config, "{\"model\": \"");
    at = strlen(config);
    for (; *path != '\0'; path++) {
        if (*path == '"' || *path == '\\') config[at++] = '\\';
        config[at++] = *path;
    }
    snprintf(config + at, room - at, "\"%s}", more);
    return config;
}

/* The model at `path`, prepared with `more` as above; ends the program where that fails. */
static inline llamapen_engine *check_prepare(const char *path, const char *more)
{
    llamapen_engine *engine = NULL;
    llamapen_error *error = NULL;
    char *config = check_config(path, more);
    int32_t status = check_explain(llamapen_prepare(config, strlen(config), &engine, &error), &error);
    free(config);
    REQUIRE(status == LLAMAPEN_STATUS_OK && engine != NULL, "the model is prepared");
    return engine;
}

/* A supervisor with the default configuration, loading. */
static inline llamapen_supervisor *check_start(const llamapen_engine *engine)
{
    llamapen_supervisor *supervisor = NULL;
    llamapen_error *error = NULL;
    int32_t status = check_explain(llamapen_supervisor_start(engine, NULL, 0, &supervisor, &error), &error);
    REQUIRE(status == LLAMAPEN_STATUS_OK && supervisor != NULL, "the supervisor starts");
    return supervisor;
}

static inline void check_wait_ready(const llamapen_supervisor *supervisor)
{
    llamapen_error *error = NULL;
    int32_t status = check_explain(llamapen_supervisor_wait_ready(supervisor, 120000, &error), &error);
    REQUIRE(status == LLAMAPEN_STATUS_OK, "the supervisor is ready");
}

static inline llamapen_request *check_submit(const llamapen_supervisor *supervisor, const char *json)
{
    llamapen_request *request = NULL;
    llamapen_error *error = NULL;
    int32_t status = check_explain(llamapen_submit(supervisor, json, strlen(json), &request, &error), &error);
    REQUIRE(status == LLAMAPEN_STATUS_OK && request != NULL, "the request is accepted");
    return request;
}

/* What a request reported, all of it. */
typedef struct check_events {
    int started, tokens, finished, failed; /* how many of each */
    int ordered;         /* started came first, tokens were counted from 0, nothing came after the end */
    int32_t why;         /* status of the failed event */
    int32_t end;         /* what `next` returned instead of an event */
    char text[8192];     /* all texts, as far as they fit */
} check_events;

/* Takes all events. `limit_ms` is for each of them: a hang becomes a failed check. Any thread may call this. */
static inline void check_drain(const llamapen_request *request, int64_t limit_ms, check_events *seen)
{
    llamapen_event event;
    size_t used = 0;
    memset(seen, 0, sizeof *seen);
    seen->ordered = 1;
    for (;;) {
        memset(&event, 0, sizeof event);
        event.struct_size = sizeof event;
        seen->end = llamapen_request_next(request, limit_ms, &event, NULL);
        if (seen->end != LLAMAPEN_STATUS_EVENT) return;
        if (seen->finished + seen->failed > 0) seen->ordered = 0;
        switch (event.kind) {
        case LLAMAPEN_EVENT_STARTED:
            if (seen->started > 0 || seen->tokens > 0) seen->ordered = 0;
            seen->started++;
            break;
        case LLAMAPEN_EVENT_TOKEN:
            if (seen->started == 0 || event.index != (uint32_t)seen->tokens) seen->ordered = 0;
            seen->tokens++;
            break;
        case LLAMAPEN_EVENT_FINISHED:
            seen->finished++;
            break;
        case LLAMAPEN_EVENT_FAILED:
            seen->failed++;
            seen->why = event.status;
            continue; /* its text is a message */
        default:
            continue;
        }
        if (used + event.text_len < sizeof seen->text) {
            memcpy(seen->text + used, event.text_len > 0 ? event.text : "", event.text_len);
            used += event.text_len;
            seen->text[used] = '\0';
        }
    }
}

/* Entries of a directory: of /proc/self/task the threads, of /proc/self/fd the open files. */
static inline int check_entries(const char *directory)
{
    int count = 0;
    DIR *opened = opendir(directory);
    if (opened == NULL) return -1;
    while (readdir(opened) != NULL) count++;
    closedir(opened);
    return count;
}

static inline void check_sleep_ms(long ms)
{
    struct timespec time;
    time.tv_sec = ms / 1000;
    time.tv_nsec = ms % 1000 * 1000000L;
    nanosleep(&time, NULL);
}

/* Threads of this process, once they are `expected` or after a while: the system lists a thread for a moment longer
 * than joining it takes. */
static inline int check_threads(int expected)
{
    int count = check_entries("/proc/self/task");
    for (int i = 0; i < 200 && count != expected; i++) {
        check_sleep_ms(10);
        count = check_entries("/proc/self/task");
    }
    return count;
}

#endif
