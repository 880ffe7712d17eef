/* A program that llamapen is linked into, and that does not call llamapen_worker_main_if_child: it needs llamapen-worker, and is
 * told so. argv[1]: the model, argv[2]: the library, which has that program beside it. */
#define _DEFAULT_SOURCE

#include "../c/processes.h"

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL LIBRARY\n", argv[0]);
        return 2;
    }
    const char *slash = strrchr(argv[2], '/');
    char worker[4096], config[4200];
    snprintf(worker, sizeof worker, "%.*s/llamapen-worker", (int)(slash - argv[2]), argv[2]);
    snprintf(config, sizeof config, "{\"child\": {\"worker\": \"%s\"}}", worker);
    unsetenv("LLAMAPEN_WORKER");

    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 256, \"isolation\": \"process\"");
    llamapen_supervisor *supervisor = NULL;
    llamapen_error *error = NULL;
    static const char *const ways[] = {"llamapen_worker_main_if_child()", "llamapen-worker", "LLAMAPEN_WORKER"};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        check_refused(llamapen_supervisor_start(engine, NULL, 0, &supervisor, &error), LLAMAPEN_STATUS_UNSUPPORTED, &error,
                      ways[i], ways[i]);
    static const char escalate[] = "{\"taint\": \"escalate_to_process\"}";
    llamapen_engine *threads = check_prepare(argv[1], ", \"n_ctx\": 256");
    check_refused(llamapen_supervisor_start(threads, escalate, sizeof escalate - 1, &supervisor, &error),
                  LLAMAPEN_STATUS_UNSUPPORTED, &error, "escalate_to_process", "nor is there anything to escalate to");
    supervisor = check_start_with(threads, "{}");
    char *health = check_health(supervisor);
    CHECK(strstr(health, "\"taint\":\"stop\",\"isolation\":\"thread\"") != NULL, "threads stop after a memory fault then");
    llamapen_string_free(health);
    answer alone = check_answer(supervisor, 0, 0);
    llamapen_supervisor_free(supervisor);

    char *json = NULL, *model = check_config(argv[1], ", \"isolation\": \"process\"");
    REQUIRE(llamapen_preflight(model, strlen(model), NULL, 0, &json, NULL, NULL) == LLAMAPEN_STATUS_OK, "the preflight");
    CHECK(strstr(json, "{\"name\":\"worker_process\",\"status\":\"fail\"") != NULL, "says so before");
    llamapen_string_free(json);
    free(model);

    supervisor = check_start_with(engine, config);
    answer configured = check_answer(supervisor, check_pid(supervisor), 10);
    CHECK(check_same(&configured, &alone) && configured.restarts == 1, "with a worker by the configuration it goes");
    llamapen_supervisor_free(supervisor);
    setenv("LLAMAPEN_WORKER", worker, 1);
    supervisor = check_start_with(engine, "{}");
    answer by_variable = check_answer(supervisor, check_pid(supervisor), 10);
    CHECK(check_same(&by_variable, &alone) && by_variable.restarts == 1, "and with one by LLAMAPEN_WORKER");
    llamapen_supervisor_free(supervisor);

    llamapen_engine_free(engine);
    llamapen_engine_free(threads);
    return check_end();
}
