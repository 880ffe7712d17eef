/* The queue as a C host sees it: priorities, and what gives way when it is full. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

static const char endless[] = "{\"prompt\": \"Once\", \"ignore_eos\": true}";
static const char batch[] = "{\"prompt\": \"Once\", \"max_tokens\": 1, \"priority\": \"batch\"}";
static const char interactive[] = "{\"prompt\": \"Once\", \"max_tokens\": 1, \"priority\": \"interactive\"}";

static void submit_refuses(const llamapen_supervisor *supervisor, const char *json, int32_t status, const char *policy)
{
    llamapen_request *request = NULL;
    llamapen_error *error = NULL;
    CHECK(llamapen_submit(supervisor, json, strlen(json), &request, &error) == status && request == NULL, json);
    CHECK(strcmp(llamapen_error_policy(error), policy) == 0, "the error names the rule");
    llamapen_error_free(error);
}

int main(int argc, char **argv)
{
    static const char config[] = "{\"queue_capacity\": 1, \"queue_full\": \"drop_oldest_batch\"}";
    static const char unknown[] = "{\"queue_full\": \"drop_newest\"}";
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_supervisor *supervisor = NULL;
    llamapen_error *error = NULL;
    check_events seen;
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 2048, \"slots\": 1, \"workers\": 1");
    check_refused(llamapen_supervisor_start(engine, unknown, sizeof unknown - 1, &supervisor, &error),
                  LLAMAPEN_STATUS_INVALID_PARAMS, &error, "drop_newest", "an unknown policy is named");
    int32_t status = llamapen_supervisor_start(engine, config, sizeof config - 1, &supervisor, &error);
    REQUIRE(check_explain(status, &error) == LLAMAPEN_STATUS_OK, "the supervisor starts");
    check_wait_ready(supervisor);

    llamapen_request *running = check_submit(supervisor, endless);
    llamapen_event event;
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    REQUIRE(llamapen_request_next(running, 120000, &event, NULL) == LLAMAPEN_STATUS_EVENT, "the slot is taken");
    llamapen_request *dropped = check_submit(supervisor, batch);
    char *health = NULL;
    REQUIRE(llamapen_supervisor_health_json(supervisor, &health, &error) == LLAMAPEN_STATUS_OK, "health");
    CHECK(strstr(health, "\"queue_depth_by_priority\":{\"interactive\":0,\"batch\":1}") != NULL, "one of batch waits");
    llamapen_string_free(health);
    llamapen_request *waiting = check_submit(supervisor, interactive);
    check_drain(dropped, 120000, &seen);
    CHECK(seen.failed == 1 && seen.why == LLAMAPEN_STATUS_QUEUE_FULL_DROP_LRU && seen.end == LLAMAPEN_STATUS_END,
          "the batch request gave way, once");
    submit_refuses(supervisor, batch, LLAMAPEN_STATUS_QUEUE_FULL, "queue");
    submit_refuses(supervisor, "{\"prompt\": \"a\", \"priority\": \"high\"}", LLAMAPEN_STATUS_INVALID_PARAMS, "");
    CHECK(strcmp(llamapen_error_policy(NULL), "") == 0, "no error, no rule");
    llamapen_request_cancel(running, NULL);
    check_drain(waiting, 120000, &seen);
    CHECK(seen.finished == 1, "the one that waited is run");

    llamapen_request_free(dropped);
    llamapen_request_free(waiting);
    llamapen_request_free(running);
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
