//! The thread tier: a fault domain is a thread of ours and the compute threads it starts.
//!
//! What this contains so far: Rust panics (caught here) and C++ exceptions (caught in the shim). An abort or a memory
//! fault inside llama.cpp is **not** contained yet: it ends the host process.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// Address space for the stack. Tokenisers recurse with the length of a word; unused pages cost nothing.
const STACK_BYTES: usize = 64 << 20;

thread_local! {
    static IN_DOMAIN: Cell<bool> = const { Cell::new(false) };
}

/// Whether the current thread is one of ours: it must not wait for our threads to end.
pub(crate) fn is_current() -> bool {
    IN_DOMAIN.try_with(Cell::get).unwrap_or(false)
}

/// Starts a domain's thread. `end` is called on it in every case, with what `body` returned or the text of its panic.
///
/// The thread and all it starts block every signal that can be sent to the process: a host's handler never runs on one
/// of them. Signals that a fault raises in the thread itself cannot be blocked.
pub(crate) fn spawn<T>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
    end: impl FnOnce(Result<T, String>) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let _blocked = BlockedSignals::new();
    std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
        IN_DOMAIN.set(true);
        let result = catch_unwind(AssertUnwindSafe(body)).map_err(|panic| panic_text(panic.as_ref()));
        // `end` only reports; should it panic, the thread still ends in order.
        let _ = catch_unwind(AssertUnwindSafe(|| end(result)));
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without text".into())
}

/// Blocks signals in this thread, for a thread that is started meanwhile to inherit.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
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
        assert_eq!(receive.recv().unwrap(), Err("no llama".into()));
        thread.join().unwrap();
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
        spawn("test".into(), blocked, move |end| send.send(end).unwrap()).unwrap().join().unwrap();
        let inside = receive.recv().unwrap().unwrap();
        let bit = |signal: i32| 1u64 << (signal - 1);
        assert_eq!(inside & bit(libc::SIGTERM), bit(libc::SIGTERM));
        assert_eq!(inside & bit(libc::SIGSEGV), 0);
        assert_eq!(blocked(), before);
    }
}
