/* Handoff records in a directory, as a C host sees them. argv[1]: the model. The program runs in an empty folder. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

static char *next(const llamapen_handoff_watcher *watcher, const char *what)
{
    llamapen_error *error = NULL;
    char *json = CHECK_STALE(char);
    int32_t status = check_explain(llamapen_handoff_watcher_next(watcher, 120000, &json, &error), &error);
    REQUIRE(status == LLAMAPEN_STATUS_EVENT && json != NULL, what);
    return json;
}

int main(int argc, char **argv)
{
    static const char here[] = "{\"handoff_dir\": \".\"}";
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 512, \"pool_id\": \"c\"");
    llamapen_supervisor *supervisor = NULL;
    llamapen_handoff_watcher *watcher = CHECK_STALE(llamapen_handoff_watcher);
    llamapen_error *error = NULL;
    char *json = NULL, *record = NULL;
    int32_t news = 7;
    check_refused(llamapen_handoff_watcher_open("nowhere", 7, &watcher, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "dir",
                  "no such directory");
    CHECK(watcher == NULL, "no watcher");
    REQUIRE(llamapen_handoff_watcher_open(".", 1, &watcher, NULL) == LLAMAPEN_STATUS_OK && watcher != NULL, "a watcher");
    json = CHECK_STALE(char);
    CHECK(llamapen_handoff_watcher_next(watcher, 0, &json, NULL) == LLAMAPEN_STATUS_TIMEOUT && json == NULL, "nothing yet");

    REQUIRE(llamapen_supervisor_start(engine, here, sizeof here - 1, &supervisor, NULL) == LLAMAPEN_STATUS_OK, "it starts");
    json = next(watcher, "a record appears");
    check_wait_ready(supervisor);
    CHECK(strstr(json, "{\"change\":\"appeared\",\"record\":{\"schema\":1,\"pool_id\":\"c\",") == json, json);
    llamapen_string_free(json);
    REQUIRE(llamapen_supervisor_handoff_json(supervisor, &record, NULL) == LLAMAPEN_STATUS_OK && record != NULL, "its record");
    CHECK(llamapen_handoff_watcher_bind(watcher, record, strlen(record), &news, NULL) == LLAMAPEN_STATUS_OK && news == 0,
          "the same is no news");
    REQUIRE(llamapen_handoff_watcher_records_json(watcher, &json, NULL) == LLAMAPEN_STATUS_OK, "what is known");
    CHECK(json[0] == '[' && strncmp(json + 1, record, strlen(record)) == 0 && strcmp(json + 1 + strlen(record), "]") == 0, json);
    llamapen_string_free(json);

    FILE *file = fopen("llamapen-nonsense-0.json", "w");
    REQUIRE(file != NULL && fputs("{", file) >= 0 && fclose(file) == 0, "a file that is no record");
    json = next(watcher, "is told");
    CHECK(strstr(json, "{\"change\":\"problem\",\"path\":") == json && strstr(json, "no record") != NULL, json);
    llamapen_string_free(json);
    llamapen_supervisor_stop(supervisor, NULL);
    json = next(watcher, "the record goes");
    CHECK(strstr(json, "{\"change\":\"gone\",\"record\":{") == json, json);
    llamapen_string_free(json);
    CHECK(llamapen_handoff_watcher_next(watcher, 0, &json, NULL) == LLAMAPEN_STATUS_TIMEOUT, "once");

    check_refused(llamapen_handoff_watcher_bind(watcher, "{}", 2, NULL, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error,
                  "record: it is no record", "what is none is not bound");
    check_refused(llamapen_handoff_watcher_next(NULL, 0, &json, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "watcher",
                  "no watcher");
    check_refused(llamapen_handoff_watcher_next(watcher, 0, NULL, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "json",
                  "no place for the text");
    llamapen_string_free(record);
    llamapen_handoff_watcher_free(watcher);
    llamapen_handoff_watcher_free(NULL);
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
