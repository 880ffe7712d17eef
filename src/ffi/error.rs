//! Error objects.

use super::border::{free, without_nul};
use crate::error::{Error, POLICIES};
use std::ffi::{CString, c_char};

/// Why a call failed. Owned by the caller; freed with llamapen_error_free.
#[allow(non_camel_case_types)]
pub struct llamapen_error {
    error: Error,
    message: CString,
}

impl llamapen_error {
    pub(super) fn new(error: Error) -> *mut Self {
        let message = CString::new(without_nul(&error.to_string())).unwrap_or_default();
        Box::into_raw(Box::new(Self { error, message }))
    }
}

/// Status of the error, the same number the call returned; LLAMAPEN_STATUS_OK for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_error_status(error: *const llamapen_error) -> i32 {
    // SAFETY: NULL or a live error, as the header demands.
    unsafe { error.as_ref() }.map_or(0, |e| e.error.status().code())
}

/// What went wrong, where, and what to do: UTF-8, ends with NUL, lives as long as the error. "" for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_error_message(error: *const llamapen_error) -> *const c_char {
    // SAFETY: NULL or a live error, as the header demands.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |e| e.message.as_ptr())
}

/// 1 if the same call may succeed later, otherwise 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_error_retriable(error: *const llamapen_error) -> i32 {
    // SAFETY: NULL or a live error, as the header demands.
    unsafe { error.as_ref() }.map_or(0, |e| i32::from(e.error.retriable()))
}

/// When to try again, in milliseconds from now; -1 if that is not known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_error_retry_after_ms(error: *const llamapen_error) -> i64 {
    // SAFETY: NULL or a live error, as the header demands.
    let after = unsafe { error.as_ref() }.and_then(|e| e.error.retry_after());
    after.map_or(-1, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Which rule refused a request or a lease: "queue", "context", "drain", "breaker", "quarantine" or "state"; "" for
/// other errors and NULL. Static.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_error_policy(error: *const llamapen_error) -> *const c_char {
    // SAFETY: NULL or a live error, as the header demands.
    let policy = unsafe { error.as_ref() }.and_then(|e| e.error.policy()).unwrap_or_default();
    POLICIES.into_iter().find(|known| known.to_bytes() == policy.as_bytes()).unwrap_or_default().as_ptr()
}

/// Frees an error. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_error_free(error: *mut llamapen_error) {
    // SAFETY: NULL or a live error that is not used again, as the header demands.
    unsafe { free(error) }
}
