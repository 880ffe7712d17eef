// ggml's critical section, in place of ggml-threading.cpp: every graph that is computed goes through it, in all domains. A
// thread that stayed in it would stop all others for ever, so who is in it is marked, and not parked.
#include "pen_internal.h"

static pthread_mutex_t section = PTHREAD_MUTEX_INITIALIZER;

void ggml_critical_section_start(void) {
    lp_thread * thread = lp_current_thread();
    // Before it waits: between the wait and the mark it could be parked.
    if (thread != NULL) thread->critical++;
    pthread_mutex_lock(&section);
}

void ggml_critical_section_end(void) {
    pthread_mutex_unlock(&section);
    lp_thread * thread = lp_current_thread();
    if (thread != NULL) thread->critical--;
}
