// The wait between two looks at ggml's barrier, or for its next graph: see hooks.h.
//
// First it spins: most waits end within some 10 us, an operation of a small model. Then it gives the core away as often as it looks,
// because the thread that is waited for may not have one. At a barrier it sleeps at last: that thread has none for long, other processes
// compute, and who sleeps is let in again sooner than who yields, which counts as having computed. Waiting for work is left to ggml,
// which sleeps by itself after so many looks.
#include "pen.h"

#include <sched.h>
#include <stdint.h>
#include <time.h>

// A pause is about 10 ns to 40 ns on x86 and a few on arm.
enum { SPINS_BEFORE_YIELD = 1024, YIELDS_BEFORE_SLEEP = 64 };
// With the kernel's slack for timers twice as long.
static const struct timespec NAP = { 0, 50 * 1000 };

static inline void pause_instruction(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    // `yield` is a no-op on most cores, `isb` waits about as long as an x86 pause.
    __asm__ volatile("isb" ::: "memory");
#endif
}

// A counter that goes on at some constant rate: 1 to 5 per nanosecond on x86, 1 per 1 to 40 ns on arm.
static inline uint64_t ticks(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t now;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(now));
    return now;
#endif
}

// Longer than between two looks of one wait, and shorter than an operation: ticks.
#if defined(__x86_64__)
enum { NEXT_WAIT = 1000 };
#elif defined(__aarch64__)
enum { NEXT_WAIT = 20 };
#endif

// When a wait ends is not seen here; that another has begun shows by the time since the last look.
void llamapen_cpu_relax(bool at_barrier) {
    lp_pen_poll();
    if (lp_pen_injector != NULL) lp_pen_injector(LP_IN_GRAPH);
    static __thread uint32_t looks __attribute__((tls_model("initial-exec")));
    static __thread uint64_t last __attribute__((tls_model("initial-exec")));
    if (ticks() - last > NEXT_WAIT) looks = 0;
    looks++;
    if (looks < SPINS_BEFORE_YIELD) {
        pause_instruction();
    } else if (!at_barrier || looks < SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP) {
        sched_yield();
        if (!at_barrier) looks = 0;
    } else {
        nanosleep(&NAP, NULL);
        looks = SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP;
    }
    last = ticks();
}
