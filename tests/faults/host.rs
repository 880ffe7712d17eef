//! What is not the engine's is the host's.

use crate::case::{dies, role, run, start, this_test};
use crate::support::in_processes;
use llamapen::SupervisorConfig;

/// It dies as it would have, with the same signal.
#[test]
fn a_hosts_own_fault_is_left_alone() {
    if role().is_none() {
        return dies(&run(this_test!(), "host"), libc::SIGSEGV);
    }
    let supervisor = start(SupervisorConfig::default());
    assert_eq!(supervisor.health().unwrap().contains_faults, !in_processes());
    // SAFETY: not: it is a host's mistake.
    unsafe { std::ptr::null_mut::<u32>().add(1).write_volatile(1) };
}
