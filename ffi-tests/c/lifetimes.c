/* Objects freed in any order and in any state, and nothing left behind. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

enum state { QUEUED, STREAMING, ENDED, STATES };
static const char *const state_names[] = {"queued", "streaming", "ended"};
static const char endless[] = "{\"prompt\": \"Once upon a time\", \"ignore_eos\": true}";
static const char brief[] = "{\"prompt\": \"Once upon a time\", \"max_tokens\": 2, \"ignore_eos\": true}";

static int32_t take(const llamapen_request *request, int64_t limit_ms, int32_t *kind)
{
    llamapen_event event;
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    int32_t status = llamapen_request_next(request, limit_ms, &event, NULL);
    *kind = event.kind;
    return status;
}

/* A request in the wanted state. QUEUED: the model is still loading. */
static llamapen_request *request_in(enum state state, const llamapen_supervisor *supervisor)
{
    llamapen_request *request = check_submit(supervisor, state == ENDED ? brief : endless);
    int32_t kind = 0;
    check_events seen;
    if (state == STREAMING) {
        while (kind != LLAMAPEN_EVENT_TOKEN && take(request, 120000, &kind) == LLAMAPEN_STATUS_EVENT) continue;
        REQUIRE(kind == LLAMAPEN_EVENT_TOKEN, "it streams");
    } else if (state == ENDED) {
        check_drain(request, 120000, &seen);
        REQUIRE(seen.finished == 1 && seen.end == LLAMAPEN_STATUS_END, "it ended");
    }
    return request;
}

static void free_in_order(const char *model, const char *order, enum state state)
{
    char what[64];
    int threads = check_entries("/proc/self/task");
    llamapen_engine *engine = check_prepare(model, ", \"n_ctx\": 512");
    llamapen_supervisor *supervisor = check_start(engine);
    llamapen_request *request = request_in(state, supervisor);
    for (const char *next = order; *next != '\0'; next++) {
        switch (*next) {
        case 'e':
            llamapen_engine_free(engine);
            break;
        case 's':
            llamapen_supervisor_free(supervisor);
            break;
        default:
            llamapen_request_free(request);
        }
    }
    snprintf(what, sizeof what, "freed in order %s while %s: no thread is left", order, state_names[state]);
    CHECK(check_threads(threads) == threads, what);
}

/* A request that outlives its supervisor still tells how it ended. */
static void request_outlives(const char *model)
{
    llamapen_engine *engine = check_prepare(model, ", \"n_ctx\": 512");
    llamapen_supervisor *supervisor = check_start(engine);
    llamapen_request *request = request_in(STREAMING, supervisor);
    llamapen_error *error = NULL;
    check_events seen;
    llamapen_event event;
    llamapen_engine_free(engine);
    llamapen_supervisor_free(supervisor);
    /* Events that were made before may still come; their order was checked elsewhere. */
    check_drain(request, 10000, &seen);
    CHECK(seen.failed == 1 && seen.finished == 0 && seen.why == LLAMAPEN_STATUS_DRAINING, "it failed with DRAINING");
    CHECK(seen.end == LLAMAPEN_STATUS_END, "and then ended");
    CHECK(llamapen_request_cancel(request, &error) == LLAMAPEN_STATUS_OK && error == NULL, "cancel after the end is fine");
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    for (int i = 0; i < 3; i++)
        CHECK(llamapen_request_next(request, -1, &event, NULL) == LLAMAPEN_STATUS_END, "END for ever");
    llamapen_request_free(request);
}

/* The engine's JSON makes an equal engine, and both are independent. */
static void engine_from_json(const char *model)
{
    llamapen_engine *first = check_prepare(model, ", \"n_ctx\": 512"), *second = NULL;
    llamapen_error *error = NULL;
    char *json = NULL, *again = NULL;
    REQUIRE(llamapen_engine_json(first, &json, &error) == LLAMAPEN_STATUS_OK, "the engine as JSON");
    llamapen_engine_free(first);
    int32_t status = check_explain(llamapen_engine_from_json(json, strlen(json), &second, &error), &error);
    REQUIRE(status == LLAMAPEN_STATUS_OK, "the engine from JSON");
    REQUIRE(llamapen_engine_json(second, &again, &error) == LLAMAPEN_STATUS_OK, "and as JSON again");
    CHECK(strcmp(json, again) == 0, "the bytes are equal");
    llamapen_string_free(json);
    llamapen_string_free(again);
    llamapen_supervisor *supervisor = check_start(second);
    llamapen_engine_free(second);
    check_wait_ready(supervisor);
    llamapen_supervisor_free(supervisor);
}

static void nothing_is_left(const char *model)
{
    int files = 0;
    const int threads = check_entries("/proc/self/task");
    for (int round = 0; round < 3; round++) {
        llamapen_engine *engine = check_prepare(model, ", \"n_ctx\": 512");
        llamapen_supervisor *supervisor = check_start(engine);
        llamapen_request_free(request_in(STREAMING, supervisor));
        CHECK(llamapen_supervisor_stop(supervisor, NULL) == LLAMAPEN_STATUS_OK, "stop");
        CHECK(check_threads(threads) == threads, "no thread is left after stop");
        /* The first use may leave open what is kept for the next one; the second must leave no more. */
        if (round > 0) CHECK(check_entries("/proc/self/fd") == files, "no file is left open after stop");
        files = check_entries("/proc/self/fd");
        llamapen_supervisor_free(supervisor);
        llamapen_engine_free(engine);
    }
}

int main(int argc, char **argv)
{
    static const char *const orders[] = {"esr", "ers", "ser", "sre", "res", "rse"};
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    for (int state = 0; state < STATES; state++)
        for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) free_in_order(argv[1], orders[i], (enum state)state);
    request_outlives(argv[1]);
    engine_from_json(argv[1]);
    nothing_is_left(argv[1]);
    return check_end();
}
