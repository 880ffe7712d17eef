/* A chat, streamed: the shortest complete program. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

static const char chat[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"What is the capital of France?\"}],"
    " \"max_tokens\": 32, \"temperature\": 0}";

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 512");
    llamapen_supervisor *supervisor = check_start(engine);
    check_wait_ready(supervisor);
    llamapen_request *request = check_submit(supervisor, chat);

    char answer[4096] = "";
    size_t used = 0;
    int tokens = 0, kind = 0, nul_terminated = 1;
    llamapen_error *error = NULL;
    llamapen_event event;
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    int32_t status;
    while ((status = llamapen_request_next(request, 60000, &event, &error)) == LLAMAPEN_STATUS_EVENT) {
        nul_terminated = nul_terminated && strlen(event.json) == event.json_len;
        if (kind == 0) {
            CHECK(event.kind == LLAMAPEN_EVENT_STARTED, "the first event is STARTED");
            CHECK(strstr(event.json, "\"prompt_tokens\"") != NULL, "STARTED tells the length of the prompt");
        }
        kind = event.kind;
        if (kind == LLAMAPEN_EVENT_TOKEN) tokens++;
        if ((kind == LLAMAPEN_EVENT_TOKEN || kind == LLAMAPEN_EVENT_FINISHED) && used + event.text_len < sizeof answer) {
            memcpy(answer + used, event.text_len > 0 ? event.text : "", event.text_len);
            used += event.text_len;
        }
        if (kind == LLAMAPEN_EVENT_TOKEN && tokens == 1) {
            CHECK(event.index == 0 && event.token >= 0, "a token has its index and its id");
            CHECK(event.logits == NULL && event.logits_len == 0, "no logits unless asked for");
        }
    }
    check_explain(status, &error);
    printf("# %.*s\n", (int)strcspn(answer, "\n"), answer);
    CHECK(status == LLAMAPEN_STATUS_END, "the events end");
    CHECK(kind == LLAMAPEN_EVENT_FINISHED, "the last event is FINISHED");
    CHECK(nul_terminated, "the JSON of every event is NUL-terminated");
    CHECK(tokens > 0, "there are tokens");
    CHECK(strstr(answer, "Paris") != NULL, "the answer is right");
    CHECK(llamapen_request_next(request, -1, &event, &error) == LLAMAPEN_STATUS_END, "END stays, and does not wait");

    llamapen_request_free(request);
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
