// Faults on demand that have to do with locks which others wait for: ggml's critical section, and the C library's heap.
#include "pen.h"

#include "ggml.h"

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>

extern "C" void ggml_critical_section_start(void);
extern "C" void ggml_critical_section_end(void);

namespace {

volatile uintptr_t nowhere = 0xdead0000000;

void write_nowhere() { *reinterpret_cast<volatile int *>(nowhere) = 1; }

void wait(std::chrono::milliseconds time) {
    for (const auto end = std::chrono::steady_clock::now() + time; std::chrono::steady_clock::now() < end;) {}
}

// The compiler may think nothing of what is written to it.
void * escaped(void * place) {
    __asm__ volatile("" : "+r"(place) : : "memory");
    return place;
}

// Too large for the caches that a thread has to itself.
char * large() { return static_cast<char *>(escaped(std::malloc(0x2000))); }

// malloc follows a pointer of a free block's that goes nowhere.
void fault_in_malloc() {
    large();
    char * broken = large();
    large();
    std::free(broken);
    // In the list of blocks that were freed last: the next one, and the one before it.
    reinterpret_cast<volatile uintptr_t *>(broken)[1] = nowhere;
    escaped(std::malloc(0x3000));
}

// free sees that the block behind it says it is free already.
void corrupt_heap() {
    char * block = large();
    large();
    reinterpret_cast<volatile size_t *>(block + 0x2000)[1] = 0;
    std::free(escaped(block));
}

// Sizes of every kind: from the thread's cache, from the arena, and where the arena has to grow and shrinks again.
[[noreturn]] void allocate() {
    static char * volatile kept[64];
    for (uint32_t n = 1;; n++) {
        char * volatile & place = kept[n % 64];
        const uint32_t random = n * 2654435761u >> 8;
        char * fresh = static_cast<char *>(std::malloc(16 + (random % 4 == 0 ? random % 120000 : random % 3000)));
        if (fresh != nullptr) fresh[0] = 1;
        std::free(__atomic_exchange_n(&place, fresh, __ATOMIC_ACQ_REL));
    }
}

}  // namespace

extern "C" void lp_inject_locks(int injected) {
    switch (injected) {
    case LP_INJECT_CRITICAL_WRITE:
        ggml_critical_section_start();
        write_nowhere();
        break;
    case LP_INJECT_CRITICAL_ABORT:
        ggml_critical_section_start();
        GGML_ABORT("injected abort in the critical section");
    case LP_INJECT_CRITICAL_WAIT:
        // Told to park while it is in there, it goes on, and hangs outside.
        ggml_critical_section_start();
        while (!lp_pen_is_dying()) {}
        wait(std::chrono::milliseconds(300));
        ggml_critical_section_end();
        for (;;) __asm__ volatile("" ::: "memory");
    case LP_INJECT_MALLOC_WRITE: fault_in_malloc(); break;
    case LP_INJECT_HEAP: corrupt_heap(); break;
    case LP_INJECT_ALLOCATE: allocate();
    case LP_INJECT_ALLOCATE_AND_ABORT:
        // On a compute thread; the thread that decodes, which waits for it, aborts.
        lp_pen_arm(LP_INJECT_ABORT, LP_IN_GRAPH);
        allocate();
    case LP_INJECT_COPY: {
        static char bytes[8192];
        std::memcpy(reinterpret_cast<void *>(nowhere), escaped(bytes), sizeof bytes - nowhere % 7);
        break;
    }
    default: break;
    }
}
