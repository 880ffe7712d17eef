/* Workers that are child processes, by the shared library or in a program that it is linked into. argv[1]: the model. */
#define _DEFAULT_SOURCE

#include "processes.h"

static void check_kill(const llamapen_supervisor *supervisor, const char *model, const answer *alone)
{
    pid_t first = check_pid(supervisor);
    answer killed = check_answer(supervisor, first, 10);
    CHECK(check_same(&killed, alone) && killed.restarts == 1, "a stream whose worker is killed goes on with the same tokens");
    CHECK(check_gone(first), "what was killed is gone, and no zombie");
    CHECK(check_pid(supervisor) != first, "and has a successor");
    CHECK(!check_mapped(model), "the model is not mapped here");
    char *health = check_health(supervisor);
    CHECK(strstr(health, "\"last_crash\":{\"reason\":\"KILLED\"") != NULL, "the health says what it died of");
    CHECK(strstr(health, "\"how\":\"signal 9 (SIGKILL)\"") != NULL, "and what the system says");
    llamapen_string_free(health);
}

static void check_fork(llamapen_supervisor *supervisor, const answer *alone)
{
    pid_t worker = check_pid(supervisor);
    pid_t forked = fork();
    if (forked == 0) {
        char *json = NULL;
        int good = llamapen_supervisor_health_json(supervisor, &json, NULL) == LLAMAPEN_STATUS_FORKED && json == NULL;
        good = good && llamapen_supervisor_stop(supervisor, NULL) == LLAMAPEN_STATUS_FORKED;
        llamapen_supervisor_free(supervisor);
        _exit(good ? 7 : 1);
    }
    int status = 0;
    CHECK(waitpid(forked, &status, 0) == forked && WIFEXITED(status) && WEXITSTATUS(status) == 7,
          "a forked child is told that it is one");
    CHECK(check_pid(supervisor) == worker && check_exists(worker), "and leaves the worker alone");
    answer after = check_answer(supervisor, 0, 0);
    CHECK(check_same(&after, alone) && after.restarts == 0, "which goes on");
}

static void check_sandbox(const llamapen_engine *engine, const answer *alone)
{
    llamapen_supervisor *supervisor = check_start_with(engine, "{\"child\": {\"sandbox\": \"strict\", \"nice\": 2}}");
    answer confined = check_answer(supervisor, 0, 0);
    CHECK(check_same(&confined, alone), "in a sandbox the answer is the same");
    char *health = check_health(supervisor);
    CHECK(strstr(health, "\"seccomp\":{\"on\":") != NULL, "seccomp holds it");
    CHECK(strstr(health, "\"landlock\":{\"on\":") != NULL || strstr(health, "\"landlock\":{\"missing\":") != NULL,
          "and Landlock, where the kernel has it");
    CHECK(strstr(health, "\"no_new_privs\":true,\"dumpable\":false") != NULL, "it gets no rights, and nobody looks into it");
    llamapen_string_free(health);
    llamapen_supervisor_free(supervisor);
}

static void check_refusals(const llamapen_engine *engine, const char *model)
{
    llamapen_supervisor *none = NULL;
    llamapen_error *error = NULL;
    static const char nowhere[] = "{\"child\": {\"worker\": \"/nowhere\"}}";
    check_refused(llamapen_supervisor_start(engine, nowhere, sizeof nowhere - 1, &none, &error), LLAMAPEN_STATUS_INVALID_PARAMS,
                  &error, "/nowhere", "a worker that is not there");
    static const char other[] = "{\"child\": {\"worker\": \"/bin/true\"}}";
    llamapen_supervisor *wrong = NULL;
    REQUIRE(llamapen_supervisor_start(engine, other, sizeof other - 1, &wrong, NULL) == LLAMAPEN_STATUS_OK, "another program");
    check_refused(llamapen_supervisor_wait_ready(wrong, 60000, &error), LLAMAPEN_STATUS_LOAD_FAILED, &error,
                  "loading ", "is no worker");
    llamapen_supervisor_free(wrong);
    static const char unknown[] = "{\"child\": {\"sandbx\": \"strict\"}}";
    check_refused(llamapen_supervisor_start(engine, unknown, sizeof unknown - 1, &none, &error), LLAMAPEN_STATUS_INVALID_PARAMS,
                  &error, "sandbx", "an unknown key");
    char *config = check_config(model, ", \"warm_spare\": true");
    llamapen_engine *threads = NULL;
    check_refused(llamapen_prepare(config, strlen(config), &threads, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error,
                  "isolation", "a spare for threads");
    free(config);
    config = check_config(model, ", \"isolation\": \"process\"");
    char *json = NULL;
    REQUIRE(llamapen_preflight(config, strlen(config), NULL, 0, &json, NULL, NULL) == LLAMAPEN_STATUS_OK, "the preflight");
    CHECK(strstr(json, "{\"name\":\"worker_process\",\"status\":\"pass\"") != NULL, "says how a worker is started");
    llamapen_string_free(json);
    free(config);
}

int main(int argc, char **argv)
{
    llamapen_worker_main_if_child();
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    const char *model = argv[1];
    llamapen_engine *threads = check_prepare(model, ", \"n_ctx\": 256");
    llamapen_engine *engine = check_prepare(model, ", \"n_ctx\": 256, \"isolation\": \"process\"");

    llamapen_supervisor *supervisor = check_start_with(engine, "{\"snapshot_tokens\": 8, \"backoff_initial_ms\": 1}");
    answer alone = check_answer(supervisor, 0, 0);
    CHECK(alone.n == TOKENS && alone.restarts == 0 && alone.kind == LLAMAPEN_EVENT_FINISHED, "a process answers");
    check_kill(supervisor, model, &alone);
    check_fork(supervisor, &alone);
    pid_t last = check_pid(supervisor);
    llamapen_request *running = check_submit(supervisor, "{\"prompt\": \"Once\", \"ignore_eos\": true}");
    REQUIRE(llamapen_supervisor_stop(supervisor, NULL) == LLAMAPEN_STATUS_OK, "stop");
    CHECK(!check_exists(last), "after the stop the process is gone");
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "and there is no other child");
    llamapen_request_free(running);
    llamapen_supervisor_free(supervisor);

    check_sandbox(engine, &alone);
    check_refusals(engine, model);

    supervisor = check_start_with(threads, "{}");
    answer by_threads = check_answer(supervisor, 0, 0);
    CHECK(check_same(&by_threads, &alone), "threads give the same answer");
    CHECK(check_mapped(model), "they map the model, which the check sees");
    llamapen_supervisor_free(supervisor);

    llamapen_engine_free(engine);
    llamapen_engine_free(threads);
    return check_end();
}
