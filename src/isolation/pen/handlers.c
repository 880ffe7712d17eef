// Signals: what is a domain's fault is recorded and its thread parked, everything else goes on to whom it would have gone.
#include "pen_internal.h"

#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

// The last one only where Rust's panics abort.
static const int SIGNALS[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
enum { N_SIGNALS = sizeof SIGNALS / sizeof *SIGNALS };

_Atomic bool lp_handlers_on;

static struct sigaction before[N_SIGNALS];
// How many of them.
static int n_signals;
// Where the engine's code is.
static uintptr_t text_begin, text_end, module_base;
// Where the C library's are that the engine fills and copies memory with, as they were chosen for this CPU.
static uintptr_t copies[3];
// One takes up to 2 KB, in the C libraries that we know; behind it are others of the same kind.
enum { COPY_BYTES = 2048 };

static int place_of(int signal) {
    for (int i = 0; i < n_signals; i++) {
        if (SIGNALS[i] == signal) return i;
    }
    return -1;
}

static bool in_engine(uintptr_t address) { return address >= text_begin && address < text_end; }

// Where the thread was.
static uintptr_t position(const ucontext_t * context) {
#if defined(__x86_64__)
    return (uintptr_t) context->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return context->uc_mcontext.pc;
#endif
}

static bool in_copy(uintptr_t address) {
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++) {
        if (address >= copies[i] && address < copies[i] + COPY_BYTES) return true;
    }
    return false;
}

// Where a function without a frame of its own (memcpy and its like, or a jump to nowhere) returns to.
static uintptr_t caller(const ucontext_t * context) {
#if defined(__x86_64__)
    const uintptr_t sp = (uintptr_t) context->uc_mcontext.gregs[REG_RSP];
    return sp % sizeof(uintptr_t) == 0 ? *(const uintptr_t *) sp : 0;
#elif defined(__aarch64__)
    return context->uc_mcontext.regs[30];
#endif
}

// Whether a fault happened where nobody outside the domain waits for what the thread may hold: in the engine's own code, or
// in a copy that this asked for, or where it jumped to and nothing is. Inside malloc, for one, the top of the stack is no
// return address and may be anything, so it is believed nowhere else. The position first: a stack that overflowed cannot be
// read, and then the engine's code stands on top of it.
static bool holds_nothing(const ucontext_t * context, const siginfo_t * info) {
    const uintptr_t pc = position(context);
    const bool jumped = info->si_signo == SIGSEGV && pc == (uintptr_t) info->si_addr;
    return in_engine(pc) || ((in_copy(pc) || jumped) && in_engine(caller(context)));
}

// Interrupted in a wait of the system's that had not ended: it was not woken, so it took nobody's wake with it, and what it
// waits for it does not hold. Other calls tell no EINTR: malloc has the system give it memory while it holds its lock.
static bool waits(const ucontext_t * context) {
#if defined(__x86_64__)
    const unsigned char * next = (const unsigned char *) position(context);
    return next[-2] == 0x0f && next[-1] == 0x05 && context->uc_mcontext.gregs[REG_RAX] == -EINTR;
#else
    const uint32_t * next = (const uint32_t *) position(context);
    return next[-1] == 0xd4000001 && (int64_t) context->uc_mcontext.regs[0] == -EINTR;
#endif
}

static void chain(int place, int signal, siginfo_t * info, void * context) {
    const struct sigaction * host = &before[place];
    if (host->sa_flags & SA_SIGINFO) return host->sa_sigaction(signal, info, context);
    if (host->sa_handler != SIG_DFL && host->sa_handler != SIG_IGN) return host->sa_handler(signal);
    const bool sent = info->si_code <= 0;
    if (host->sa_handler == SIG_IGN && sent) return;
    // The default: as it would have been, with the same signal. A fault comes again when this returns.
    struct sigaction standard = { .sa_handler = SIG_DFL };
    sigaction(signal, &standard, NULL);
    if (sent) syscall(SYS_tgkill, getpid(), lp_tid(), signal);
}

static void handle(int signal, siginfo_t * info, void * given) {
    const int saved = errno;
    const ucontext_t * context = given;
    const int place = place_of(signal);
    lp_thread * thread = lp_find(lp_tid());
    if (thread != NULL) {
        const uintptr_t pc = position(context);
        if (signal == LP_PARK_SIGNAL && info->si_code == SI_TKILL && info->si_pid == getpid()) {
            // From lp_domain_park, which asks again: where it cannot be parked now it may be able to later.
            const bool dying = atomic_load(&thread->domain->dying), may = thread->pen > 0 && thread->critical == 0;
            if (dying && may && (in_engine(pc) || waits(context))) {
                if (!thread->compute) atomic_store(&thread->domain->interrupted, 1);
                lp_park(thread);
            }
            errno = saved;
            return;
        }
        if (signal == SIGABRT && thread->panicked) lp_park(thread);
        if (signal != SIGABRT && thread->pen > 0 && thread->critical == 0 && info->si_code > 0 && holds_nothing(context, info)) {
            lp_fault fault = {
                .kind = LP_FAULT_SIGNAL,
                .signal = signal,
                .code = info->si_code,
                .address = (uintptr_t) info->si_addr,
                .pc = in_engine(pc) ? pc - module_base : 0,
                .tid = lp_tid(),
                .on_compute_thread = thread->compute,
            };
            lp_record(thread->domain, &fault);
            lp_park(thread);
        }
    }
    errno = saved;
    chain(place, signal, info, given);
}

// --- installing ---

static int find_text(struct dl_phdr_info * info, size_t size, void * data) {
    (void) size, (void) data;
    const uintptr_t ours = (uintptr_t) &lp_pen_poll;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) * segment = &info->dlpi_phdr[i];
        const uintptr_t begin = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) && ours >= begin && ours < begin + segment->p_memsz) {
            module_base = info->dlpi_addr;
            text_begin = begin;
            text_end = begin + segment->p_memsz;
            return 1;
        }
    }
    return 0;
}

bool lp_handlers_install(bool aborts, const char ** why) {
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    static bool installed;
    pthread_mutex_lock(&once);
    if (!installed) {
        dl_iterate_phdr(find_text, NULL);
        // Where malloc is linked into the same code, a thread inside it could not be told from one that computes.
        if (text_end == 0) *why = "the engine's code was not found in this process";
        else if (in_engine((uintptr_t) &malloc)) *why = "the C library is linked statically";
        else {
            copies[0] = (uintptr_t) &memcpy, copies[1] = (uintptr_t) &memmove, copies[2] = (uintptr_t) &memset;
            n_signals = aborts ? N_SIGNALS : N_SIGNALS - 1;
            installed = lp_handlers_on = true;
            struct sigaction ours = { .sa_flags = SA_SIGINFO | SA_ONSTACK };
            ours.sa_sigaction = handle;
            sigemptyset(&ours.sa_mask);
            for (int i = 0; i < n_signals; i++) sigaction(SIGNALS[i], &ours, &before[i]);
        }
    }
    const bool done = installed;
    pthread_mutex_unlock(&once);
    return done;
}

bool lp_handlers_installed(void) {
    if (!lp_handlers_on) return false;
    for (int i = 0; i < n_signals; i++) {
        struct sigaction now;
        if (sigaction(SIGNALS[i], NULL, &now) != 0 || !(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != handle) return false;
    }
    return true;
}
