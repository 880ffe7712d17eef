// Faults on demand, for builds with fault injection: raised inside a graph that is computed, on the thread that decodes or on
// one that computes for it.
#include "pen.h"

#include "ggml.h"

#include <stdexcept>

namespace {

volatile int zero = 0, dividend = 7;

__attribute__((noinline)) int overflow(int depth) {
    volatile char page[4096];
    page[depth % 4096] = static_cast<char>(depth);
    return overflow(depth + 1) + page[0];
}

void inject() {
    switch (lp_pen_take_armed()) {
    case LP_INJECT_NULL_WRITE: *reinterpret_cast<volatile int *>(static_cast<uintptr_t>(zero)) = 1; break;
    case LP_INJECT_WILD_WRITE: *reinterpret_cast<volatile int *>(static_cast<uintptr_t>(0xdead0000000)) = 1; break;
    case LP_INJECT_ABORT: GGML_ABORT("injected abort");
    case LP_INJECT_STACK_OVERFLOW: zero = overflow(1); break;
    case LP_INJECT_DIVISION: dividend = dividend / zero; break;
    case LP_INJECT_ILLEGAL: __builtin_trap();
    case LP_INJECT_LOOP:
        for (;;) __asm__ volatile("" ::: "memory");
    case LP_INJECT_THROW: throw std::runtime_error("injected C++ exception on a compute thread");
    default: break;
    }
}

}  // namespace

extern "C" void lp_pen_inject(void) { lp_pen_injector = inject; }
