//! Where a worker's process comes in: its first steps, and what it does then.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names the host to a worker that is a Rust program; the embedded launcher has it as an argument.
pub(super) const HOST: &str = "LLAMAPEN_WORKER_HOST";

/// How a worker ends that did not begin. `settle.h` has the first three, too.
pub(super) const HOST_IS_GONE: i32 = 120;
pub(super) const LIBRARY_FAILED: i32 = 121;
pub(super) const NO_ENTRY: i32 = 122;
const NO_SOCKET: i32 = 123;
const PANICKED: i32 = 124;

/// What such an exit code says.
pub(crate) fn why_not_started(code: i32) -> Option<&'static str> {
    Some(match code {
        HOST_IS_GONE => "the host was gone when the worker started",
        LIBRARY_FAILED => "the worker could not load the library that the host has loaded",
        NO_ENTRY => "the library has no entry for a worker",
        NO_SOCKET => "the worker's stdin was no socket",
        PANICKED => "the worker panicked",
        _ => return None,
    })
}

unsafe extern "C" {
    fn lp_settle(host: libc::pid_t) -> libc::c_int;
}

/// Whether the program said that it can be its own worker.
static ASKED: AtomicBool = AtomicBool::new(false);

pub(super) fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Returns at once where this process is no worker. Else runs `worker` and ends the process.
pub(crate) fn main_if_child(worker: fn(OwnedFd) -> i32) {
    ASKED.store(true, Ordering::Relaxed);
    let Some(host) = std::env::var(HOST).ok().and_then(|host| host.parse().ok()) else { return };
    // Some program that a worker's environment came to, not the worker.
    if !stdin_is_a_socket() {
        return;
    }
    // SAFETY: the program has one thread, as `worker_main_if_child` demands; nobody reads the environment now. The
    // descriptors that are closed are the host's, or of statics that this process never uses.
    let settled = unsafe {
        std::env::remove_var(HOST);
        lp_settle(host) != 0
    };
    std::process::exit(if settled { main(worker) } else { HOST_IS_GONE });
}

/// Runs `worker` on the socket that this settled process has as its stdin.
pub(crate) fn main(worker: fn(OwnedFd) -> i32) -> i32 {
    match take_socket() {
        Some(socket) => catch_unwind(AssertUnwindSafe(|| worker(socket))).unwrap_or(PANICKED),
        None => NO_SOCKET,
    }
}

fn stdin_is_a_socket() -> bool {
    // SAFETY: `stat` is plain data for which zero is a valid value, and is written to within its size.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let known = unsafe { libc::fstat(libc::STDIN_FILENO, &mut stat) } == 0;
    known && stat.st_mode & libc::S_IFMT == libc::S_IFSOCK
}

/// The socket, at a number where nobody takes it for stdin.
fn take_socket() -> Option<OwnedFd> {
    if !stdin_is_a_socket() {
        return None;
    }
    // SAFETY: makes a new descriptor, which nobody else has.
    let socket = unsafe {
        let fd = libc::fcntl(libc::STDIN_FILENO, libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))?
    };
    let nothing = std::fs::File::open("/dev/null").ok()?;
    // SAFETY: both are open; stdin becomes another file.
    (unsafe { libc::dup2(nothing.as_raw_fd(), libc::STDIN_FILENO) } >= 0).then_some(socket)
}
