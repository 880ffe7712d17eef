//! Errors of the shim as Rust values.

use super::sys;

/// A failed call of the shim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct NativeError {
    pub status: NativeStatus,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NativeStatus {
    /// A C++ exception was caught. A context in whose call it happened must not be used again.
    Exception,
    OutOfMemory,
    GpuOutOfMemory,
    Failed,
    Aborted,
    NoKvSlot,
    Unsupported,
}

/// Runs a call that returns a status.
pub(super) fn status(call: impl FnOnce(*mut sys::lp_error) -> sys::LP_Status) -> Result<(), NativeError> {
    let mut error = empty();
    match call(&mut error) {
        sys::LP_OK => Ok(()),
        _ => Err(read(&error)),
    }
}

/// Runs a call whose result says by itself whether it failed.
pub(super) fn value<T>(
    call: impl FnOnce(*mut sys::lp_error) -> T,
    failed: impl FnOnce(&T) -> bool,
) -> Result<T, NativeError> {
    let mut error = empty();
    let value = call(&mut error);
    match failed(&value) {
        false => Ok(value),
        true => Err(read(&error)),
    }
}

fn empty() -> sys::lp_error {
    sys::lp_error { status: sys::LP_FAILED as i32, message: [0; 500] }
}

fn read(error: &sys::lp_error) -> NativeError {
    let bytes: Vec<u8> = error.message.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
    let status = match error.status as sys::LP_Status {
        sys::LP_EXCEPTION => NativeStatus::Exception,
        sys::LP_OUT_OF_MEMORY => NativeStatus::OutOfMemory,
        sys::LP_GPU_OUT_OF_MEMORY => NativeStatus::GpuOutOfMemory,
        sys::LP_ABORTED => NativeStatus::Aborted,
        sys::LP_NO_KV_SLOT => NativeStatus::NoKvSlot,
        sys::LP_UNSUPPORTED => NativeStatus::Unsupported,
        _ => NativeStatus::Failed,
    };
    NativeError { status, message: String::from_utf8_lossy(&bytes).into_owned() }
}
