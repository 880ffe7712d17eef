/* The record of what is ready, as a C host sees it. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "check.h"

int main(int argc, char **argv)
{
    /* The program runs in an empty folder of its own. */
    static const char here[] = "{\"handoff_dir\": \".\"}";
    static const char nowhere[] = "{\"handoff_dir\": \"nowhere\"}";
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_supervisor *supervisor = NULL;
    llamapen_error *error = NULL;
    char *json = CHECK_STALE(char), pid[32], in_file[16384] = "";
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 512, \"pool_id\": \"c-host\", \"replica_id\": 2");
    check_refused(llamapen_supervisor_start(engine, nowhere, sizeof nowhere - 1, &supervisor, &error),
                  LLAMAPEN_STATUS_INVALID_PARAMS, &error, "handoff_dir: nowhere", "a directory that is not there");
    int32_t status = llamapen_supervisor_start(engine, here, sizeof here - 1, &supervisor, &error);
    REQUIRE(check_explain(status, &error) == LLAMAPEN_STATUS_OK, "the supervisor starts");
    check_wait_ready(supervisor);

    REQUIRE(llamapen_supervisor_handoff_json(supervisor, &json, &error) == LLAMAPEN_STATUS_OK && json != NULL, "a record");
    snprintf(pid, sizeof pid, "\"pid\":%ld,", (long)getpid());
    CHECK(strstr(json, pid) != NULL && strstr(json, "\"pool_id\":\"c-host\",\"replica_id\":2") != NULL, "it says where");
    CHECK(strstr(json, "\"engine_digest\":\"sha256:") != NULL && strstr(json, "\"ready_at_ms\":") != NULL, "what, and when");
    FILE *file = fopen("llamapen-c-host-2.json", "r");
    REQUIRE(file != NULL, "its file");
    CHECK(fread(in_file, 1, sizeof in_file - 1, file) > 0 && strcmp(in_file, json) == 0, "says the same");
    fclose(file);
    llamapen_string_free(json);

    llamapen_supervisor_stop(supervisor, NULL);
    CHECK(access("llamapen-c-host-2.json", F_OK) != 0, "the stop removes it");
    CHECK(llamapen_supervisor_handoff_json(supervisor, &json, &error) == LLAMAPEN_STATUS_OK && json == NULL,
          "nothing is ready any more");
    check_refused(llamapen_supervisor_handoff_json(supervisor, NULL, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "json",
                  "no place for the text");
    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
