// The pen: which threads belong to which fault domain, and what happens to them when one of them faults.
//
// All of it may run in a signal handler or in the middle of ggml: nothing here allocates, locks or calls stdio. A thread is
// found by its tid in a table of fixed size; thread-local storage (initial-exec, so that no access allocates) is only a
// shortcut for the threads' own use.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What a domain ended of.
typedef enum LP_FaultKind {
    LP_FAULT_NONE = 0,
    LP_FAULT_SIGNAL = 1, // a memory fault, a division by zero, an illegal instruction
    LP_FAULT_ABORT = 2,  // GGML_ASSERT or GGML_ABORT
    LP_FAULT_THROW = 3,  // a C++ exception on a compute thread
    LP_FAULT_STALL = 4,  // told to end from outside
    LP_FAULT_MEMORY = 5, // std::bad_alloc where LP_FAULT_THROW is said of others
    LP_FAULT_PANIC = 6,  // a Rust panic that would abort
} LP_FaultKind;

// One fault domain. Owned by Rust; must live until no thread of it is left.
typedef struct lp_domain lp_domain;

// What was recorded of the first fault of a domain.
typedef struct lp_fault {
    int32_t kind; // LP_FaultKind
    int32_t signal;
    int32_t code;     // si_code
    uint64_t address; // si_addr
    uint64_t pc;      // offset in this module, or 0
    int32_t tid;
    bool on_compute_thread;
    char message[512];
} lp_fault;

lp_domain * lp_domain_new(void);
// Only when it has no threads any more.
void lp_domain_free(lp_domain * domain);

// Starts the domain's first thread, which runs body(data) in it.
bool lp_domain_start(lp_domain * domain, size_t stack_bytes, void (*body)(void *), void * data);
// Waits until the body has returned (true) or the domain has faulted (false).
bool lp_domain_wait(lp_domain * domain);
// Waits for either, for at most wait_us; false: neither has happened.
bool lp_domain_is_over(lp_domain * domain, unsigned wait_us);
// What happened, once it has.
bool lp_domain_fault(const lp_domain * domain, lp_fault * fault);
// Marks the domain as dying because of a stall, and as faulted, if it is not already.
void lp_domain_condemn(lp_domain * domain, const char * message);
// Asks the threads that are not parked yet to park, waits at most wait_us, and says how many are not.
int lp_domain_park(lp_domain * domain, unsigned wait_us);
// Ends all parked threads and joins them; those that are not parked stay.
void lp_domain_reap(lp_domain * domain);
// Whether the first thread stopped in a call of ours, where what it was working on is whole, and not at some instruction.
bool lp_domain_is_whole(const lp_domain * domain);
// Gives back what the domain allocated in large blocks. Only when it has no threads any more.
void lp_domain_free_blocks(lp_domain * domain);
// Joins the first thread after its body has returned.
void lp_domain_join(lp_domain * domain);

// Installs the handlers, once. False: they cannot work in this process, and why. `aborts`: for SIGABRT, too, which a Rust
// panic raises where panics do not unwind.
bool lp_handlers_install(bool aborts, const char ** why);
// Whether ours are still what the kernel calls.
bool lp_handlers_installed(void);

// Called by the shim around each call of llama.cpp: only in between can a thread be parked where it stands. Nested.
void lp_pen_enter(void);
void lp_pen_leave(void);
// The same for callbacks into Rust, in the opposite order. Returns what lp_pen_back takes.
int lp_pen_out(void);
void lp_pen_back(int depth);

// The large block of ggml's that starts there is not written again: a write to it is a memory fault from now on, until it is
// freed. Nothing happens where no such block starts. Only for who owns it.
void lp_pen_protect(void * place);

// ggml's abort callback: does not return on a domain's thread.
void lp_pen_abort(const char * message);

// An exception left a graph that is computed, which other threads of the domain wait in. As lp_pen_abort.
void lp_pen_thrown(const char * message);
// The same of std::bad_alloc.
void lp_pen_no_memory(const char * message);

// Rust panicked, and its abort follows: the domain dies of that, and the thread is parked in it. Not at once, because the
// caller is a panic hook, around which Rust holds a lock.
void lp_pen_panicked(const char * message);

// Parks the calling thread if its domain is dying. Called by ggml's waiting loops.
void lp_pen_poll(void);

// For fault injection: what a thread of the domain does when it comes to a place.
typedef enum LP_Injected {
    LP_INJECT_NOTHING = 0,
    LP_INJECT_NULL_WRITE = 1,
    LP_INJECT_WILD_WRITE = 2,
    LP_INJECT_ABORT = 3,
    LP_INJECT_STACK_OVERFLOW = 4,
    LP_INJECT_DIVISION = 5,
    LP_INJECT_ILLEGAL = 6,
    LP_INJECT_LOOP = 7,
    LP_INJECT_THROW = 8,
    LP_INJECT_READ_ONLY_WRITE = 9,
    LP_INJECT_WEIGHT_WRITE = 10, // to weights of the first layer
    LP_INJECT_NO_MEMORY = 11,    // std::bad_alloc; in LP_IN_MEMALIGN: ENOMEM
    LP_INJECT_TOGETHER = 12,     // waits for a second thread that is told the same, then as LP_INJECT_NULL_WRITE
    // See inject_locks.cpp.
    LP_INJECT_CRITICAL_WRITE = 20,
    LP_INJECT_CRITICAL_ABORT = 21,
    LP_INJECT_CRITICAL_WAIT = 22,
    LP_INJECT_MALLOC_WRITE = 23,
    LP_INJECT_HEAP = 24,
    LP_INJECT_ALLOCATE = 25,
    LP_INJECT_ALLOCATE_AND_ABORT = 26,
    LP_INJECT_COPY = 27,
    // See src/native/cuda/inject.cu.
    LP_INJECT_GPU_ADDRESS = 40, // a kernel writes to where nothing is
    LP_INJECT_GPU_MEMORY = 41,  // takes all memory of the GPU
} LP_Injected;
typedef enum LP_Place {
    LP_IN_GRAPH = 0,    // that is computed, on the thread that decodes
    LP_IN_COMPUTE = 1,  // the same, on a compute thread
    LP_IN_SAMPLER = 2,  // a filter of a chain of llama.cpp's
    LP_IN_NEW = 3,      // any allocation of C++
    LP_IN_MEMALIGN = 4, // a large block of ggml's
    LP_IN_LOAD = 5,     // between two tensors
} LP_Place;
void lp_pen_arm(int injected, int place);
// What the calling thread is to do at this place, once; 0: nothing. Compute threads give LP_IN_GRAPH, too.
int lp_pen_take_armed(int place);
// In builds with fault injection: makes all of it happen.
void lp_pen_inject(void);
// Does LP_INJECT_GPU_…. NULL: there is no GPU.
extern void (*lp_inject_gpu)(bool of_memory);
// Does those that have to do with locks.
void lp_inject_locks(int injected);
// Whether the calling thread's domain is dying.
bool lp_pen_is_dying(void);
// Called at all those places, if set.
extern void (*lp_pen_injector)(int place);

#ifdef __cplusplus
}
#endif
