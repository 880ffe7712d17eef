/* Another engine in the place of the one that runs, as a C host sees it. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

static const char brief[] = "{\"prompt\": \"Once\", \"ignore_eos\": true, \"max_tokens\": 3}";

static int shows(const llamapen_supervisor *supervisor, const char *part)
{
    char *record = NULL;
    REQUIRE(llamapen_supervisor_handoff_json(supervisor, &record, NULL) == LLAMAPEN_STATUS_OK && record != NULL, "a record");
    int found = strstr(record, part) != NULL;
    llamapen_string_free(record);
    return found;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *old = check_prepare(argv[1], ", \"n_ctx\": 2048, \"slots\": 1, \"workers\": 1");
    llamapen_engine *new_one = check_prepare(argv[1], ", \"n_ctx\": 512, \"slots\": 2, \"workers\": 1");
    llamapen_supervisor *supervisor = check_start(old);
    llamapen_lease *lease = NULL;
    llamapen_request *request = NULL;
    llamapen_error *error = NULL;
    char *json = NULL;
    check_events seen;
    check_wait_ready(supervisor);
    REQUIRE(llamapen_lease_acquire(supervisor, &lease, NULL) == LLAMAPEN_STATUS_OK, "a lease");

    REQUIRE(llamapen_supervisor_reload(supervisor, old, -1, &json, NULL) == LLAMAPEN_STATUS_OK, "the same again");
    CHECK(strstr(json, "\"changed\":false") != NULL, "changes nothing");
    llamapen_string_free(json);

    check_refused(llamapen_supervisor_reload(supervisor, new_one, 0, NULL, &error), LLAMAPEN_STATUS_POOL_UNREADY, &error,
                  "the old engine goes on as before", "no time for the new one");
    CHECK(shows(supervisor, "\"slots\":1,"), "the old one runs");
    request = check_submit(supervisor, brief);
    check_drain(request, 120000, &seen);
    CHECK(seen.finished == 1 && seen.tokens == 3, "and answers");
    llamapen_request_free(request);

    json = CHECK_STALE(char);
    int32_t status = llamapen_supervisor_reload(supervisor, new_one, 120000, &json, &error);
    REQUIRE(check_explain(status, &error) == LLAMAPEN_STATUS_OK, "a reload");
    CHECK(strstr(json, "{\"changed\":true,\"beside\":true,\"duration_ms\":") != NULL, json);
    CHECK(strstr(json, "\"requests_failed\":0}") != NULL, "nothing was lost");
    llamapen_string_free(json);
    CHECK(shows(supervisor, "\"slots\":2,"), "the new one runs");
    REQUIRE(llamapen_lease_submit(lease, brief, sizeof brief - 1, &request, NULL) == LLAMAPEN_STATUS_OK, "the lease has stayed");
    check_drain(request, 120000, &seen);
    CHECK(seen.finished == 1 && seen.tokens == 3, "and is served");
    REQUIRE(llamapen_supervisor_health_json(supervisor, &json, NULL) == LLAMAPEN_STATUS_OK, "health");
    CHECK(strstr(json, "\"state\":\"READY\"") != NULL && strstr(json, "\"reloading\":false") != NULL, "says so");
    llamapen_string_free(json);

    llamapen_supervisor_stop(supervisor, NULL);
    check_refused(llamapen_supervisor_reload(supervisor, old, -1, &json, &error), LLAMAPEN_STATUS_POOL_UNAVAILABLE, &error,
                  "stopped", "no reload once it is stopped");
    CHECK(json == NULL, "and no report");
    check_refused(llamapen_supervisor_reload(NULL, old, -1, NULL, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "supervisor",
                  "no supervisor");
    check_refused(llamapen_supervisor_reload(supervisor, NULL, -1, NULL, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error,
                  "engine", "no engine");

    llamapen_request_free(request);
    llamapen_lease_free(lease);
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(old);
    llamapen_engine_free(new_one);
    return check_end();
}
