/* A worker's first steps in its own process: the same for the embedded launcher and for Rust programs (entry.rs). */
#pragma once

#include <sys/types.h>

/* How a launcher ends that could not start a worker; entry.rs has the same numbers. */
enum {
    LP_STARTED_BY_HAND = 2,
    LP_HOST_IS_GONE = 120,
    LP_LIBRARY_FAILED = 121,
    LP_NO_ENTRY = 122,
};

/* Leaves behind what the host's process was like: its signals and its descriptors. Dies with the host from here on.
 * Returns 0 if the host, the process with this number, is gone already. */
int lp_settle(pid_t host);
