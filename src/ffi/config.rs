//! Configurations.

use super::border::{give_text, guard, text_list};
use super::error::llamapen_error;
use crate::config::EngineConfig;
use std::ffi::c_char;

/// The configuration that flags as llama.cpp's programs take them mean, as JSON in normal form, for llamapen_prepare.
/// Freed with llamapen_string_free.
///
/// flags: `count` texts that end with NUL, as main gets them but without the name of the program, such as
/// {"-m", "model.gguf", "-c", "4096", "-ngl", "99"}. Every key of a configuration is a flag too: "--n-ctx=4096",
/// "--shrink-slots=1". A model must be named. Nothing is looked up: files and values are judged by llamapen_prepare.
/// Errors: INVALID_PARAMS (an unknown flag, with the nearest known one; one that is given twice; a malformed value).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_config_from_flags(
    flags: *const *const c_char,
    count: usize,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: `count` texts, as the header demands.
        let config = EngineConfig::from_flags(unsafe { text_list("flags", flags, count) }?)?;
        Ok(serde_json::to_string(&config).expect("plain data from UTF-8"))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, make)) }
}
