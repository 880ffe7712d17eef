/* Leases and draining, as a C host sees them. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>

#include "check.h"

static const char endless[] = "{\"prompt\": \"Once\", \"ignore_eos\": true}";
static const char brief[] = "{\"prompt\": \"Once\", \"ignore_eos\": true, \"max_tokens\": 3}";

static int shows(const llamapen_supervisor *supervisor, const char *part)
{
    char *health = NULL;
    REQUIRE(llamapen_supervisor_health_json(supervisor, &health, NULL) == LLAMAPEN_STATUS_OK, "health");
    int found = strstr(health, part) != NULL;
    llamapen_string_free(health);
    return found;
}

static void *drain(void *supervisor)
{
    char *json = NULL;
    int32_t status = llamapen_supervisor_drain((const llamapen_supervisor *)supervisor, 120000, &json, NULL);
    return status == LLAMAPEN_STATUS_OK ? json : NULL;
}

static void refused_while_draining(const llamapen_supervisor *supervisor)
{
    llamapen_lease *lease = CHECK_STALE(llamapen_lease);
    llamapen_request *request = NULL;
    llamapen_error *error = NULL;
    CHECK(llamapen_submit(supervisor, brief, sizeof brief - 1, &request, &error) == LLAMAPEN_STATUS_DRAINING,
          "no request is taken");
    CHECK(llamapen_error_retriable(error) == 1 && strcmp(llamapen_error_policy(error), "drain") == 0,
          "the refusal says by which rule, and that others may take it");
    llamapen_error_free(error);
    check_refused(llamapen_lease_acquire(supervisor, &lease, &error), LLAMAPEN_STATUS_DRAINING, &error, "drains",
                  "no lease is given");
    CHECK(lease == NULL, "none at all");
}

static void in_order(const llamapen_engine *engine)
{
    llamapen_supervisor *supervisor = check_start(engine);
    llamapen_lease *lease = NULL;
    llamapen_request *request = NULL;
    check_events seen;
    pthread_t thread;
    void *report = NULL;
    check_wait_ready(supervisor);
    REQUIRE(llamapen_lease_acquire(supervisor, &lease, NULL) == LLAMAPEN_STATUS_OK && lease != NULL, "a lease");
    CHECK(shows(supervisor, "\"leases\":1"), "health counts it");
    REQUIRE(pthread_create(&thread, NULL, drain, supervisor) == 0, "a thread drains");
    for (int i = 0; i < 1000 && !shows(supervisor, "\"state\":\"DRAINING\""); i++) check_sleep_ms(10);
    CHECK(shows(supervisor, "\"state\":\"DRAINING\""), "health says so");
    refused_while_draining(supervisor);
    REQUIRE(llamapen_lease_submit(lease, brief, sizeof brief - 1, &request, NULL) == LLAMAPEN_STATUS_OK,
            "who has a lease goes on");
    check_drain(request, 120000, &seen);
    CHECK(seen.finished == 1 && seen.tokens == 3, "to the end");
    llamapen_lease_free(lease);
    pthread_join(thread, &report);
    REQUIRE(report != NULL, "it is drained");
    CHECK(strstr((char *)report, "{\"forced\":false,\"duration_ms\":") != NULL, (char *)report);
    CHECK(strstr((char *)report, "\"leases_left\":0,\"requests_failed\":0}") != NULL, "nothing was left");
    llamapen_string_free((char *)report);
    CHECK(shows(supervisor, "\"state\":\"STOPPED\""), "it has stopped");
    llamapen_request_free(request);
    llamapen_supervisor_free(supervisor);
}

static void forced(const llamapen_engine *engine)
{
    llamapen_supervisor *supervisor = check_start(engine);
    llamapen_lease *lease = NULL, *none = NULL;
    llamapen_error *error = NULL;
    char *json = NULL;
    check_events seen;
    llamapen_request *running = check_submit(supervisor, endless);
    REQUIRE(llamapen_lease_acquire(supervisor, &lease, NULL) == LLAMAPEN_STATUS_OK, "a lease before it is ready");
    REQUIRE(llamapen_supervisor_drain(supervisor, 300, &json, NULL) == LLAMAPEN_STATUS_OK, "a drain with a deadline");
    CHECK(strstr(json, "\"forced\":true") != NULL && strstr(json, "\"leases_left\":1,\"requests_failed\":1}") != NULL, json);
    llamapen_string_free(json);
    check_drain(running, 120000, &seen);
    CHECK(seen.failed == 1 && seen.why == LLAMAPEN_STATUS_DRAINING && seen.end == LLAMAPEN_STATUS_END, "it ended, once");
    CHECK(llamapen_supervisor_drain(supervisor, -1, NULL, NULL) == LLAMAPEN_STATUS_OK, "again, without the report");
    check_refused(llamapen_lease_acquire(supervisor, &none, &error), LLAMAPEN_STATUS_POOL_UNAVAILABLE, &error, "stopped",
                  "no lease afterwards");
    check_refused(llamapen_supervisor_drain(NULL, 0, &json, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "supervisor",
                  "no supervisor");
    llamapen_request_free(running);
    check_refused(llamapen_lease_submit(NULL, brief, sizeof brief - 1, &running, &error), LLAMAPEN_STATUS_INVALID_PARAMS,
                  &error, "lease", "no lease");
    llamapen_supervisor_free(supervisor);
    llamapen_lease_free(lease); /* It may outlive its supervisor. */
    llamapen_lease_free(NULL);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 2048, \"slots\": 1, \"workers\": 1");
    in_order(engine);
    forced(engine);
    llamapen_engine_free(engine);
    return check_end();
}
