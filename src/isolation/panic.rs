//! Rust panics where they abort instead of unwinding: the host chose so for its whole program, and nothing can be caught.
//!
//! The panic hook tells the pen what the panic said; the abort that follows raises SIGABRT, and there the thread is parked. Not
//! in the hook itself: Rust holds a lock around it, and a host that sets a hook of its own would wait for ever.

use super::thread::is_current;
use crate::native::sys;
use std::ffi::CString;
use std::panic::PanicHookInfo;
use std::sync::Once;

/// Adds a hook to the one there is, which is called first: it may print, log, or end the process, as for any panic. Once per
/// process.
pub(super) fn install_hook() {
    static ONCE: Once = Once::new();
    // A thread that panics may not touch the hook.
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            previous(info);
            if is_current() {
                tell(info);
            }
        }));
    });
}

fn tell(info: &PanicHookInfo<'_>) {
    let text = info.payload_as_str().unwrap_or("a panic without text").replace('\0', " ");
    let text = CString::new(text).expect("no NUL in it");
    // SAFETY: the text ends with NUL and is copied. Does nothing on threads that are no domain's, such as wardens.
    unsafe { sys::lp_pen_panicked(text.as_ptr()) }
}
