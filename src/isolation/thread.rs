//! The thread tier: bodies run in fault domains, each watched by a warden, a thread of ours that never enters native code.
//!
//! Contained are Rust panics (caught here), C++ exceptions (caught in the shim), aborts of ggml, and what raises a signal
//! inside the engine's code. docs/containment.md says what is not.

use super::domain::{Domain, Fault, FaultKind};
use super::remains::{self, Remains};
use crate::crash::CrashReason;
use crate::sync::Mutex;
use std::any::Any;
use std::cell::Cell;
use std::ffi::CStr;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Address space for the stack. Tokenisers recurse with the length of a word; unused pages cost nothing.
pub(super) const STACK_BYTES: usize = 64 << 20;
/// A warden runs the hosts' wakers and log subscribers when it tells of an end.
const WARDEN_STACK_BYTES: usize = 1 << 20;

thread_local! {
    static IN_DOMAIN: Cell<bool> = const { Cell::new(false) };
}

/// Whether the current thread is one of ours: it must not wait for our threads to end.
pub(crate) fn is_current() -> bool {
    IN_DOMAIN.try_with(Cell::get).unwrap_or(false)
}

/// The current thread is one of ours.
pub(super) fn enter() {
    IN_DOMAIN.set(true);
}

/// How long the threads of a dead domain may take to park before its end is told, and before they are left alone.
const PARK_SOON: Duration = Duration::from_millis(200);
pub(super) const PARK_AT_ALL: Duration = Duration::from_secs(10);

/// How a body ended that did not return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Death {
    /// With the text of the panic.
    Panic(String),
    Fault(Fault),
}

impl Death {
    /// What it is counted as.
    pub(crate) fn reason(&self) -> CrashReason {
        match self {
            Self::Panic(_) => CrashReason::Panic,
            Self::Fault(fault) => match fault.kind {
                FaultKind::Signal => CrashReason::Signal,
                FaultKind::Abort => CrashReason::of_abort(&fault.message),
                FaultKind::Exception => CrashReason::CppException,
                FaultKind::OutOfMemory => CrashReason::HostOutOfMemory,
                FaultKind::Stall => CrashReason::Stall,
                FaultKind::Panic => CrashReason::Panic,
            },
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(text) => write!(f, "panic: {text}"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

/// A domain that runs, or did.
pub(crate) struct Handle {
    warden: JoinHandle<()>,
    domain: Weak<Domain>,
}

impl Handle {
    /// Waits until its end was told and, if its threads can be, they are gone.
    pub(crate) fn join(self) {
        // What could panic in it was caught.
        let _ = self.warden.join();
    }

    /// Whether [`join`](Self::join) would not wait.
    pub(crate) fn is_over(&self) -> bool {
        self.warden.is_finished()
    }

    /// Has the domain die, if it has not ended: its threads are parked where they stand.
    pub(crate) fn condemn(&self, why: &CStr) {
        if let Some(domain) = self.domain.upgrade() {
            domain.condemn(why);
        }
    }
}

/// Runs `body` in a domain of its own. `end` is called on the warden in every case, with what `body` returned or what it
/// died of; the handle is the warden's.
///
/// All threads block every signal that can be sent to the process: a host's handler never runs on one of them. Signals that
/// a fault raises in the thread itself cannot be blocked.
pub(crate) fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
    end: impl FnOnce(Result<T, Death>) + Send + 'static,
) -> std::io::Result<Handle> {
    spawn_leaving((), name, body, end)
}

/// Runs `body`, which never enters native code, on a plain thread of ours.
pub(crate) fn spawn_plain(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let _blocked = BlockedSignals::new();
    let body = || {
        enter();
        body();
    };
    std::thread::Builder::new().name(name).stack_size(WARDEN_STACK_BYTES).spawn(body)
}

/// The same for a body that leaves something when it dies.
pub(crate) fn spawn_leaving<T: Send + 'static>(
    remains: impl Remains,
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
    end: impl FnOnce(Result<T, Death>) + Send + 'static,
) -> std::io::Result<Handle> {
    let _blocked = BlockedSignals::new();
    let domain = Arc::new(Domain::new().ok_or(std::io::ErrorKind::OutOfMemory)?);
    let watched = Arc::downgrade(&domain);
    let warden = move || {
        enter();
        let result = Arc::new(Mutex::new(None));
        let run = {
            let result = result.clone();
            move || {
                enter();
                let caught = catch_unwind(AssertUnwindSafe(body));
                *result.lock() = Some(caught.map_err(|panic| Death::Panic(panic_text(panic.as_ref()))));
            }
        };
        // `end` only reports; should it panic, the thread still ends in order.
        let end = |result| drop(catch_unwind(AssertUnwindSafe(|| end(result))));
        if !domain.start(STACK_BYTES, Box::new(run)) {
            return end(Err(Death::Panic("the system gives no thread".into())));
        }
        match domain.wait() {
            None => {
                domain.join();
                let result = result.lock().take();
                end(result.unwrap_or_else(|| Err(Death::Panic("it left no result".into()))));
            }
            Some(fault) => {
                let parked = domain.park(PARK_SOON);
                end(Err(match fault.kind {
                    FaultKind::Panic => Death::Panic(fault.message.clone()),
                    _ => Death::Fault(fault.clone()),
                }));
                // Else one is perhaps in an endless wait of the system's: then all stays as it is.
                if parked || domain.park(PARK_AT_ALL) {
                    domain.reap();
                    remains::reclaim(&domain, &fault, remains);
                }
            }
        }
    };
    let warden = std::thread::Builder::new().name(name).stack_size(WARDEN_STACK_BYTES).spawn(warden)?;
    Ok(Handle { warden, domain: watched })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without text".into())
}

/// Blocks signals in this thread, for a thread that is started meanwhile to inherit.
pub(super) struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    pub(super) fn new() -> Self {
        // SAFETY: plain calls on local signal sets; sigset_t is plain data for which zero is a valid value.
        unsafe {
            let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            for fault in
                [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS]
            {
                libc::sigdelset(&mut all, fault);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: restores the set that `new` read.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut());
        }
    }
}

/// Sends a signal to this thread.
#[cfg(feature = "fault-injection")]
pub(crate) fn raise(signal: libc::c_int) {
    // SAFETY: takes a number.
    unsafe {
        libc::raise(signal);
    }
}

/// Ends the process now, whatever its threads do: nothing is destroyed under them.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Calls `at_exit` when the process exits in order, before the destructors of native statics run.
pub(crate) fn at_exit(at_exit: extern "C" fn()) {
    // SAFETY: the function has the signature atexit wants and lives for ever: the library is never unloaded.
    unsafe {
        libc::atexit(at_exit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_panic_ends_the_domain_with_its_text() {
        let (send, receive) = mpsc::channel();
        let thread =
            spawn("test".into(), || -> () { panic!("no {}", "llama") }, move |end| send.send(end).unwrap()).unwrap();
        assert_eq!(receive.recv().unwrap(), Err(Death::Panic("no llama".into())));
        thread.join();
        assert!(!is_current());
    }

    #[test]
    fn domain_threads_take_no_signals_and_the_caller_keeps_its_mask() {
        let blocked = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|l| l.strip_prefix("SigBlk:\t")).unwrap();
            u64::from_str_radix(mask, 16).unwrap()
        };
        let before = blocked();
        let (send, receive) = mpsc::channel();
        spawn("test".into(), blocked, move |end| send.send(end).unwrap()).unwrap().join();
        let inside = receive.recv().unwrap().unwrap();
        let bit = |signal: i32| 1u64 << (signal - 1);
        assert_eq!(inside & bit(libc::SIGTERM), bit(libc::SIGTERM));
        assert_eq!(inside & bit(libc::SIGSEGV), 0);
        assert_eq!(blocked(), before);
    }
}
