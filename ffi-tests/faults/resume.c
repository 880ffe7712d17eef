/* A stream goes on in the next worker when its own dies. Needs a library with fault injection. argv[1]: the model. */
#include "../c/check.h"

enum { TOKENS = 24 };
#define REQUEST "{\"prompt\": \"One, two,\", \"max_tokens\": 24, \"ignore_eos\": true, \"temperature\": 0"

typedef struct answer {
    int32_t tokens[TOKENS];
    uint32_t n;
    int starts, restarts, ends, in_order, kind, status;
    uint32_t at_restart;
} answer;

static answer read_all(llamapen_request *request)
{
    answer got;
    llamapen_event event;
    llamapen_error *error = NULL;
    memset(&got, 0, sizeof got);
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    got.in_order = 1;
    while (llamapen_request_next(request, 120000, &event, &error) == LLAMAPEN_STATUS_EVENT) {
        if (got.ends > 0) got.in_order = 0;
        got.kind = (int)event.kind;
        switch (event.kind) {
        case LLAMAPEN_EVENT_STARTED: got.starts++; break;
        case LLAMAPEN_EVENT_RESTARTED:
            got.restarts++;
            got.at_restart = got.n;
            if (strstr(event.json, "\"tokens_kept\":") == NULL || strstr(event.json, "injected abort") == NULL) got.in_order = 0;
            break;
        case LLAMAPEN_EVENT_TOKEN:
            if (event.index != got.n || got.n >= TOKENS) got.in_order = 0;
            else got.tokens[got.n++] = event.token;
            break;
        default:
            got.ends++;
            got.status = event.status;
        }
    }
    llamapen_request_free(request);
    return got;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 256, \"deterministic\": true");
    llamapen_supervisor *supervisor = check_start(engine);
    check_wait_ready(supervisor);

    answer alone = read_all(check_submit(supervisor, REQUEST "}"));
    CHECK(alone.kind == LLAMAPEN_EVENT_FINISHED && alone.n == TOKENS && alone.restarts == 0, "an answer, undisturbed");
    answer resumed = read_all(check_submit(supervisor, REQUEST ", \"fault\": \"abort\"}"));
    CHECK(resumed.kind == LLAMAPEN_EVENT_FINISHED && resumed.ends == 1, "a stream whose worker dies comes to its end");
    CHECK(resumed.starts == 1 && resumed.restarts == 1 && resumed.in_order, "it started once, was restarted once, all in order");
    CHECK(resumed.at_restart > 0 && resumed.at_restart < TOKENS, "in the middle");
    CHECK(resumed.n == TOKENS && memcmp(resumed.tokens, alone.tokens, sizeof alone.tokens) == 0, "and its tokens are the same");

    answer once = read_all(check_submit(supervisor, REQUEST ", \"fault\": \"abort\", \"max_resumes\": 0}"));
    CHECK(once.kind == LLAMAPEN_EVENT_FAILED && once.status == LLAMAPEN_STATUS_WORKER_RESET, "max_resumes 0: it fails");
    const char *poison = REQUEST ", \"fault\": \"panic_always\"}";
    answer poisoned = read_all(check_submit(supervisor, poison));
    CHECK(poisoned.kind == LLAMAPEN_EVENT_FAILED && poisoned.status == LLAMAPEN_STATUS_POISONED_REQUEST,
          "one that workers die of is found out");
    llamapen_request *refused = NULL;
    llamapen_error *error = NULL;
    int32_t status = llamapen_submit(supervisor, poison, strlen(poison), &refused, &error);
    CHECK(strcmp(llamapen_error_policy(error), "quarantine") == 0 && llamapen_error_retry_after_ms(error) > 0, "by name");
    check_refused(status, LLAMAPEN_STATUS_POISONED_REQUEST, &error, "quarantine_ms", "and is refused from then on");
    CHECK(read_all(check_submit(supervisor, REQUEST "}")).n == TOKENS, "others are served");

    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
