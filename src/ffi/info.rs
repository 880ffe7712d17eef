//! Versions, and the one free for texts.

use super::border::{give_text, guard, guard_free};
use super::error::llamapen_error;
use crate::build_info::build_info;
use std::ffi::{CString, c_char};

/// Number of this interface. It grows when something is added; what exists keeps its meaning.
pub const LLAMAPEN_ABI_VERSION: u32 = 5;

/// LLAMAPEN_ABI_VERSION of the loaded library. A program built with a larger one may miss functions in it.
#[unsafe(no_mangle)]
pub extern "C" fn llamapen_abi_version() -> u32 {
    LLAMAPEN_ABI_VERSION
}

/// Version of the library, such as "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn llamapen_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What the library was built from, as JSON: versions, compiler, flags, features, engine_digest; "cpu_levels": what its CPU
/// kernels were compiled for, from the least to the best ([{"name", "flags", "features"}]), empty if only once. Which of them
/// runs here, llamapen_machine tells as "cpu_level". Freed with llamapen_string_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_build_info_json(json: *mut *mut c_char, error: *mut *mut llamapen_error) -> i32 {
    // SAFETY: both are NULL or may be written to, as the header demands.
    unsafe {
        guard(error, || give_text("json", json, || Ok(serde_json::to_string(&build_info()).expect("plain data"))))
    }
}

/// Frees a text that a function gave through a char **. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_string_free(text: *mut c_char) {
    guard_free(|| {
        if !text.is_null() {
            // SAFETY: made by CString::into_raw in give_text and not used again, as the header demands.
            drop(unsafe { CString::from_raw(text) });
        }
    });
}
