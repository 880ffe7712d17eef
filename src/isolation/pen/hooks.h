// Read before ggml.c, ggml-cpu.c and ggml-alloc.c (gcc's -include): what they ask of the system, they ask of the pen. No vendored
// file is patched.
//
// ggml waits in two places, a barrier between operations and a poll for work, and spins there with a pause instruction and
// nothing else. With more runnable threads than cores (the normal case inside a host application) the waiting thread burns
// the very core that the awaited thread needs, and decoding collapses; and when one thread of a domain is parked, the others
// would spin for ever. ggml-cpu.c defines `ggml_thread_cpu_relax(void)` and calls `ggml_thread_cpu_relax()`, and a macro can
// tell the two apart by its argument: the definition keeps its name, the calls become ours, and say by the name of the function
// that they are in which of the two waits it is.
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "pen.h"

void llamapen_cpu_relax(bool at_barrier);

// The new thread is in the domain of the one that starts it.
int lp_pen_pthread_create(pthread_t * thread, const pthread_attr_t * attributes, void * (*body)(void *), void * data);
// Large blocks have mappings of their own, which are given back when their domain is gone.
int lp_pen_memalign(void ** place, size_t alignment, size_t size);
void lp_pen_free(void * place);
// The blocks that the calling thread allocates from now on are, or are not, for tensors that stay: weights, KV caches.
void lp_pen_for_tensors(bool begins);

#define ggml_thread_cpu_relax(argument) LLAMAPEN_RELAX_##argument
#define LLAMAPEN_RELAX_void llamapen_unused_relax(void)
#define LLAMAPEN_RELAX_ llamapen_cpu_relax(sizeof __func__ == sizeof "ggml_barrier")

#ifdef LLAMAPEN_HOOK_THREADS
#define pthread_create(thread, attributes, body, data) lp_pen_pthread_create(thread, attributes, body, data)
#endif

#ifdef LLAMAPEN_HOOK_MEMORY
#define posix_memalign(place, alignment, size) lp_pen_memalign(place, alignment, size)
#define free(place) lp_pen_free(place)
// ggml_abort calls it before its callback: a thread of the host that is stuck in printf would hold it up for ever.
#define fflush(stream) ((void) 0)
#endif

#ifdef LLAMAPEN_HOOK_TENSORS
#include "ggml-backend.h"
// Called for tensors that stay, whereas compute buffers are allocated by their size alone.
static inline ggml_backend_buffer_t lp_alloc_tensors(ggml_backend_buffer_type_t type, struct ggml_tensor ** tensors, int n_tensors) {
    lp_pen_for_tensors(true);
    const ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer_n(type, tensors, n_tensors);
    lp_pen_for_tensors(false);
    return buffer;
}
#define ggml_backend_buft_alloc_buffer_n(type, tensors, n_tensors) lp_alloc_tensors(type, tensors, n_tensors)
#endif
