//! Which of the CPU kernels run, where the build has several (`dispatch/`).

use super::sys;
use super::{NativeError, NativeStatus};
use std::ffi::{CStr, c_char};

/// The level that runs here; that which `LLAMAPEN_CPU_LEVEL` asks for, if it cannot be had, so that whoever plans with it refuses
/// it. `None`: the build has one level.
pub(crate) fn cpu_level() -> Option<String> {
    // SAFETY: both return NULL or a static string, and were set when the library was loaded.
    let (runs, refused) = unsafe { (text(sys::lp_cpu_level()), text(sys::lp_cpu_level_refused())) };
    refused.or(runs)
}

/// Nothing is computed by another level than was asked for.
pub(super) fn check() -> Result<(), NativeError> {
    // SAFETY: as above.
    match unsafe { text(sys::lp_cpu_level_refused()) } {
        None => Ok(()),
        Some(asked) => Err(NativeError {
            status: NativeStatus::Unsupported,
            message: format!("LLAMAPEN_CPU_LEVEL is {asked:?}, whose CPU kernels this machine or this build has not"),
        }),
    }
}

/// # Safety
/// NULL or a string that stays.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: as demanded.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
