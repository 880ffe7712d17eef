/* Memory given back while nothing runs, as a C host sees it. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

static const char brief[] = "{\"prompt\": \"Once\", \"ignore_eos\": true, \"max_tokens\": 3}";
static const char endless[] = "{\"prompt\": \"Once\", \"ignore_eos\": true}";

static int shows(const llamapen_supervisor *supervisor, const char *part)
{
    char *health = NULL;
    if (llamapen_supervisor_health_json(supervisor, &health, NULL) != LLAMAPEN_STATUS_OK) return 0;
    int found = strstr(health, part) != NULL;
    llamapen_string_free(health);
    return found;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 2048, \"slots\": 1, \"workers\": 1");
    llamapen_supervisor *supervisor = check_start(engine), *idle = NULL;
    llamapen_error *error = NULL;
    check_events seen;
    check_wait_ready(supervisor);

    llamapen_request *running = check_submit(supervisor, endless);
    CHECK(llamapen_supervisor_unload(supervisor, 50, NULL) == LLAMAPEN_STATUS_TIMEOUT, "not while a request runs");
    CHECK(shows(supervisor, "\"state\":\"READY\""), "it stays as it was");
    llamapen_request_cancel(running, NULL);
    CHECK(check_explain(llamapen_supervisor_unload(supervisor, -1, &error), &error) == LLAMAPEN_STATUS_OK, "afterwards");
    CHECK(shows(supervisor, "\"state\":\"UNLOADED\",\"live\":true,\"ready\":false"), "health says so");
    CHECK(check_explain(llamapen_supervisor_wake(supervisor, &error), &error) == LLAMAPEN_STATUS_OK, "it is woken");
    check_wait_ready(supervisor);

    CHECK(llamapen_supervisor_unload(supervisor, -1, NULL) == LLAMAPEN_STATUS_OK, "again");
    llamapen_request *waiting = check_submit(supervisor, brief);
    check_drain(waiting, 120000, &seen);
    CHECK(seen.finished == 1 && seen.tokens == 3, "a request wakes it by itself");

    llamapen_supervisor_stop(supervisor, NULL);
    check_refused(llamapen_supervisor_unload(supervisor, 0, &error), LLAMAPEN_STATUS_POOL_UNAVAILABLE, &error, "stopped",
                  "nothing to unload once it is stopped");
    check_refused(llamapen_supervisor_wake(supervisor, &error), LLAMAPEN_STATUS_POOL_UNAVAILABLE, &error, "stopped",
                  "nothing to wake");
    check_refused(llamapen_supervisor_unload(NULL, 0, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "supervisor",
                  "no supervisor");
    check_refused(llamapen_supervisor_wake(NULL, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "supervisor",
                  "no supervisor");

    static const char config[] = "{\"idle_unload_ms\": 200}";
    REQUIRE(llamapen_supervisor_start(engine, config, sizeof config - 1, &idle, NULL) == LLAMAPEN_STATUS_OK, "with a limit");
    check_wait_ready(idle);
    for (int i = 0; i < 1000 && !shows(idle, "\"state\":\"UNLOADED\""); i++) check_sleep_ms(10);
    CHECK(shows(idle, "\"state\":\"UNLOADED\""), "without requests it unloads by itself");

    llamapen_request_free(running);
    llamapen_request_free(waiting);
    llamapen_supervisor_free(supervisor);
    llamapen_supervisor_free(idle);
    llamapen_engine_free(engine);
    return check_end();
}
