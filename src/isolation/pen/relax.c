// The wait between two looks at ggml's barrier: see hooks.h.
#include "pen.h"

#include <sched.h>
#include <stdint.h>

// How long a thread spins before it gives its core away, in pauses. A pause is about 10 ns to 40 ns on x86 and a few on
// arm, an operation of a small model takes some 10 µs: most waits end inside this bound and never enter the kernel.
enum { SPINS_BEFORE_YIELD = 1024 };

static inline void pause_instruction(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    // `yield` is a no-op on most cores, `isb` waits about as long as an x86 pause.
    __asm__ volatile("isb" ::: "memory");
#endif
}

// The counter is not reset when a wait ends, since this function cannot see it: over many waits it yields on every
// SPINS_BEFORE_YIELDth pause, whichever wait that falls in. sched_yield with nobody else to run costs well under 1 µs.
void llamapen_cpu_relax(void) {
    lp_pen_poll();
    if (lp_pen_injector != NULL) lp_pen_injector(LP_IN_GRAPH);
    static __thread uint32_t spins __attribute__((tls_model("initial-exec")));
    pause_instruction();
    if (++spins >= SPINS_BEFORE_YIELD) {
        spins = 0;
        sched_yield();
    }
}
