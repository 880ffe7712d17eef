//! What every export needs: the panic guard, the error slot, texts in and out, handles.

use super::error::llamapen_error;
use super::status::LLAMAPEN_STATUS_OK;
use crate::error::{Error, Result};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the body of an export. Sets `*error` to NULL, or to a new error if the body fails or panics; returns the status.
///
/// # Safety
/// `error` is NULL or may be written to.
pub(super) unsafe fn guard(error: *mut *mut llamapen_error, body: impl FnOnce() -> Result<i32>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(Error::Internal("a panic in llamapen; the host's panic hook has its text".into())));
    let (status, object) = match result {
        Ok(status) => (status, std::ptr::null_mut()),
        Err(e) => (e.status().code(), llamapen_error::new(e)),
    };
    if !error.is_null() {
        // SAFETY: the caller vouches for it.
        unsafe { error.write(object) };
    } else if !object.is_null() {
        // SAFETY: just made, and nobody else has it.
        drop(unsafe { Box::from_raw(object) });
    }
    status
}

/// The same for exports that return nothing and cannot fail.
pub(super) fn guard_free(body: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(body));
}

/// Gives a new object to the caller through `out`.
///
/// # Safety
/// `out` is NULL or may be written to.
pub(super) unsafe fn give<T>(name: &str, out: *mut *mut T, make: impl FnOnce() -> Result<T>) -> Result<i32> {
    if out.is_null() {
        return Err(Error::invalid(name, "is NULL; it must point to where the result goes"));
    }
    // SAFETY: not NULL, and the caller vouches for it. NULL first, so that a failure leaves nothing dangling.
    unsafe {
        out.write(std::ptr::null_mut());
        out.write(Box::into_raw(Box::new(make()?)));
    }
    Ok(LLAMAPEN_STATUS_OK)
}

/// Gives a text to the caller, to be freed with `llamapen_string_free`.
///
/// # Safety
/// `out` is NULL or may be written to.
pub(super) unsafe fn give_text(
    name: &str,
    out: *mut *mut c_char,
    make: impl FnOnce() -> Result<String>,
) -> Result<i32> {
    if out.is_null() {
        return Err(Error::invalid(name, "is NULL; it must point to where the text goes"));
    }
    // SAFETY: as in `give`.
    unsafe { out.write(std::ptr::null_mut()) };
    let text = CString::new(make()?).map_err(|_| Error::Internal("JSON with a NUL".into()))?;
    // SAFETY: as in `give`.
    unsafe { out.write(text.into_raw()) };
    Ok(LLAMAPEN_STATUS_OK)
}

/// The object behind a handle.
///
/// # Safety
/// `handle` is NULL or a live handle of this type.
pub(super) unsafe fn object<'a, T>(name: &str, handle: *const T) -> Result<&'a T> {
    // SAFETY: the caller vouches for it.
    unsafe { handle.as_ref() }.ok_or_else(|| Error::invalid(name, "is NULL"))
}

/// Takes a handle back. NULL is fine.
///
/// # Safety
/// `handle` is NULL or a live handle of this type, and is not used again.
pub(super) unsafe fn free<T>(handle: *mut T) {
    guard_free(|| {
        if !handle.is_null() {
            // SAFETY: made by `give`, and the caller vouches for the rest.
            drop(unsafe { Box::from_raw(handle) });
        }
    });
}

/// A text that comes in as pointer and length.
///
/// # Safety
/// `text` is NULL or points to `length` bytes that nobody writes to during the call.
pub(super) unsafe fn text<'a>(name: &str, text: *const c_char, length: usize) -> Result<&'a str> {
    if text.is_null() {
        return match length {
            0 => Ok(""),
            _ => Err(Error::invalid(name, format!("is NULL but its length is {length}"))),
        };
    }
    if length > isize::MAX as usize {
        return Err(Error::invalid(name, format!("a length of {length} bytes is impossible")));
    }
    // SAFETY: not NULL, and the caller vouches for the length.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    std::str::from_utf8(bytes).map_err(|e| Error::invalid(name, format!("is not UTF-8 at byte {}", e.valid_up_to())))
}

/// A wait in milliseconds; negative is without limit.
pub(super) fn timeout(ms: i64) -> Option<std::time::Duration> {
    u64::try_from(ms).ok().map(std::time::Duration::from_millis)
}
