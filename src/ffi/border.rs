//! What every export needs: the panic guard, the error slot, texts in and out, handles.

use super::error::llamapen_error;
use super::status::LLAMAPEN_STATUS_OK;
use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::str::Utf8Error;

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
    // SAFETY: the caller vouches for it.
    unsafe { give_text_if_any(name, out, || make().map(Some)) }
}

/// The same for a text that there may not be: then `*out` is NULL.
///
/// # Safety
/// `out` is NULL or may be written to.
pub(super) unsafe fn give_text_if_any(
    name: &str,
    out: *mut *mut c_char,
    make: impl FnOnce() -> Result<Option<String>>,
) -> Result<i32> {
    if out.is_null() {
        return Err(Error::invalid(name, "is NULL; it must point to where the text goes"));
    }
    // SAFETY: as in `give`.
    unsafe {
        out.write(std::ptr::null_mut());
        if let Some(text) = make()? {
            out.write(owned_text(text)?);
        }
    }
    Ok(LLAMAPEN_STATUS_OK)
}

/// The same for a text that the caller may not want: then `out` is NULL.
///
/// # Safety
/// `out` is NULL or may be written to.
pub(super) unsafe fn give_text_if_wanted(
    name: &str,
    out: *mut *mut c_char,
    make: impl FnOnce() -> Result<String>,
) -> Result<i32> {
    match out.is_null() {
        true => make().map(|_| LLAMAPEN_STATUS_OK),
        // SAFETY: not NULL, and the caller vouches for it.
        false => unsafe { give_text(name, out, make) },
    }
}

/// Gives the same as JSON and as text for people, in one call, so that both are of the same moment. One of the two may be
/// left out.
///
/// # Safety
/// `json` and `text` are NULL or may be written to.
pub(super) unsafe fn give_json_and_text(
    json: *mut *mut c_char,
    text: *mut *mut c_char,
    make: impl FnOnce() -> Result<(String, String)>,
) -> Result<i32> {
    let outs = [json, text].map(NonNull::new);
    if outs == [None; 2] {
        return Err(Error::invalid("json and text", "are both NULL; one must point to where the result goes"));
    }
    for out in outs.into_iter().flatten() {
        // SAFETY: not NULL, and the caller vouches for it.
        unsafe { out.write(std::ptr::null_mut()) };
    }
    let (json, text) = make()?;
    // A name in a model's file can hold anything.
    for (out, text) in outs.into_iter().zip([json, without_nul(&text)]) {
        let Some(out) = out else { continue };
        // SAFETY: as above.
        unsafe { out.write(owned_text(text)?) };
    }
    Ok(LLAMAPEN_STATUS_OK)
}

/// A text for people, in which U+FFFD stands for NUL, which would end it in C.
pub(super) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A text that `llamapen_string_free` frees.
fn owned_text(text: String) -> Result<*mut c_char> {
    let text = CString::new(text).map_err(|_| Error::Internal("JSON with a NUL".into()))?;
    Ok(text.into_raw())
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

/// Texts that end with NUL, as `main` gets them.
///
/// # Safety
/// `texts` is NULL or points to `count` pointers, each NULL or to a text that ends with NUL; nobody writes to them during
/// the call.
pub(super) unsafe fn text_list<'a>(name: &str, texts: *const *const c_char, count: usize) -> Result<Vec<&'a str>> {
    if texts.is_null() && count > 0 {
        return Err(Error::invalid(name, format!("is NULL but its count is {count}")));
    }
    if count > isize::MAX as usize / size_of::<*const c_char>() {
        return Err(Error::invalid(name, format!("a count of {count} is impossible")));
    }
    let one = |index| {
        // SAFETY: not NULL where there is an index, and the caller vouches for the count.
        let text: *const c_char = unsafe { *texts.add(index) };
        if text.is_null() {
            return Err(Error::invalid(format!("{name}[{index}]"), "is NULL"));
        }
        // SAFETY: not NULL, and the caller vouches for the NUL at its end.
        let text = unsafe { CStr::from_ptr(text) };
        let not_utf8 = |e: Utf8Error| format!("is not UTF-8 at byte {}", e.valid_up_to());
        text.to_str().map_err(|e| Error::invalid(format!("{name}[{index}]"), not_utf8(e)))
    };
    (0..count).map(one).collect()
}

/// A wait in milliseconds; negative is without limit.
pub(super) fn timeout(ms: i64) -> Option<std::time::Duration> {
    u64::try_from(ms).ok().map(std::time::Duration::from_millis)
}
