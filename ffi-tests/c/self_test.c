/* The self-test, as a C host sees it. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

static char *report_of(const llamapen_supervisor *supervisor, int64_t timeout_ms)
{
    char *json = NULL;
    llamapen_error *error = NULL;
    REQUIRE(llamapen_supervisor_self_test(supervisor, timeout_ms, &json, &error) == LLAMAPEN_STATUS_OK && json != NULL,
            "a self-test gives a report");
    return json;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 256");
    llamapen_supervisor *supervisor = check_start(engine);

    char *report = report_of(supervisor, 120000);
    CHECK(strstr(report, "{\"passed\":true,\"steps\":[{\"name\":\"load\",\"status\":\"pass\"") == report, "all of it passes");
    CHECK(strstr(report, "\"message\":\"no subscriber\"") != NULL, "the step of the log says that there is no subscriber");
    CHECK(strstr(report, "exactly what was done: 2 requests accepted") != NULL, "the metrics have counted it");
    llamapen_string_free(report);

    char *json = NULL;
    llamapen_error *error = NULL;
    check_refused(llamapen_supervisor_self_test(NULL, 0, &json, &error), LLAMAPEN_STATUS_INVALID_PARAMS, &error, "supervisor",
                  "no supervisor");

    REQUIRE(llamapen_supervisor_stop(supervisor, NULL) == LLAMAPEN_STATUS_OK, "stop");
    report = report_of(supervisor, -1);
    CHECK(strstr(report, "{\"passed\":false,\"steps\":[{\"name\":\"load\",\"status\":\"fail\"") == report,
          "once it is stopped, the load fails");
    CHECK(strstr(report, "\"message\":\"not tried, because load failed\"") != NULL, "and what needs it is not tried");
    llamapen_string_free(report);

    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
