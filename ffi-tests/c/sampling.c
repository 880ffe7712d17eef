/* What a request may ask of its sampling and its end, and where the answers are. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

typedef struct seen {
    char text[1024]; /* of all events */
    char started[1024], token[4096], finished[1024]; /* JSON: the first token's */
} seen;

#define COUNTING "1, 2, 3, 4, 5, 6,"
#define REFRAIN "do re mi fa so, do re mi fa so, do re mi fa so, do re mi"

static void keep(char *place, size_t size, const llamapen_event *event)
{
    if (*place == '\0' && event->json_len < size) memcpy(place, event->json, event->json_len + 1);
}

static seen run(const llamapen_supervisor *supervisor, const char *prompt, const char *more)
{
    char json[512];
    seen all;
    llamapen_event event;
    llamapen_error *error = NULL;
    int32_t status;
    memset(&all, 0, sizeof all);
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    snprintf(json, sizeof json,
             "{\"prompt\": \"%s\", \"temperature\": 0, \"max_tokens\": 16, \"ignore_eos\": true%s}", prompt, more);
    llamapen_request *request = check_submit(supervisor, json);
    while ((status = llamapen_request_next(request, 60000, &event, &error)) == LLAMAPEN_STATUS_EVENT) {
        if (event.kind == LLAMAPEN_EVENT_STARTED) keep(all.started, sizeof all.started, &event);
        if (event.kind == LLAMAPEN_EVENT_TOKEN) keep(all.token, sizeof all.token, &event);
        if (event.kind == LLAMAPEN_EVENT_FINISHED) keep(all.finished, sizeof all.finished, &event);
        size_t used = strlen(all.text);
        if (event.kind != LLAMAPEN_EVENT_FAILED && used + event.text_len < sizeof all.text)
            memcpy(all.text + used, event.text, event.text_len);
    }
    check_explain(status, &error);
    CHECK(status == LLAMAPEN_STATUS_END && all.finished[0] != '\0', more);
    llamapen_request_free(request);
    return all;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 512");
    llamapen_supervisor *supervisor = check_start(engine);
    check_wait_ready(supervisor);

    seen plain = run(supervisor, COUNTING, "");
    printf("# %s\n", plain.text);
    CHECK(strncmp(plain.text, " 7, 8, 9,", 9) == 0, "it counts");
    CHECK(strstr(plain.started, "\"prompt\":null") != NULL, "no echo unless asked for");
    CHECK(strstr(plain.token, "logprobs") == NULL, "no log probabilities unless asked for");
    CHECK(strstr(plain.finished, "\"reason\":\"length\",\"stop_string\":null,\"stop_token\":null") != NULL, "the end says why");

    seen stopped = run(supervisor, COUNTING, ", \"stop\": [\", 9\"]");
    CHECK(strcmp(stopped.text, " 7, 8") == 0, "a stop string cuts exactly");
    CHECK(strstr(stopped.finished, "\"reason\":\"stop_string\",\"stop_string\":\", 9\"") != NULL, "and the end names it");

    seen asked = run(supervisor, COUNTING, ", \"logprobs\": 2, \"echo\": true");
    CHECK(strcmp(asked.text, plain.text) == 0, "reports change nothing");
    CHECK(strstr(asked.started, "\"prompt\":\"1, 2, 3, 4, 5, 6,\"") != NULL, "STARTED has the echo");
    CHECK(strstr(asked.token, "\"logprobs\":{\"logprob\":-") != NULL, "TOKEN has its log probability");
    CHECK(strstr(asked.token, "\"top\":[{\"token\":") != NULL, "and the likeliest tokens");

    seen forced = run(supervisor, COUNTING, ", \"logit_bias\": {\"5\": 1000}, \"stop_tokens\": [5]");
    CHECK(forced.token[0] == '\0' && forced.text[0] == '\0', "a stop token has no event");
    CHECK(strstr(forced.finished, "\"reason\":\"stop_token\"") != NULL && strstr(forced.finished, "\"stop_token\":5") != NULL,
          "the end names the stop token");

    CHECK(strstr(plain.finished, "\"draft_tokens\":0,\"draft_accepted\":0") != NULL, "nothing is guessed unless asked for");
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);

    engine = check_prepare(argv[1], ", \"n_ctx\": 24");
    supervisor = check_start(engine);
    seen shifted = run(supervisor, COUNTING, ", \"context_shift\": true");
    CHECK(strstr(shifted.finished, "\"completion_tokens\":16") != NULL, "a full context goes on where asked for");
    CHECK(strstr(shifted.finished, "\"shifted_tokens\":12") != NULL, "and the end says what was taken out of it");
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);

    engine = check_prepare(argv[1], ", \"n_ctx\": 512, \"draft_max\": 7");
    supervisor = check_start(engine);
    check_wait_ready(supervisor);
    plain = run(supervisor, REFRAIN, ", \"draft_max\": 0");
    seen guessed = run(supervisor, REFRAIN, "");
    printf("# %s %s\n", guessed.text, guessed.finished);
    CHECK(strcmp(guessed.text, plain.text) == 0, "guesses change nothing");
    CHECK(strstr(guessed.finished, "\"draft_accepted\":") != NULL && strstr(guessed.finished, "\"draft_accepted\":0") == NULL,
          "some came true");
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
