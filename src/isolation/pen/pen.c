// Fault domains: threads, parking, ending. See pen.h for the rules; handlers.c has the signals, blocks.c the memory.
#include "pen_internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

lp_thread lp_threads[LP_MAX_THREADS];

// The thread's own entry; a shortcut that handlers do not take.
static __thread lp_thread * self __attribute__((tls_model("initial-exec")));

static long futex(_Atomic int * word, int op, int value, const struct timespec * timeout) {
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void wake_all(_Atomic int * word) { futex(word, FUTEX_WAKE, INT32_MAX, NULL); }

pid_t lp_tid(void) { return (pid_t) syscall(SYS_gettid); }

lp_thread * lp_find(pid_t tid) {
    for (size_t i = 0; i < LP_MAX_THREADS; i++) {
        if (atomic_load_explicit(&lp_threads[i].tid, memory_order_acquire) == tid) return &lp_threads[i];
    }
    return NULL;
}

// Takes a free entry of the table for the calling thread, with a stack for its handler.
static lp_thread * take_entry(lp_domain * domain, bool compute) {
    for (size_t i = 0; i < LP_MAX_THREADS; i++) {
        int free = 0;
        lp_thread * thread = &lp_threads[i];
        if (!atomic_compare_exchange_strong(&thread->tid, &free, -1)) continue;
        thread->domain = domain;
        thread->compute = compute;
        thread->pen = 0;
        thread->critical = 0;
        thread->panicked = false;
        atomic_store(&thread->state, LP_RUNNING);
        thread->stack = mmap(NULL, LP_HANDLER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (thread->stack == MAP_FAILED) {
            atomic_store(&thread->tid, 0);
            return NULL;
        }
        const stack_t stack = { .ss_sp = thread->stack, .ss_size = LP_HANDLER_STACK };
        sigaltstack(&stack, NULL);
        thread->handle = pthread_self();
        atomic_store_explicit(&thread->tid, lp_tid(), memory_order_release);
        return thread;
    }
    return NULL;
}

// The thread ends in order, or was joined: its entry is free again.
static void give_entry(lp_thread * thread) {
    munmap(thread->stack, LP_HANDLER_STACK);
    atomic_store(&thread->tid, 0);
}

// The calling thread ends in order.
static void leave(void) {
    const stack_t none = { .ss_flags = SS_DISABLE };
    sigaltstack(&none, NULL);
    lp_thread * entry = self;
    self = NULL;
    give_entry(entry);
}

lp_domain * lp_domain_new(void) { return calloc(1, sizeof(lp_domain)); }

void lp_domain_free(lp_domain * domain) {
    lp_leave_blocks(domain);
    free(domain);
}

// --- starting ---

typedef struct start {
    lp_domain * domain;
    void (*body)(void *);
    void * data;
} start;

static void * first_thread(void * given) {
    const start args = *(start *) given;
    free(given);
    self = take_entry(args.domain, false);
    args.body(args.data);
    if (self != NULL) leave();
    atomic_store(&args.domain->ended, 1);
    atomic_fetch_add(&args.domain->changed, 1);
    wake_all(&args.domain->changed);
    return NULL;
}

bool lp_domain_start(lp_domain * domain, size_t stack_bytes, void (*body)(void *), void * data) {
    start * args = malloc(sizeof *args);
    if (args == NULL) return false;
    *args = (start){ domain, body, data };
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_bytes);
    const int failed = pthread_create(&domain->handle, &attributes, first_thread, args);
    pthread_attr_destroy(&attributes);
    if (failed) free(args);
    return !failed;
}

bool lp_domain_wait(lp_domain * domain) {
    for (;;) {
        const int changed = atomic_load(&domain->changed);
        if (atomic_load(&domain->faulted) == LP_RECORDED) return false;
        if (atomic_load(&domain->ended)) return true;
        futex(&domain->changed, FUTEX_WAIT, changed, NULL);
    }
}

bool lp_domain_is_over(lp_domain * domain, unsigned wait_us) {
    const int64_t end = now_us() + wait_us;
    for (;;) {
        const int changed = atomic_load(&domain->changed);
        if (atomic_load(&domain->faulted) == LP_RECORDED || atomic_load(&domain->ended)) return true;
        const int64_t left = end - now_us();
        if (left <= 0) return false;
        const struct timespec pause = { .tv_sec = left / 1000000, .tv_nsec = left % 1000000 * 1000 };
        futex(&domain->changed, FUTEX_WAIT, changed, &pause);
    }
}

void lp_domain_join(lp_domain * domain) { pthread_join(domain->handle, NULL); }

// --- faults ---

bool lp_record(lp_domain * domain, const lp_fault * fault) {
    int none = 0;
    const bool first = atomic_compare_exchange_strong(&domain->faulted, &none, LP_RECORDING);
    if (first) {
        domain->fault = *fault;
        atomic_store(&domain->faulted, LP_RECORDED);
    }
    atomic_store(&domain->dying, 1);
    atomic_fetch_add(&domain->changed, 1);
    wake_all(&domain->changed);
    return first;
}

bool lp_domain_is_whole(const lp_domain * domain) { return atomic_load(&((lp_domain *) domain)->interrupted) == 0; }

bool lp_domain_fault(const lp_domain * domain, lp_fault * fault) {
    if (atomic_load(&((lp_domain *) domain)->faulted) != LP_RECORDED) return false;
    *fault = domain->fault;
    return true;
}

void lp_copy(char * to, size_t size, const char * from) {
    size_t i = 0;
    for (; from != NULL && from[i] != '\0' && i + 1 < size; i++) to[i] = from[i];
    to[i] = '\0';
}

void lp_domain_condemn(lp_domain * domain, const char * message) {
    lp_fault fault = { .kind = LP_FAULT_STALL };
    lp_copy(fault.message, sizeof fault.message, message);
    lp_record(domain, &fault);
}

void lp_park(lp_thread * thread) {
    lp_domain * domain = thread->domain;
    atomic_store(&thread->state, LP_PARKED);
    atomic_fetch_add(&domain->changed, 1);
    wake_all(&domain->changed);
    while (!atomic_load(&domain->released)) futex(&domain->released, FUTEX_WAIT, 0, NULL);
    // Not pthread_exit: nothing of what the thread was doing may be undone, no destructor run.
    for (;;) syscall(SYS_exit, 0);
}

void lp_pen_poll(void) {
    lp_thread * thread = self;
    if (thread == NULL || thread->critical > 0) return;
    if (atomic_load_explicit(&thread->domain->dying, memory_order_relaxed)) lp_park(thread);
}

void lp_pen_enter(void) {
    lp_thread * thread = self;
    if (thread == NULL) return;
    // A domain that is dying takes no more calls.
    if (thread->pen == 0) lp_pen_poll();
    thread->pen++;
}

void lp_pen_leave(void) {
    lp_thread * thread = self;
    if (thread == NULL) return;
    if (--thread->pen == 0) lp_pen_poll();
}

int lp_pen_out(void) {
    lp_thread * thread = self;
    if (thread == NULL) return 0;
    const int depth = thread->pen;
    thread->pen = 0;
    return depth;
}

void lp_pen_back(int depth) {
    lp_thread * thread = self;
    if (thread == NULL) return;
    if (depth > 0) lp_pen_poll();
    thread->pen = depth;
}

// The calling thread's domain ends of this. Returns where nothing can be contained: the process ends as it would have.
static void fatal(int kind, const char * message) {
    lp_thread * thread = self;
    // A thread of the host's, or one that others may wait for.
    if (thread == NULL || thread->critical > 0 || !lp_handlers_on) return;
    lp_fault fault = { .kind = kind, .tid = lp_tid(), .on_compute_thread = thread->compute };
    lp_copy(fault.message, sizeof fault.message, message);
    lp_record(thread->domain, &fault);
    lp_park(thread);
}

void lp_pen_abort(const char * message) {
    // Outside of the pen it may hold what others wait for.
    if (self != NULL && self->pen > 0) fatal(LP_FAULT_ABORT, message);
}

void lp_pen_thrown(const char * message) { fatal(LP_FAULT_THROW, message); }

void lp_pen_no_memory(const char * message) { fatal(LP_FAULT_MEMORY, message); }

void lp_pen_panicked(const char * message) {
    lp_thread * thread = self;
    if (thread == NULL || thread->critical > 0 || !lp_handlers_on) return;
    lp_fault fault = { .kind = LP_FAULT_PANIC, .tid = lp_tid(), .on_compute_thread = thread->compute };
    lp_copy(fault.message, sizeof fault.message, message);
    thread->panicked = true;
    lp_record(thread->domain, &fault);
}

// --- compute threads ---

typedef struct compute {
    lp_domain * domain;
    void * (*body)(void *);
    void * data;
} compute;

static void * compute_thread(void * given) {
    const compute args = *(compute *) given;
    free(given);
    self = take_entry(args.domain, true);
    if (self == NULL) return args.body(args.data);
    // It runs nothing but kernels.
    self->pen = 1;
    void * result = lp_pen_catch(args.body, args.data);
    self->pen = 0;
    lp_pen_poll();
    leave();
    return result;
}

int lp_pen_pthread_create(pthread_t * thread, const pthread_attr_t * attributes, void * (*body)(void *), void * data) {
    if (self == NULL) return pthread_create(thread, attributes, body, data);
    compute * args = malloc(sizeof *args);
    if (args == NULL) return ENOMEM;
    *args = (compute){ self->domain, body, data };
    const int failed = pthread_create(thread, attributes, compute_thread, args);
    if (failed) free(args);
    return failed;
}

// --- the end of a domain ---

// Threads of the domain that are in the table, and not in `state`.
static int others(lp_domain * domain, int state, bool ask) {
    int n = 0;
    for (size_t i = 0; i < LP_MAX_THREADS; i++) {
        lp_thread * thread = &lp_threads[i];
        const pid_t tid = atomic_load(&thread->tid);
        if (tid <= 0 || thread->domain != domain || atomic_load(&thread->state) == state) continue;
        n++;
        if (ask && lp_handlers_on) syscall(SYS_tgkill, getpid(), tid, LP_PARK_SIGNAL);
    }
    return n;
}

int lp_domain_park(lp_domain * domain, unsigned wait_us) {
    const int64_t end = now_us() + wait_us;
    for (int turn = 0;; turn++) {
        const int changed = atomic_load(&domain->changed);
        // Most park by themselves, in ggml's barrier or when their call returns.
        const int left = others(domain, LP_PARKED, turn > 0);
        if (left == 0 || now_us() >= end) return left;
        const struct timespec pause = { .tv_nsec = 1000000 };
        futex(&domain->changed, FUTEX_WAIT, changed, &pause);
    }
}

void lp_domain_reap(lp_domain * domain) {
    pthread_t handles[LP_MAX_THREADS];
    lp_thread * entries[LP_MAX_THREADS];
    size_t n = 0;
    for (size_t i = 0; i < LP_MAX_THREADS; i++) {
        lp_thread * thread = &lp_threads[i];
        if (atomic_load(&thread->tid) <= 0 || thread->domain != domain || atomic_load(&thread->state) != LP_PARKED) continue;
        entries[n] = thread;
        handles[n++] = thread->handle;
    }
    atomic_store(&domain->released, 1);
    wake_all(&domain->released);
    // It ended in order while it was told to die.
    if (atomic_load(&domain->ended)) pthread_join(domain->handle, NULL);
    for (size_t i = 0; i < n; i++) {
        pthread_join(handles[i], NULL);
        give_entry(entries[i]);
    }
}

// --- fault injection ---

void (*lp_pen_injector)(int place);

void lp_pen_arm(int injected, int place) {
    if (self == NULL) return;
    self->domain->armed_place = place;
    atomic_store(&self->domain->armed, injected);
}

int lp_pen_take_armed(int place) {
    lp_thread * thread = self;
    if (thread == NULL || thread->pen == 0) return 0;
    int injected = atomic_load_explicit(&thread->domain->armed, memory_order_acquire);
    if (place == LP_IN_GRAPH && thread->compute) place = LP_IN_COMPUTE;
    if (injected == 0 || place != thread->domain->armed_place) return 0;
    return atomic_compare_exchange_strong(&thread->domain->armed, &injected, 0) ? injected : 0;
}

bool lp_pen_is_dying(void) { return self != NULL && atomic_load(&self->domain->dying) != 0; }

lp_thread * lp_current_thread(void) { return self; }

lp_domain * lp_current_domain(void) { return self == NULL ? NULL : self->domain; }
