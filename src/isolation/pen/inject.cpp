// Faults on demand, for builds with fault injection: raised in the middle of llama.cpp, where it calls what we gave it.
#include "inject.h"

#include "ggml.h"

#include <sched.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

volatile char * lp_inject_weights;
void (*lp_inject_gpu)(bool of_memory);

namespace {

volatile int zero = 0, dividend = 7;

__attribute__((noinline)) int overflow(int depth) {
    volatile char page[4096];
    page[depth % 4096] = static_cast<char>(depth);
    return overflow(depth + 1) + page[0];
}

void null_write() { *reinterpret_cast<volatile int *>(static_cast<uintptr_t>(zero)) = 1; }

void read_only_write() {
    void * page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED) *static_cast<volatile int *>(page) = 1;
}

// Two threads leave it at the same moment.
void meet() {
    static std::atomic<int> arrived;
    const int mine = arrived.fetch_add(1);
    while (arrived.load() <= (mine | 1)) sched_yield();
}

void inject(int place) {
    const int injected = lp_pen_take_armed(place);
    switch (injected) {
    case LP_INJECT_NULL_WRITE: null_write(); break;
    case LP_INJECT_WILD_WRITE: *reinterpret_cast<volatile int *>(static_cast<uintptr_t>(0xdead0000000)) = 1; break;
    case LP_INJECT_READ_ONLY_WRITE: read_only_write(); break;
    case LP_INJECT_WEIGHT_WRITE: *lp_inject_weights = 1; break;
    case LP_INJECT_TOGETHER: meet(), null_write(); break;
    case LP_INJECT_ABORT: GGML_ABORT("injected abort");
    case LP_INJECT_STACK_OVERFLOW: zero = overflow(1); break;
    case LP_INJECT_DIVISION: dividend = dividend / zero; break;
    case LP_INJECT_ILLEGAL: __builtin_trap();
    case LP_INJECT_LOOP:
        for (;;) __asm__ volatile("" ::: "memory");
    case LP_INJECT_THROW: throw std::runtime_error("injected C++ exception");
    case LP_INJECT_NO_MEMORY: throw std::bad_alloc();
    case LP_INJECT_GPU_ADDRESS:
    case LP_INJECT_GPU_MEMORY:
        GGML_ASSERT(lp_inject_gpu != nullptr);
        lp_inject_gpu(injected == LP_INJECT_GPU_MEMORY);
        break;
    default: lp_inject_locks(injected); break;
    }
}

}  // namespace

extern "C" void lp_pen_inject(void) { lp_pen_injector = inject; }

// The program's own, so that every allocation of llama.cpp is a place for a fault.
void * operator new(std::size_t size) {
    if (lp_pen_injector != nullptr) lp_pen_injector(LP_IN_NEW);
    if (void * place = std::malloc(size == 0 ? 1 : size)) return place;
    throw std::bad_alloc();
}
void operator delete(void * place) noexcept { std::free(place); }
void operator delete(void * place, std::size_t) noexcept { std::free(place); }
