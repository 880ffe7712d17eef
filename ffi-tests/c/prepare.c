/* Deciding before anything runs: plans, reports, machines, flags, digests. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

static const int32_t ok = LLAMAPEN_STATUS_OK;
static const int32_t invalid = LLAMAPEN_STATUS_INVALID_PARAMS;

/* A machine that is not there: 64 cores, and as much memory as said. */
#define MACHINE(ram_bytes) \
    "{\"machine\": {\"schema\": 1, \"logical_cpus\": 64, \"physical_cores\": 64, \"ram_bytes\": " ram_bytes "," \
    " \"devices\": {\"driver\": {\"state\": \"not_asked\"}, \"devices\": [], \"broken\": []}}}"

static size_t length(const char *text)
{
    return text != NULL ? strlen(text) : 0;
}

static int holds(const char *text, const char *part)
{
    return text != NULL && strstr(text, part) != NULL;
}

/* The engine of `config` with `options` as JSON, which the caller frees; NULL where it is refused. */
static char *engine_with(const char *config, const char *options)
{
    llamapen_engine *engine = NULL;
    llamapen_error *error = NULL;
    char *json = NULL;
    int32_t status = llamapen_prepare_with(config, strlen(config), options, length(options), NULL, NULL, &engine, &error);
    if (check_explain(status, &error) == ok) check_explain(llamapen_engine_json(engine, &json, &error), &error);
    llamapen_engine_free(engine);
    return json;
}

static void machines(const char *model)
{
    llamapen_engine *engine = check_prepare(model, ", \"n_ctx\": 512");
    llamapen_error *error = NULL;
    char *config = check_config(model, ", \"n_ctx\": 512");
    char *no_mmap = check_config(model, ", \"use_mmap\": false");
    char *plain = NULL, *machine = NULL, *host = NULL, *devices = NULL;

    REQUIRE(llamapen_engine_json(engine, &plain, &error) == ok, "the engine as JSON");
    REQUIRE(check_explain(llamapen_machine(1, &machine, &error), &error) == ok, "the machine as JSON");
    REQUIRE(check_explain(llamapen_machine(0, &host, &error), &error) == ok, "the machine without its GPUs");
    CHECK(holds(machine, "\"logical_cpus\":") && holds(host, "\"not_asked\""), "they say what they should");
    REQUIRE(check_explain(llamapen_devices(&devices, &error), &error) == ok, "the devices as JSON");
    CHECK(holds(devices, "\"driver\":{\"state\":\"") && !holds(devices, "not_asked"), "the driver was asked");

    size_t room = strlen(machine) + 32;
    char *options = (char *)malloc(room);
    if (options == NULL) abort();
    snprintf(options, room, "{\"machine\": %s}", machine);
    char *first = engine_with(config, options), *second = engine_with(config, options);
    REQUIRE(first != NULL && second != NULL, "an engine for the machine that was observed");
    CHECK(strcmp(first, second) == 0, "equal input gives equal bytes");
    CHECK(strcmp(first, plain) == 0, "and the same as without options");

    char *large = engine_with(config, MACHINE("8589934592"));
    CHECK(holds(large, "\"threads\":64,") && holds(large, "\"capacity\":8589934592"), "another machine, another engine");
    char *for_streams = check_config(model, ", \"n_ctx\": 512, \"streams\": 10, \"use_repack\": false");
    char *many = engine_with(for_streams, MACHINE("68719476736"));
    CHECK(holds(many, "\"workers\":4,") && holds(many, "\"slots\":3,"), "workers and slots for ten streams, by kernels that gain nothing from batches");
    CHECK(holds(many, "\"threads\":64,\"share_threads\":true,"), "which share the cores");
    free(for_streams);
    llamapen_string_free(many);
    char *tuned = check_config(model, ", \"n_ctx\": 512, \"streams\": 4, \"tuning\": \"latency\"");
    many = engine_with(tuned, MACHINE("68719476736"));
    CHECK(holds(many, "\"workers\":1,") && holds(many, "\"slots\":4,") && holds(many, "\"n_ubatch\":64,"), "tuned for latency");
    CHECK(holds(many, "\"tuning\":\"latency\""), "which it says");
    free(tuned);
    llamapen_string_free(many);
    tuned = check_config(model, ", \"tuning\": \"auto\", \"deterministic\": true");
    engine = CHECK_STALE(llamapen_engine);
    check_refused(llamapen_prepare(tuned, strlen(tuned), &engine, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "tuning: auto",
                  "tuning that contradicts");
    free(tuned);
    engine = CHECK_STALE(llamapen_engine);
    check_refused(llamapen_prepare_with(no_mmap, strlen(no_mmap), MACHINE("67108864"), strlen(MACHINE("67108864")), NULL,
                                        NULL, &engine, &error),
                  LLAMAPEN_STATUS_OUT_OF_MEMORY, &error, "67108864", "a machine that is too small, with its bytes");
    CHECK(engine == NULL, "no engine is made");

    free(config);
    free(no_mmap);
    free(options);
    char *const texts[] = {plain, machine, host, devices, first, second, large};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) llamapen_string_free(texts[i]);
}

/* What a progress callback saw, and when it gives up. */
struct seen {
    int calls, ordered, same_thread;
    uint64_t first, last, total;
    uint64_t stop_at;
    pthread_t thread;
};

static int32_t watch(uint64_t done_bytes, uint64_t total_bytes, void *user)
{
    struct seen *seen = (struct seen *)user;
    char *json = NULL;
    if (seen->calls == 0) {
        seen->first = done_bytes;
        seen->ordered = seen->same_thread = 1;
        /* No lock is held: any function may be called. */
        if (llamapen_machine(0, &json, NULL) != ok) seen->ordered = 0;
        llamapen_string_free(json);
    } else if (done_bytes < seen->last || total_bytes != seen->total) {
        seen->ordered = 0;
    }
    if (!pthread_equal(pthread_self(), seen->thread)) seen->same_thread = 0;
    seen->calls++;
    seen->last = done_bytes;
    seen->total = total_bytes;
    return done_bytes >= seen->stop_at;
}

static struct seen watching(uint64_t stop_at)
{
    struct seen seen;
    memset(&seen, 0, sizeof seen);
    seen.stop_at = stop_at;
    seen.thread = pthread_self();
    return seen;
}

static int32_t prepare_watched(const char *config, const char *options, struct seen *seen, llamapen_error **error)
{
    llamapen_engine *engine = CHECK_STALE(llamapen_engine);
    int32_t status =
        llamapen_prepare_with(config, strlen(config), options, length(options), watch, seen, &engine, error);
    CHECK((engine != NULL) == (status == ok), "an engine is made, or not");
    llamapen_engine_free(engine);
    return status;
}

static void digests(const char *model)
{
    struct stat file;
    struct seen seen = watching(UINT64_MAX);
    llamapen_error *error = NULL;
    char *digest = NULL;
    char with_digest[128];
    REQUIRE(stat(model, &file) == 0, "there is a model");
    const uint64_t bytes = (uint64_t)file.st_size;

    REQUIRE(check_explain(llamapen_digest(model, strlen(model), watch, &seen, &digest, &error), &error) == ok, "a digest");
    CHECK(strncmp(digest, "sha256:", 7) == 0 && strlen(digest) == 71, "its form");
    CHECK(seen.calls > 2 && seen.ordered && seen.same_thread, "progress goes on, on this thread");
    CHECK(seen.first == 0 && seen.last == bytes && seen.total == bytes, "progress begins and ends");
    snprintf(with_digest, sizeof with_digest, ", \"digest\": \"%s\"", digest);
    char *right = check_config(model, with_digest);
    with_digest[sizeof ", \"digest\": \"sha256:" - 1] ^= 1; /* another digit: 0 and 1, ..., a and `, which is none */
    if (strchr(with_digest, '`') != NULL) *strchr(with_digest, '`') = 'b';
    char *wrong = check_config(model, with_digest);

    seen = watching(UINT64_MAX);
    CHECK(check_explain(prepare_watched(right, NULL, &seen, &error), &error) == ok, "the right digest");
    CHECK(seen.calls > 2 && seen.ordered && seen.last == bytes, "it was computed");
    check_refused(prepare_watched(wrong, NULL, &seen, &error), LLAMAPEN_STATUS_DIGEST_MISMATCH, &error, digest,
                  "the wrong digest, and which is right");

    /* Given up: at once, and in between. */
    for (uint64_t stop_at = 0; stop_at <= 3 << 20; stop_at += 3 << 20) {
        seen = watching(stop_at);
        char *none = CHECK_STALE(char);
        int32_t status = llamapen_digest(model, strlen(model), watch, &seen, &none, &error);
        check_refused(status, LLAMAPEN_STATUS_CANCELLED, &error, model, "a digest that is cancelled");
        CHECK(none == NULL && seen.last >= stop_at && seen.last <= stop_at + (1 << 20), "it ends there");
        seen = watching(stop_at);
        check_refused(prepare_watched(right, NULL, &seen, &error), LLAMAPEN_STATUS_CANCELLED, &error, model,
                      "preparing that is cancelled");
        CHECK(seen.last <= stop_at + (1 << 20), "it ends there too");
    }

    /* Known from before: not read again. Without a cache, nothing is written. */
    static const char options[] = "{\"digest_cache\": \"digests\"}";
    seen = watching(UINT64_MAX);
    CHECK(check_entries("digests") < 0, "there is no cache of digests");
    CHECK(check_explain(prepare_watched(right, options, &seen, &error), &error) == ok && seen.calls > 2, "the first time");
    CHECK(check_entries("digests") == 3, "the cache has one entry, besides . and ..");
    seen = watching(UINT64_MAX);
    CHECK(check_explain(prepare_watched(right, options, &seen, &error), &error) == ok, "the second time");
    CHECK(seen.calls == 1 && seen.last == bytes, "nothing was read");
    CHECK(system("rm -r digests") == 0, "the cache is removed");

    free(right);
    free(wrong);
    llamapen_string_free(digest);
}

static void flags_refused(const char *const *flags, size_t count, const char *part, const char *what)
{
    char *json = CHECK_STALE(char);
    llamapen_error *error = NULL;
    check_refused(llamapen_config_from_flags(flags, count, &json, &error), invalid, &error, part, what);
    CHECK(json == NULL, "no configuration is made");
}

static void flags(const char *model)
{
    const char *const given[] = {"-m", model, "-c", "512", "-ctk", "q8_0", "--shrink-slots=1", "--no-mmap"};
    const char *const not_known[] = {"-m", model, "--n-ctxx", "3"};
    const char *const twice[] = {"-m", model, "-c", "3", "--n_ctx=3"};
    const char *const null_in_it[] = {"-m", NULL};
    const char *const not_utf8[] = {"-m", "\xff"};
    llamapen_error *error = NULL;
    char *json = NULL;
    int32_t status = llamapen_config_from_flags(given, sizeof given / sizeof *given, &json, &error);
    REQUIRE(check_explain(status, &error) == ok, "flags become a configuration");
    CHECK(holds(json, "\"shrink\":{\"slots\":1}"), "what may be reduced is in it");
    char *engine = engine_with(json, NULL);
    CHECK(holds(engine, "\"n_ctx\":512,") && holds(engine, "\"kv_type_k\":\"q8_0\"") && holds(engine, "\"use_mmap\":false"),
          "and an engine");
    llamapen_string_free(json);
    llamapen_string_free(engine);

    flags_refused(not_known, 4, "--n-ctx", "an unknown flag, and the nearest");
    flags_refused(twice, 5, "second time", "a flag that is given twice");
    flags_refused(given, 1, "needs a value", "a flag without its value");
    flags_refused(null_in_it, 2, "flags[1]", "NULL among the flags");
    flags_refused(not_utf8, 2, "flags[1]", "a flag that is not UTF-8");
    flags_refused(NULL, 0, "model", "no flags");
    flags_refused(NULL, 2, "NULL", "NULL with a count");
    flags_refused(given, SIZE_MAX, "impossible", "a count that is impossible");
    check_refused(llamapen_config_from_flags(given, 2, NULL, &error), invalid, &error, "json", "NULL for the result");
}

static void plans(const char *model)
{
    char *config = check_config(model, ", \"n_ctx\": 512"), *missing = check_config("no/such.gguf", "");
    char *engine = engine_with(config, NULL);
    char *json = NULL, *text = NULL, *same = NULL;
    llamapen_error *error = NULL;

    REQUIRE(check_explain(llamapen_plan(config, strlen(config), NULL, 0, &json, &text, &error), &error) == ok, "a plan");
    CHECK(strncmp(json, "{\"steps\":[{\"kind\":\"locate\"", 26) == 0, "it has steps");
    CHECK(engine != NULL && holds(json, engine), "it has the engine that prepare gives");
    CHECK(strncmp(text, " 1. locate", 10) == 0 && holds(text, "\nhost: "), "it has lines for people");
    CHECK(llamapen_plan(config, strlen(config), NULL, 0, NULL, &same, &error) == ok && strcmp(text, same) == 0, "text alone");
    llamapen_string_free(same);
    CHECK(llamapen_plan(config, strlen(config), NULL, 0, &same, NULL, &error) == ok && strcmp(json, same) == 0, "JSON alone");
    llamapen_string_free(same);
    llamapen_string_free(json);
    llamapen_string_free(text);

    const char *const machine = MACHINE("8589934592");
    CHECK(llamapen_plan(config, strlen(config), machine, strlen(machine), NULL, &text, &error) == ok, "for another machine");
    CHECK(holds(text, "with 64 compute threads each") && holds(text, "of 8.00 GiB"), "it is another plan");
    llamapen_string_free(text);

    json = CHECK_STALE(char), text = CHECK_STALE(char);
    check_refused(llamapen_plan(missing, strlen(missing), NULL, 0, &json, &text, &error), LLAMAPEN_STATUS_MODEL_NOT_FOUND,
                  &error, "no/such.gguf", "a plan for a missing file");
    CHECK(json == NULL && text == NULL, "neither result is made");
    free(config);
    free(missing);
    llamapen_string_free(engine);
}

static void reports(const char *model)
{
    char *config = check_config(model, ", \"n_ctx\": 512"), *missing = check_config("no/such.gguf", "");
    char *json = NULL, *text = NULL;
    llamapen_error *error = NULL;

    int32_t status = llamapen_preflight(config, strlen(config), NULL, 0, &json, &text, &error);
    REQUIRE(check_explain(status, &error) == ok, "a report");
    printf("# %.*s\n", (int)strcspn(text, "\n"), text);
    CHECK(strncmp(json, "{\"checks\":[{\"name\":\"", 20) == 0 && holds(json, "\"status\":\"pass\""), "it has checks");
    CHECK(!holds(json, "\"status\":\"fail\"") && !holds(text, "FAIL"), "nothing fails");
    llamapen_string_free(json);
    llamapen_string_free(text);

    status = llamapen_preflight(missing, strlen(missing), NULL, 0, &json, &text, &error);
    CHECK(status == ok && error == NULL, "what fails is no error");
    CHECK(holds(json, "{\"name\":\"model\",\"status\":\"fail\""), "it is a check");
    CHECK(holds(text, "FAIL  model") && holds(text, "no/such.gguf") && holds(text, "-> "), "with what to do");
    llamapen_string_free(json);
    llamapen_string_free(text);

    const char *const small = MACHINE("1048576");
    status = llamapen_preflight(config, strlen(config), small, strlen(small), &json, NULL, &error);
    CHECK(status == ok && holds(json, "{\"name\":\"plan\",\"status\":\"fail\""), "a machine that is too small");
    llamapen_string_free(json);

    json = CHECK_STALE(char), text = CHECK_STALE(char);
    check_refused(llamapen_preflight("{", 1, NULL, 0, &json, &text, &error), invalid, &error, "config", "no configuration");
    CHECK(json == NULL && text == NULL, "neither result is made");
    free(config);
    free(missing);
}

static void descriptions(const char *model)
{
    struct stat file;
    char bytes[64];
    char *json = NULL;
    llamapen_error *error = NULL;
    int32_t status = llamapen_model_info(model, strlen(model), NULL, 0, &json, &error);
    REQUIRE(check_explain(status, &error) == ok && stat(model, &file) == 0, "a model is described");
    snprintf(bytes, sizeof bytes, "\"bytes\":%lld}]", (long long)file.st_size);
    CHECK(strncmp(json, "{\"id\":\"", 7) == 0 && holds(json, bytes), "its name and its file");
    CHECK(holds(json, "\"info\":{\"architecture\":\"llama\"") && holds(json, "\"n_vocab\":49152"), "and what the header says");
    llamapen_string_free(json);

    static const struct {
        const char *what, *model, *options, *part;
        int32_t status;
    } wrong[] = {
        {"no model", NULL, NULL, "model", LLAMAPEN_STATUS_INVALID_PARAMS},
        {"an empty name", "", NULL, "model", LLAMAPEN_STATUS_INVALID_PARAMS},
        {"a name that is not UTF-8", "\xff", NULL, "UTF-8", LLAMAPEN_STATUS_INVALID_PARAMS},
        {"a missing file", "no/such.gguf", NULL, "no/such.gguf", LLAMAPEN_STATUS_MODEL_NOT_FOUND},
        {"a folder without models", ".", NULL, "directory", LLAMAPEN_STATUS_MODEL_NOT_FOUND},
        {"a program", "/proc/self/exe", NULL, "GGUF", LLAMAPEN_STATUS_MODEL_INVALID},
        {"an address", "https://example.org/m.gguf", NULL, "never downloads", LLAMAPEN_STATUS_UNSUPPORTED},
        {"a missing hub", "hf:org/repo/m.gguf", "{\"hub\": \"no/such/hub\"}", "no/such/hub", LLAMAPEN_STATUS_MODEL_NOT_FOUND},
        {"an unknown option", "m.gguf", "{\"hubb\": \"x\"}", "hubb", LLAMAPEN_STATUS_INVALID_PARAMS},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        json = CHECK_STALE(char);
        status = llamapen_model_info(wrong[i].model, length(wrong[i].model), wrong[i].options, length(wrong[i].options),
                                     &json, &error);
        check_refused(status, wrong[i].status, &error, wrong[i].part, wrong[i].what);
        CHECK(json == NULL, "nothing is described");
    }
}

static void null_arguments(const char *model)
{
    char *config = check_config(model, "");
    const size_t size = strlen(config);
    llamapen_engine *engine = CHECK_STALE(llamapen_engine);
    llamapen_error *error = NULL;
    char *text = CHECK_STALE(char);

    check_refused(llamapen_prepare_with(config, size, NULL, 0, NULL, NULL, NULL, &error), invalid, &error, "engine",
                  "prepare_with: NULL for the result");
    check_refused(llamapen_prepare_with(NULL, 0, NULL, 0, NULL, NULL, &engine, &error), invalid, &error, "config",
                  "prepare_with: NULL for the config");
    CHECK(engine == NULL, "a failed call sets its result to NULL");
    check_refused(llamapen_prepare_with(config, size, NULL, 3, NULL, NULL, &engine, &error), invalid, &error, "options",
                  "prepare_with: NULL with a length");
    check_refused(llamapen_plan(NULL, 9, NULL, 0, &text, NULL, &error), invalid, &error, "config", "plan: NULL");
    CHECK(text == NULL, "a failed call sets its text to NULL");
    check_refused(llamapen_plan(config, size, NULL, 0, NULL, NULL, &error), invalid, &error, "json and text",
                  "plan: NULL for both results");
    check_refused(llamapen_preflight(NULL, 9, NULL, 0, &text, NULL, &error), invalid, &error, "config", "preflight: NULL");
    check_refused(llamapen_preflight(config, size, NULL, 0, NULL, NULL, &error), invalid, &error, "json and text",
                  "preflight: NULL for both results");
    check_refused(llamapen_model_info(model, strlen(model), NULL, 0, NULL, &error), invalid, &error, "json",
                  "model_info: NULL for the result");
    check_refused(llamapen_machine(0, NULL, &error), invalid, &error, "json", "machine: NULL for the result");
    check_refused(llamapen_devices(NULL, &error), invalid, &error, "json", "devices: NULL for the result");
    check_refused(llamapen_digest(NULL, 0, NULL, NULL, &text, &error), invalid, &error, "path", "digest: no path");
    check_refused(llamapen_digest(NULL, 7, NULL, NULL, &text, &error), invalid, &error, "path", "digest: NULL with a length");
    check_refused(llamapen_digest(model, strlen(model), NULL, NULL, NULL, &error), invalid, &error, "digest",
                  "digest: NULL for the result");
    check_refused(llamapen_digest("no/such", 7, NULL, NULL, &text, &error), LLAMAPEN_STATUS_MODEL_NOT_FOUND, &error,
                  "no/such", "digest: a missing file");
    CHECK(llamapen_plan(NULL, 0, NULL, 0, &text, NULL, NULL) == invalid, "NULL for the error is fine");

    static const char *const bad_options[][2] = {
        {"{", "options"}, {"3", "options"}, {"{\"machin\": {}}", "machin"}, {"{\"machine\": {}}", "machine snapshot"},
        {"{\"machine\": 3}", "machine snapshot"}, {"{\"hub\": 3}", "options"}, {"\xff", "UTF-8"},
        {"{\"machine\": {\"schema\": 99, \"logical_cpus\": 1, \"physical_cores\": 1, \"devices\":"
         " {\"driver\": {\"state\": \"not_asked\"}, \"devices\": [], \"broken\": []}}}", "schema is 99"},
    };
    for (size_t i = 0; i < sizeof bad_options / sizeof *bad_options; i++) {
        const char *const options = bad_options[i][0];
        int32_t status = llamapen_prepare_with(config, size, options, strlen(options), NULL, NULL, &engine, &error);
        check_refused(status, invalid, &error, bad_options[i][1], "prepare_with: options that are none");
        status = llamapen_preflight(config, size, options, strlen(options), &text, NULL, &error);
        check_refused(status, invalid, &error, bad_options[i][1], "preflight: options that are none");
    }
    free(config);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    const int threads = check_entries("/proc/self/task");
    null_arguments(argv[1]);
    machines(argv[1]);
    digests(argv[1]);
    flags(argv[1]);
    plans(argv[1]);
    reports(argv[1]);
    descriptions(argv[1]);
    CHECK(check_entries("/proc/self/task") == threads, "no thread was started");
    return check_end();
}
