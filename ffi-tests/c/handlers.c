/* A host's own signal handler goes on serving its own faults, while a supervisor contains the engine's. argv[1]: the model. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <setjmp.h>
#include <signal.h>

static sigjmp_buf back;
static volatile sig_atomic_t seen;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void) context;
    seen = info->si_addr == (void *) 64 ? signal : -1;
    siglongjmp(back, 1);
}

static void install(int signal)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(signal, &action, NULL);
}

/* A mistake of the host's: it writes where nothing is. */
static int fault(void)
{
    seen = 0;
    if (sigsetjmp(back, 1) == 0) *(volatile int *) 64 = 1;
    return seen;
}

static int answers(const llamapen_supervisor *supervisor)
{
    llamapen_event event;
    llamapen_error *error = NULL;
    int kind = 0;
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    llamapen_request *request = check_submit(supervisor, "{\"prompt\": \"One, two,\", \"max_tokens\": 4, \"ignore_eos\": true}");
    while (llamapen_request_next(request, 60000, &event, &error) == LLAMAPEN_STATUS_EVENT) kind = (int) event.kind;
    llamapen_request_free(request);
    return kind == LLAMAPEN_EVENT_FINISHED;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    struct sigaction before, now;
    llamapen_engine *engine = check_prepare(argv[1], ", \"n_ctx\": 256");

    install(SIGSEGV);
    sigaction(SIGSEGV, NULL, &before);
    llamapen_supervisor *supervisor = check_start(engine);
    check_wait_ready(supervisor);
    sigaction(SIGSEGV, NULL, &now);
    CHECK(now.sa_sigaction != before.sa_sigaction, "a supervisor installs its handler");
    CHECK(fault() == SIGSEGV, "and a handler that was there before it is called for the host's own fault");
    CHECK(answers(supervisor), "the engine answers after that");

    char *health = NULL;
    llamapen_error *error = NULL;
    CHECK(llamapen_supervisor_health_json(supervisor, &health, &error) == LLAMAPEN_STATUS_OK &&
              strstr(health, "\"contains_faults\":true") != NULL && strstr(health, "\"tainted\":false") != NULL,
          "the health says that faults are contained, and that none was");
    llamapen_string_free(health);

    install(SIGSEGV);
    CHECK(fault() == SIGSEGV, "a handler of the host's that comes later replaces it");
    CHECK(llamapen_supervisor_health_json(supervisor, &health, &error) == LLAMAPEN_STATUS_OK &&
              strstr(health, "\"contains_faults\":false") != NULL,
          "which the health says");
    llamapen_string_free(health);
    CHECK(answers(supervisor), "the engine answers all the same");

    llamapen_supervisor_free(supervisor);
    llamapen_engine_free(engine);
    return check_end();
}
