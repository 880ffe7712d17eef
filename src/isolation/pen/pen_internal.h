// What the files of the pen share.
#pragma once

#include "hooks.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>


// Threads of all domains of a process at a time.
enum { LP_MAX_THREADS = 1024 };
// More than AT_MINSIGSTKSZ with AVX-512 and AMX state, for a handler that calls next to nothing, and a host's that it chains to.
enum { LP_HANDLER_STACK = 64 * 1024 };
// Sent by us, to our own threads only, so that no signal is taken from the host: it is told apart by its sender.
enum { LP_PARK_SIGNAL = SIGBUS };

enum { LP_RUNNING = 0, LP_PARKED = 1 };
enum { LP_RECORDING = 1, LP_RECORDED = 2 };

typedef struct lp_thread {
    _Atomic int tid; // 0: free, -1: being filled
    _Atomic int state;
    lp_domain * domain;
    pthread_t handle;
    void * stack;
    // How many calls of llama.cpp it is in; above 0 it may be parked where it stands.
    volatile int pen;
    // How many sections it is in that threads of other domains wait for; above 0 it is not parked, whatever happens.
    volatile int critical;
    // It will abort, because Rust panicked: nobody waits for it any more.
    volatile bool panicked;
    bool compute;
} lp_thread;

struct lp_block;

struct lp_domain {
    // Grows with everything that somebody may wait for.
    _Atomic int changed;
    _Atomic int ended;
    _Atomic int faulted;
    _Atomic int dying;
    _Atomic int released;
    // The first thread was parked by a signal, and not by itself.
    _Atomic int interrupted;
    _Atomic int armed;
    int armed_place;
    lp_fault fault;
    pthread_t handle;
    _Atomic(struct lp_block *) blocks;
};

// Without handlers nothing can be parked where it stands, and nothing is contained but what is caught.
extern _Atomic bool lp_handlers_on;

extern lp_thread lp_threads[LP_MAX_THREADS];

pid_t lp_tid(void);
lp_thread * lp_find(pid_t tid);
// Records a fault, if it is the domain's first.
bool lp_record(lp_domain * domain, const lp_fault * fault);
// Does not return: waits until the domain is released, and ends the thread.
void lp_park(lp_thread * thread) __attribute__((noreturn));
void lp_copy(char * to, size_t size, const char * from);
// What the domain allocated is nobody's from now on, and outlives it: weights that the loader repacked.
void lp_leave_blocks(lp_domain * domain);
// The calling thread's; NULL for a thread of the host.
lp_domain * lp_current_domain(void);
lp_thread * lp_current_thread(void);
// In catch.cpp: runs a compute thread's body; what it throws ends the domain.
void * lp_pen_catch(void * (*body)(void *), void * data);
