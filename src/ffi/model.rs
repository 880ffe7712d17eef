//! Model files: what they say, and whether they are the right ones.

use super::border::{give_text, guard, text};
use super::error::llamapen_error;
use super::options::Options;
use super::progress::{llamapen_progress, teller};
use crate::error::Error;
use crate::model::{ModelReference, hash_file, inspect};
use std::ffi::{c_char, c_void};
use std::path::Path;

/// What the model is that `model` names, as JSON: "id", "files" ([{"path", "bytes"}]) and "info" (what its header says:
/// architecture, sizes, quantization, chat template, ...). Needs no engine to be possible: encoders and models that are
/// too large for this machine are described too. Reads headers, never weights. Freed with llamapen_string_free.
///
/// model: as "model" of llamapen_prepare. options: as llamapen_prepare_with takes them, for the sake of "hub".
/// Errors: INVALID_PARAMS, MODEL_NOT_FOUND, MODEL_INVALID, UNSUPPORTED (the model is elsewhere).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_model_info(
    model: *const c_char,
    model_len: usize,
    options: *const c_char,
    options_len: usize,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointers and lengths belong together, as the header demands.
        let (model, options) = unsafe { (text("model", model, model_len)?, Options::read(options, options_len)?) };
        Ok(inspect(&model.parse::<ModelReference>()?, &options.hub())?.to_json())
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, make)) }
}

/// Computes the digest of the file at `path`, such as "sha256:9f86...": the form that the key "digest" of a
/// configuration takes. Reads the whole file, on this thread; progress may be NULL. Freed with llamapen_string_free.
/// Errors: INVALID_PARAMS, MODEL_NOT_FOUND, MODEL_INVALID (it changed meanwhile), CANCELLED (by progress).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_digest(
    path: *const c_char,
    path_len: usize,
    progress: llamapen_progress,
    user: *mut c_void,
    digest: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, and progress is NULL or callable, as the header demands.
        let (path, mut progress) = unsafe { (text("path", path, path_len)?, teller(progress, user)) };
        match path.is_empty() {
            true => Err(Error::invalid("path", "is empty; name a file")),
            false => Ok(hash_file(Path::new(path), &mut progress)?.to_string()),
        }
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("digest", digest, make)) }
}
