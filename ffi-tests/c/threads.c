/* Many threads at once on one supervisor. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>

#include "check.h"

enum { THREADS = 8, ROUNDS = 3 };

static const char endless[] = "{\"prompt\": \"Once upon a time\", \"ignore_eos\": true}";

typedef struct client {
    const llamapen_supervisor *supervisor;
    int number, good;
} client;

static void *submit_and_drain(void *argument)
{
    client *self = (client *)argument;
    check_events seen;
    for (int round = 0; round < ROUNDS; round++) {
        char json[128];
        llamapen_request *request = NULL;
        /* Lengths differ, so that requests which get each other's events are noticed. */
        int wanted = 1 + self->number + round;
        snprintf(json, sizeof json, "{\"prompt\": \"The number %d is\", \"max_tokens\": %d, \"ignore_eos\": true}",
                 self->number, wanted);
        if (llamapen_submit(self->supervisor, json, strlen(json), &request, NULL) != LLAMAPEN_STATUS_OK) continue;
        check_drain(request, 120000, &seen);
        llamapen_request_free(request);
        if (seen.ordered && seen.finished == 1 && seen.failed == 0 && seen.tokens == wanted) self->good++;
    }
    return NULL;
}

static void many_clients(const llamapen_supervisor *supervisor)
{
    pthread_t threads[THREADS];
    client clients[THREADS];
    int good = 0;
    for (int i = 0; i < THREADS; i++) {
        clients[i].supervisor = supervisor;
        clients[i].number = i;
        clients[i].good = 0;
        REQUIRE(pthread_create(&threads[i], NULL, submit_and_drain, &clients[i]) == 0, "a client starts");
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        good += clients[i].good;
    }
    printf("# %d of %d\n", good, THREADS * ROUNDS);
    CHECK(good == THREADS * ROUNDS, "every request of every client gets its own events");
}

typedef struct consumer {
    const llamapen_request *request;
    check_events seen;
} consumer;

static void *drain(void *argument)
{
    consumer *self = (consumer *)argument;
    check_drain(self->request, 120000, &self->seen);
    return NULL;
}

/* While a thread waits for a request that is queued behind another, this one is told that it is busy. */
static void one_consumer_at_a_time(const llamapen_supervisor *supervisor)
{
    /* With as many endless requests as there are slots, the next one has no event to give. */
    llamapen_request *first = check_submit(supervisor, endless), *second = check_submit(supervisor, endless);
    llamapen_request *waiting = check_submit(supervisor, endless);
    llamapen_error *error = NULL;
    llamapen_event event;
    consumer other;
    pthread_t thread;
    int32_t status = LLAMAPEN_STATUS_TIMEOUT;
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    other.request = waiting;
    CHECK(llamapen_request_next(waiting, 100, &event, NULL) == LLAMAPEN_STATUS_TIMEOUT, "a queued request has no event");
    REQUIRE(pthread_create(&thread, NULL, drain, &other) == 0, "another thread waits");
    for (int i = 0; i < 500 && status == LLAMAPEN_STATUS_TIMEOUT; i++) {
        /* A short rest lets the other thread in, which then stays in. */
        check_sleep_ms(10);
        status = llamapen_request_next(waiting, 0, &event, &error);
    }
    CHECK(status == LLAMAPEN_STATUS_BUSY, "a second consumer is refused with BUSY");
    CHECK(error != NULL && llamapen_error_status(error) == LLAMAPEN_STATUS_BUSY && llamapen_error_retriable(error),
          "and may try again");
    llamapen_error_free(error);
    CHECK(llamapen_request_cancel(waiting, NULL) == LLAMAPEN_STATUS_OK, "cancel while another thread waits");
    pthread_join(thread, NULL);
    CHECK(other.seen.failed == 1 && other.seen.why == LLAMAPEN_STATUS_CANCELLED && other.seen.end == LLAMAPEN_STATUS_END,
          "which ends its wait");
    llamapen_request_free(waiting);
    llamapen_request_free(second);
    llamapen_request_free(first);
}

static void *free_request(void *argument)
{
    llamapen_request_free((llamapen_request *)argument);
    return NULL;
}

static void freed_elsewhere(const llamapen_supervisor *supervisor)
{
    pthread_t thread;
    llamapen_request *request = check_submit(supervisor, endless);
    REQUIRE(pthread_create(&thread, NULL, free_request, request) == 0, "another thread frees");
    pthread_join(thread, NULL);
    /* An endless request that was not cancelled would hold a slot until the context is full. */
    char *health = NULL;
    int idle = 0;
    for (int i = 0; i < 1000 && !idle; i++) {
        check_sleep_ms(10);
        if (llamapen_supervisor_health_json(supervisor, &health, NULL) != LLAMAPEN_STATUS_OK) break;
        idle = strstr(health, "\"active\":0") != NULL && strstr(health, "\"queue_depth\":0") != NULL;
        llamapen_string_free(health);
    }
    CHECK(idle, "freeing in another thread cancels");
}

typedef struct submitter {
    const llamapen_supervisor *supervisor;
    int strange; /* what should not happen */
    int refused;
} submitter;

static void *submit_until_refused(void *argument)
{
    submitter *self = (submitter *)argument;
    while (self->refused == 0 && self->strange == 0) {
        llamapen_request *request = NULL;
        check_events seen;
        int32_t status = llamapen_submit(self->supervisor, endless, sizeof endless - 1, &request, NULL);
        if (status == LLAMAPEN_STATUS_OK) {
            check_drain(request, 120000, &seen);
            if (seen.failed != 1 || seen.why != LLAMAPEN_STATUS_DRAINING || seen.end != LLAMAPEN_STATUS_END)
                self->strange = 1;
            llamapen_request_free(request);
        } else if (status == LLAMAPEN_STATUS_POOL_UNAVAILABLE) {
            self->refused = 1;
        } else {
            self->strange = status;
        }
    }
    return NULL;
}

static void *stop(void *argument)
{
    llamapen_supervisor_stop((const llamapen_supervisor *)argument, NULL);
    return NULL;
}

static void stop_under_load(llamapen_supervisor *supervisor)
{
    pthread_t threads[THREADS], stoppers[2];
    submitter submitters[THREADS];
    int strange = 0, refused = 0;
    for (int i = 0; i < THREADS; i++) {
        submitters[i].supervisor = supervisor;
        submitters[i].strange = submitters[i].refused = 0;
        REQUIRE(pthread_create(&threads[i], NULL, submit_until_refused, &submitters[i]) == 0, "a client starts");
    }
    check_sleep_ms(200);
    for (int i = 0; i < 2; i++)
        REQUIRE(pthread_create(&stoppers[i], NULL, stop, supervisor) == 0, "a thread stops the supervisor");
    for (int i = 0; i < 2; i++) pthread_join(stoppers[i], NULL);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        if (submitters[i].strange != 0) strange = submitters[i].strange;
        refused += submitters[i].refused;
    }
    printf("# strange: %d, refused: %d\n", strange, refused);
    CHECK(strange == 0 && refused == THREADS, "stop ends what runs with DRAINING and refuses what comes");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    int before = check_entries("/proc/self/task");
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 2048, \"slots\": 2");
    llamapen_supervisor *supervisor = check_start(engine);
    /* Not waiting for readiness: requests are queued while the model loads. */
    many_clients(supervisor);
    one_consumer_at_a_time(supervisor);
    freed_elsewhere(supervisor);
    stop_under_load(supervisor);
    CHECK(check_threads(before) == before, "no thread is left after stop");
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
