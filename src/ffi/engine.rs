//! Prepared engines.

use super::border::{free, give, give_text, guard, object, text};
use super::error::llamapen_error;
use crate::config::EngineConfig;
use crate::prepare::{PreparedEngine, prepare};
use std::ffi::c_char;

/// The checked configuration of one model on this machine. Immutable; may be used by several threads and freed while
/// supervisors made from it run.
#[allow(non_camel_case_types)]
pub struct llamapen_engine {
    pub(super) prepared: PreparedEngine,
}

/// Checks a model file and this machine, and decides how to run it. Loads nothing, starts nothing, writes nothing.
///
/// config: JSON, {"model": path, ...}. Optional: "n_ctx" (positions per slot), "n_ubatch" (tokens per micro-batch),
/// "threads" (per worker), "workers", "slots" (per worker), "use_mmap", "use_mlock". Unknown keys are refused by name.
/// Errors: INVALID_PARAMS, MODEL_NOT_FOUND, MODEL_INVALID, UNSUPPORTED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_prepare(
    config: *const c_char,
    config_len: usize,
    engine: *mut *mut llamapen_engine,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, as the header demands.
        let config = EngineConfig::from_json(unsafe { text("config", config, config_len) }?)?;
        Ok(llamapen_engine { prepared: prepare(&config)? })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("engine", engine, make)) }
}

/// Reads what llamapen_engine_json wrote. It is checked against build, machine and file when it is started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_engine_from_json(
    json: *const c_char,
    json_len: usize,
    engine: *mut *mut llamapen_engine,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, as the header demands.
        let json = unsafe { text("json", json, json_len) }?;
        Ok(llamapen_engine { prepared: PreparedEngine::from_json(json)? })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("engine", engine, make)) }
}

/// What was decided, and what the model's header says ("info"), as JSON. Freed with llamapen_string_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_engine_json(
    engine: *const llamapen_engine,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    // SAFETY: NULL or live, NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, || Ok(object("engine", engine)?.prepared.to_json()))) }
}

/// Frees an engine. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_engine_free(engine: *mut llamapen_engine) {
    // SAFETY: NULL or live and not used again, as the header demands.
    unsafe { free(engine) }
}
