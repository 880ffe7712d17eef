/* Preloaded: ends the process with status 86 when a thread allocates or frees on its signal stack, that is in a handler. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *place, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *place);

static unsigned long calls;

/* Asks the system, because anything that is kept per thread could itself allocate. */
static void check(const char *what) {
    stack_t now;
    __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
    if (sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_ONSTACK)) {
        (void)!write(2, what, strlen(what));
        (void)!write(2, " in a signal handler\n", 21);
        _exit(86);
    }
}

void *malloc(size_t size) {
    check("malloc");
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    check("calloc");
    return __libc_calloc(count, size);
}

void *realloc(void *place, size_t size) {
    check("realloc");
    return __libc_realloc(place, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    check("aligned_alloc");
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **place, size_t alignment, size_t size) {
    check("posix_memalign");
    *place = __libc_memalign(alignment, size);
    return *place == NULL ? 12 : 0;
}

void free(void *place) {
    check("free");
    __libc_free(place);
}

/* How often it was asked: that it is there at all. */
unsigned long no_allocation_calls(void) { return __atomic_load_n(&calls, __ATOMIC_RELAXED); }

static void allocate(int signal) {
    (void)signal;
    free(malloc(100));
}

/* What must not happen. */
void no_allocation_breach(void) {
    static char memory[65536];
    stack_t stack;
    struct sigaction action;
    memset(&stack, 0, sizeof stack);
    stack.ss_sp = memory;
    stack.ss_size = sizeof memory;
    sigaltstack(&stack, NULL);
    memset(&action, 0, sizeof action);
    action.sa_handler = allocate;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
}
