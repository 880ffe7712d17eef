/* Limits in time, metrics and records, as a C host sees them. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

static const char endless[] = "{\"prompt\": \"Once\", \"ignore_eos\": true}";

/* Ends at a limit, once. The caller frees it. */
static llamapen_request *check_timeout(const llamapen_supervisor *supervisor, const char *json, int32_t why, const char *what)
{
    check_events seen;
    llamapen_request *request = check_submit(supervisor, json);
    check_drain(request, 120000, &seen);
    CHECK(seen.failed == 1 && seen.finished == 0 && seen.why == why && seen.end == LLAMAPEN_STATUS_END, what);
    return request;
}

static void check_record(const llamapen_request *request, const char *part)
{
    char *json = NULL;
    llamapen_error *error = NULL;
    REQUIRE(llamapen_request_record_json(request, &json, &error) == LLAMAPEN_STATUS_OK && json != NULL, "its record");
    CHECK(strstr(json, part) != NULL, part);
    CHECK(strstr(json, "\"engine_digest\":\"sha256:") != NULL, "it says what ran");
    CHECK(strstr(json, "Once") == NULL, "it does not say what was asked");
    llamapen_string_free(json);
}

static void check_metrics(const llamapen_supervisor *supervisor)
{
    char *json = NULL, *text = NULL;
    llamapen_error *error = NULL;
    REQUIRE(llamapen_supervisor_metrics_json(supervisor, &json, &error) == LLAMAPEN_STATUS_OK, "metrics as JSON");
    CHECK(strstr(json, "\"accepted_total\":3,") != NULL, "three requests were accepted");
    CHECK(strstr(json, "\"DECODE_TIMEOUT\":1") != NULL && strstr(json, "\"DEADLINE_UNMET\":1") != NULL, "two failed");
    CHECK(strstr(json, "\"cancelled_total\":1") != NULL, "and one was cancelled");
    REQUIRE(llamapen_supervisor_metrics_text(supervisor, &text, &error) == LLAMAPEN_STATUS_OK, "metrics for Prometheus");
    CHECK(strstr(text, "# TYPE llamapen_latency_first_token_ms histogram\n") != NULL, "with types");
    CHECK(text[strlen(text) - 1] == '\n', "with whole lines");
    llamapen_string_free(json);
    llamapen_string_free(text);
}

static void check_nulls(const llamapen_supervisor *supervisor)
{
    llamapen_error *error = NULL;
    char *text = CHECK_STALE(char);
    check_refused(llamapen_supervisor_metrics_json(NULL, &text, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error,
                  "supervisor", "no supervisor");
    CHECK(text == NULL, "and no text");
    check_refused(llamapen_supervisor_metrics_text(supervisor, NULL, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error,
                  "text", "no place for the text");
    check_refused(llamapen_request_record_json(NULL, &text, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "request",
                  "no request");
    const char *bad = "{\"prompt\": \"a\", \"timeout_ms\": 0}";
    llamapen_request *request = NULL;
    check_refused(llamapen_submit(supervisor, bad, strlen(bad), &request, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error,
                  "timeout_ms", "a limit of nothing");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 2048, \"slots\": 1, \"workers\": 1");
    llamapen_supervisor *supervisor = check_start(engine);
    check_wait_ready(supervisor);

    llamapen_request *late = check_timeout(supervisor, "{\"prompt\": \"Once\", \"ignore_eos\": true, \"timeout_ms\": 400}",
                                           LLAMAPEN_STATUS_DECODE_TIMEOUT, "a running request ends at its limit");
    check_record(late, "\"status\":\"DECODE_TIMEOUT\"");

    llamapen_request *running = check_submit(supervisor, endless);
    llamapen_event event;
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    REQUIRE(llamapen_request_next(running, 120000, &event, NULL) == LLAMAPEN_STATUS_EVENT, "the slot is taken");
    llamapen_request *waiting =
        check_timeout(supervisor, "{\"prompt\": \"Once\", \"first_token_timeout_ms\": 50}",
                      LLAMAPEN_STATUS_DEADLINE_UNMET, "a waiting request ends at its limit");
    check_record(waiting, "\"worker\":null");
    char *json = CHECK_STALE(char);
    CHECK(llamapen_request_record_json(running, &json, NULL) == LLAMAPEN_STATUS_TIMEOUT && json == NULL,
          "there is no record of what still runs");
    llamapen_request_cancel(running, NULL);
    check_record(running, "\"status\":\"CANCELLED\"");
    check_metrics(supervisor);
    check_nulls(supervisor);

    llamapen_request_free(late);
    llamapen_request_free(waiting);
    llamapen_request_free(running);
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
