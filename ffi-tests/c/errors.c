/* Every way to be refused: the status, the message, and that nothing is made. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "check.h"

static void names_and_versions(void)
{
    char *json = CHECK_STALE(char);
    llamapen_error *error = CHECK_STALE(llamapen_error);
    CHECK(llamapen_abi_version() == LLAMAPEN_ABI_VERSION, "header and library have the same ABI version");
    CHECK(strchr(llamapen_version(), '.') != NULL, "the version is a version");
    CHECK(strcmp(llamapen_status_name(LLAMAPEN_STATUS_OK), "OK") == 0, "status 0 has its name");
    CHECK(strcmp(llamapen_status_name(LLAMAPEN_STATUS_CONTEXT_OVERFLOW), "CONTEXT_OVERFLOW") == 0, "status 203 has its name");
    CHECK(strcmp(llamapen_status_name(-7), "UNKNOWN") == 0, "a number that is no status is UNKNOWN");
    CHECK(llamapen_build_info_json(&json, &error) == LLAMAPEN_STATUS_OK && error == NULL, "success clears the error");
    CHECK(json != CHECK_STALE(char) && strstr(json, llamapen_version()) != NULL, "the build info holds the version");
    CHECK(strstr(json, "\"cpu_levels\":[") != NULL, "and the levels of CPU kernels");
    llamapen_string_free(json);
}

static void freeing_nothing(void)
{
    llamapen_string_free(NULL);
    llamapen_error_free(NULL);
    llamapen_request_free(NULL);
    llamapen_supervisor_free(NULL);
    llamapen_engine_free(NULL);
    CHECK(1, "every free takes NULL");
}

static void null_arguments(void)
{
    const int32_t invalid = LLAMAPEN_STATUS_INVALID_PARAMS;
    llamapen_error *error = NULL;
    llamapen_engine *engine = CHECK_STALE(llamapen_engine);
    llamapen_supervisor *supervisor = CHECK_STALE(llamapen_supervisor);
    llamapen_request *request = CHECK_STALE(llamapen_request);
    llamapen_event event;
    char *json = CHECK_STALE(char);
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;

    check_refused(llamapen_build_info_json(NULL, &error), invalid, &error, "json", "build_info: NULL for the result");
    check_refused(llamapen_prepare(NULL, 0, &engine, &error), invalid, &error, "config",
                  "prepare: NULL for the config");
    CHECK(engine == NULL, "a failed call sets its result to NULL");
    check_refused(llamapen_prepare(NULL, 9, &engine, &error), invalid, &error, "config", "prepare: NULL with a length");
    check_refused(llamapen_prepare("{}", 2, NULL, &error), invalid, &error, "engine", "prepare: NULL for the result");
    check_refused(llamapen_engine_from_json(NULL, 9, &engine, &error), invalid, &error, "json",
                  "engine_from_json: NULL");
    check_refused(llamapen_engine_json(NULL, &json, &error), invalid, &error, "engine",
                  "engine_json: NULL for the engine");
    CHECK(json == NULL, "a failed call sets its text to NULL");
    check_refused(llamapen_supervisor_start(NULL, NULL, 0, &supervisor, &error), invalid, &error, "engine",
                  "start: NULL engine");
    CHECK(supervisor == NULL, "a failed start sets its result to NULL");
    check_refused(llamapen_supervisor_wait_ready(NULL, 0, &error), invalid, &error, "supervisor", "wait_ready: NULL");
    check_refused(llamapen_supervisor_cancel_load(NULL, &error), invalid, &error, "supervisor", "cancel_load: NULL");
    check_refused(llamapen_supervisor_reset_breaker(NULL, &error), invalid, &error, "supervisor", "reset_breaker: NULL");
    check_refused(llamapen_supervisor_health_json(NULL, &json, &error), invalid, &error, "supervisor",
                  "health_json: NULL");
    check_refused(llamapen_supervisor_stop(NULL, &error), invalid, &error, "supervisor", "stop: NULL");
    check_refused(llamapen_submit(NULL, "{}", 2, &request, &error), invalid, &error, "supervisor",
                  "submit: NULL supervisor");
    CHECK(request == NULL, "a failed submit sets its result to NULL");
    check_refused(llamapen_request_next(NULL, 0, &event, &error), invalid, &error, "request", "next: NULL");
    check_refused(llamapen_request_cancel(NULL, &error), invalid, &error, "request", "cancel: NULL");
    CHECK(llamapen_prepare(NULL, 0, &engine, NULL) == invalid, "NULL for the error is fine");
}

static void prepare_refuses(const char *path, const char *more, int32_t wanted, const char *part, const char *what)
{
    llamapen_engine *engine = CHECK_STALE(llamapen_engine);
    llamapen_error *error = NULL;
    char *config = check_config(path, more);
    check_refused(llamapen_prepare(config, strlen(config), &engine, &error), wanted, &error, part, what);
    CHECK(engine == NULL, "no engine is made");
    free(config);
}

static void bad_models(const char *program, const char *model)
{
    char path[] = "llamapen-errors-XXXXXX";
    char head[64];
    FILE *from = fopen(model, "rb");
    int made = mkstemp(path);
    REQUIRE(from != NULL && made >= 0, "there is a model and a place for a broken one");
    REQUIRE(fread(head, 1, sizeof head, from) == sizeof head, "the model is read");
    REQUIRE(write(made, head, sizeof head) == (ssize_t)sizeof head, "the broken model is written");
    fclose(from);
    close(made);
    prepare_refuses("no/such/file.gguf", "", LLAMAPEN_STATUS_MODEL_NOT_FOUND, "no/such/file.gguf", "a missing file");
    prepare_refuses(".", "", LLAMAPEN_STATUS_MODEL_NOT_FOUND, "directory", "a directory");
    prepare_refuses(program, "", LLAMAPEN_STATUS_MODEL_INVALID, program, "a file that is no GGUF");
    prepare_refuses(path, "", LLAMAPEN_STATUS_MODEL_INVALID, path, "a GGUF that ends early");
    unlink(path);
}

static void bad_configs(const char *model)
{
    static const char not_utf8[] = "{\"model\": \"\xff\"}";
    llamapen_engine *engine = NULL;
    llamapen_error *error = NULL;
    const int32_t invalid = LLAMAPEN_STATUS_INVALID_PARAMS;
    prepare_refuses(model, ", \"n_ctxx\": 512", invalid, "n_ctxx", "an unknown key is named");
    prepare_refuses(model, ", \"n_ctx\": 0", invalid, "n_ctx", "a value out of range is named");
    prepare_refuses(model, ", \"n_ctx\": 1000000", invalid, "n_ctx", "more context than the model has");
    prepare_refuses(model, ", \"threads\": 100000", invalid, "threads", "more threads than cores");
    prepare_refuses("", "", invalid, "model", "an empty path");
    check_refused(llamapen_prepare("{}", 2, &engine, &error), invalid, &error, "model", "a config without a model");
    check_refused(llamapen_prepare("{\"mod", 5, &engine, &error), invalid, &error, "config", "JSON that ends early");
    check_refused(llamapen_prepare(not_utf8, sizeof not_utf8 - 1, &engine, &error), invalid, &error, "UTF-8",
                  "not UTF-8");
    check_refused(llamapen_engine_from_json("{}", 2, &engine, &error), invalid, &error, "schema",
                  "an engine without content");
}

static void submit_refuses(const llamapen_supervisor *supervisor, const char *json, const char *part, const char *what)
{
    llamapen_request *request = CHECK_STALE(llamapen_request);
    llamapen_error *error = NULL;
    int32_t status = llamapen_submit(supervisor, json, strlen(json), &request, &error);
    check_refused(status, LLAMAPEN_STATUS_INVALID_PARAMS, &error, part, what);
    CHECK(request == NULL, "no request is made");
}

static void bad_requests(const llamapen_supervisor *supervisor)
{
    static const char *const ranges[][2] = {
        {"temperature", "-0.5"}, {"temperature", "1e9"}, {"top_p", "1.5"}, {"min_p", "-1"}, {"top_k", "4294967295"},
        {"repeat_penalty", "0"}, {"frequency_penalty", "11"}, {"presence_penalty", "-11"},
        {"penalty_last_n", "65537"}, {"max_tokens", "0"}, {"dynatemp_range", "-1"}, {"dynatemp_exponent", "101"},
        {"typical_p", "1.1"}, {"top_n_sigma", "-2"}, {"xtc_probability", "2"}, {"xtc_threshold", "-1"},
        {"min_keep", "65537"}, {"mirostat", "3"}, {"mirostat_tau", "-1"}, {"mirostat_eta", "2"},
        {"dry_multiplier", "-1"}, {"dry_base", "0.5"}, {"dry_allowed_length", "65537"}, {"dry_penalty_last_n", "65537"},
        {"dry_sequence_breakers", "[\"\"]"}, {"logit_bias", "[[0, 1001]]"}, {"logit_bias", "{\"2147483647\": 1}"},
        {"stop", "[\"\"]"}, {"stop_tokens", "[2147483647]"}, {"logprobs", "21"},
    };
    char json[256];
    submit_refuses(supervisor, "{}", "prompt", "a request without input");
    submit_refuses(supervisor, "{\"prompt\": \"\"}", "prompt", "an empty prompt");
    submit_refuses(supervisor, "{\"tokens\": []}", "tokens", "no tokens");
    submit_refuses(supervisor, "{\"messages\": []}", "messages", "no messages");
    submit_refuses(supervisor, "{\"prompt\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}", "messages",
                   "two inputs");
    submit_refuses(supervisor, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\\u0000b\"}]}", "messages[0].content",
                   "a NUL in a message");
    submit_refuses(supervisor, "{\"prompt\": \"a\", \"temprature\": 1}", "temprature", "an unknown key is named");
    submit_refuses(supervisor, "{\"prompt\": \"a\", \"max_tokens\": -1}", "request", "a number of the wrong kind");
    submit_refuses(supervisor, "{\"tokens\": [-1]}", "tokens", "a negative token");
    submit_refuses(supervisor, "{\"tokens\": [2147483647]}", "tokens", "a token outside the vocabulary");
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        snprintf(json, sizeof json, "{\"prompt\": \"a\", \"%s\": %s}", ranges[i][0], ranges[i][1]);
        submit_refuses(supervisor, json, ranges[i][0], json);
    }
}

static void bad_next(const llamapen_supervisor *supervisor)
{
    llamapen_request *request = check_submit(supervisor, "{\"prompt\": \"Hello\", \"max_tokens\": 1}");
    llamapen_error *error = NULL;
    llamapen_event event;
    check_events seen;
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event - 1;
    check_refused(llamapen_request_next(request, 0, &event, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error,
                  "struct_size", "an event that is too small");
    check_refused(llamapen_request_next(request, 0, NULL, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "event",
                  "NULL for the event");
    check_drain(request, 60000, &seen);
    CHECK(seen.finished == 1 && seen.ordered && seen.tokens == 1, "a refused call loses no event");
    llamapen_request_free(request);
}

static void overflow(const char *model)
{
    /* Tokens are counted without a tokenizer: 100 of them do not fit 64 positions. */
    char json[1024] = "{\"tokens\": [100";
    llamapen_engine *engine = check_prepare(model, ", \"n_ctx\": 64");
    llamapen_supervisor *supervisor = check_start(engine);
    llamapen_request *request = NULL;
    llamapen_error *error = NULL;
    for (int i = 1; i < 100; i++) strcat(json, ",100");
    strcat(json, "]}");
    check_refused(llamapen_submit(supervisor, json, strlen(json), &request, &error), LLAMAPEN_STATUS_CONTEXT_OVERFLOW,
                  &error, "64", "a prompt longer than the context");
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
}

static void after_stop(llamapen_supervisor *supervisor)
{
    llamapen_request *request = NULL;
    llamapen_error *error = NULL;
    llamapen_request *running = check_submit(supervisor, "{\"prompt\": \"Hello\", \"ignore_eos\": true}");
    check_events seen;
    CHECK(llamapen_supervisor_reset_breaker(supervisor, &error) == LLAMAPEN_STATUS_OK, "a reset of closed breakers");
    CHECK(llamapen_supervisor_stop(supervisor, &error) == LLAMAPEN_STATUS_OK, "stop");
    check_refused(llamapen_supervisor_reset_breaker(supervisor, &error), LLAMAPEN_STATUS_POOL_UNAVAILABLE, &error, "stop",
                  "reset_breaker after stop");
    CHECK(llamapen_supervisor_stop(supervisor, &error) == LLAMAPEN_STATUS_OK, "stop again");
    check_drain(running, 60000, &seen);
    CHECK(seen.failed == 1 && seen.why == LLAMAPEN_STATUS_DRAINING && seen.end == LLAMAPEN_STATUS_END && seen.ordered,
          "a request that runs at stop fails with DRAINING");
    llamapen_request_free(running);
    check_refused(llamapen_submit(supervisor, "{\"prompt\": \"a\"}", 15, &request, &error),
                  LLAMAPEN_STATUS_POOL_UNAVAILABLE, &error, "stop", "submit after stop");
    int32_t status = llamapen_supervisor_wait_ready(supervisor, 1000, &error);
    CHECK(status == LLAMAPEN_STATUS_POOL_UNAVAILABLE && error != NULL, "wait_ready after stop");
    CHECK(!llamapen_error_retriable(error) && llamapen_error_retry_after_ms(error) == -1, "nothing to wait for");
    llamapen_error_free(error);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    names_and_versions();
    freeing_nothing();
    null_arguments();
    bad_models(argv[0], argv[1]);
    bad_configs(argv[1]);

    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 512");
    llamapen_supervisor *supervisor = check_start(engine);
    check_wait_ready(supervisor);
    bad_requests(supervisor);
    bad_next(supervisor);
    after_stop(supervisor);
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    overflow(argv[1]);
    return check_end();
}
