//! The one callback: how far a digest has come.

use crate::model::HashProgress;
use std::ffi::c_void;
use std::ops::ControlFlow;

/// Told how many bytes have been read and how many there are, before the first and then after at most 1 MiB each: 0 goes
/// on, anything else ends the call with CANCELLED. It is called on the thread of that call, and only until that call
/// returns; no lock is held, so it may call any function of llamapen. It must return: no longjmp, no C++ exception.
#[allow(non_camel_case_types)]
pub type llamapen_progress = Option<unsafe extern "C" fn(done_bytes: u64, total_bytes: u64, user: *mut c_void) -> i32>;

/// The same as a closure. NULL goes on.
///
/// # Safety
/// `progress` is NULL or may be called with `user` for as long as the closure lives.
pub(super) unsafe fn teller(
    progress: llamapen_progress,
    user: *mut c_void,
) -> impl FnMut(HashProgress) -> ControlFlow<()> {
    move |at| {
        // SAFETY: the caller vouches for it.
        let answer = progress.map_or(0, |tell| unsafe { tell(at.done_bytes, at.total_bytes, user) });
        if answer == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}
