//! Limits and ranks that a process gives itself.

use super::ConfineError;
use crate::config::MOST_CPUS;
use std::io;

const BITS: u32 = u64::BITS;
/// More words than the kernel's are allowed, and stay zero.
type CpuMask = [u64; (MOST_CPUS / BITS) as usize];

/// A dump of the memory would hold prompts and answers, and takes long to write.
pub(super) fn no_core_dumps() -> Result<(), ConfineError> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a plain local.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) }).map_err(|e| ConfineError::Limit("RLIMIT_CORE", e))
}

/// Not `RLIMIT_AS`: a model that is mapped, and drivers of GPUs, take address space and no memory.
pub(super) fn data(bytes: u64) -> Result<(), ConfineError> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` may be written to.
    let read = checked(unsafe { libc::getrlimit(libc::RLIMIT_DATA, &mut limit) });
    // What the host has less of cannot be raised, and need not be.
    let bytes = limit.rlim_max.min(bytes);
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: reads a plain local.
    read.and_then(|()| checked(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) }))
        .map_err(|e| ConfineError::Limit("RLIMIT_DATA", e))
}

/// Keeps this thread, and those it starts, on these CPUs; none: as it is. Returns those that it may run on then.
pub(super) fn cpus(cpus: &[u32]) -> Result<Vec<u32>, ConfineError> {
    let before = current_cpus();
    if cpus.is_empty() {
        return Ok(before);
    }
    let refused = |problem: String| ConfineError::Cpus { problem, allowed: before.clone() };
    let mut mask: CpuMask = [0; _];
    for &cpu in cpus {
        let word = mask.get_mut((cpu / BITS) as usize).ok_or_else(|| refused(format!("there is no CPU {cpu}")))?;
        *word |= 1 << (cpu % BITS);
    }
    // SAFETY: reads as many bytes as the mask has.
    checked(unsafe { libc::sched_setaffinity(0, size_of::<CpuMask>(), (&raw const mask).cast()) })
        .map_err(|error| refused(format!("{cpus:?} cannot be used: {error}")))?;
    // The kernel leaves out those that are not there or not allowed, and says nothing.
    let now = current_cpus();
    match cpus.iter().find(|cpu| !now.contains(cpu)) {
        Some(cpu) => Err(refused(format!("CPU {cpu} is not there, or not allowed"))),
        None => Ok(now),
    }
}

fn current_cpus() -> Vec<u32> {
    let mut mask: CpuMask = [0; _];
    // SAFETY: writes as many bytes as the mask has, or fewer; if it fails, none.
    unsafe { libc::sched_getaffinity(0, size_of::<CpuMask>(), (&raw mut mask).cast()) };
    (0..MOST_CPUS).filter(|cpu| mask[(cpu / BITS) as usize] >> (cpu % BITS) & 1 == 1).collect()
}

/// Adds to the niceness of this thread, and of those it starts; returns it.
pub(super) fn nice(added: i32) -> Result<i32, ConfineError> {
    // SAFETY: takes plain numbers. It fails for processes that are not there; this one is.
    let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if added == 0 {
        return Ok(before);
    }
    let nice = (before + added).clamp(-20, 19);
    // SAFETY: takes plain numbers.
    checked(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map_err(|e| ConfineError::Nice(added, e))?;
    Ok(nice)
}

/// Has the kernel kill this process before its host when memory runs out. It goes on where that cannot be had.
pub(super) fn oom_score_adj(adj: i32) -> Option<i32> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let read = || std::fs::read_to_string(FILE).ok()?.trim().parse().ok();
    if read()? < adj {
        // Without a right of its own a process may only raise it; that is all there is to do.
        let _ = std::fs::write(FILE, adj.to_string());
    }
    read()
}

/// The report says whether it worked.
pub(super) fn no_new_privileges() {
    // SAFETY: takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
}

/// Other processes of the same user cannot look into this one, nor it into itself through `/proc`.
pub(super) fn not_dumpable() {
    // SAFETY: takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

pub(super) fn privileges_and_dumpable() -> (bool, bool) {
    // SAFETY: both take plain numbers.
    unsafe { (libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, libc::prctl(libc::PR_GET_DUMPABLE) != 0) }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
