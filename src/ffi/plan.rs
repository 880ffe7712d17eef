//! Plans and preflight reports.

use super::border::{give_json_and_text, guard, text};
use super::error::llamapen_error;
use super::options::Options;
use crate::config::EngineConfig;
use crate::prepare::{plan_with, preflight_with};
use std::ffi::c_char;

/// What running a configuration would do, step by step, and the memory it would take. Does none of it.
///
/// config: as for llamapen_prepare. options: as for llamapen_prepare_with, or NULL and 0; given digests are not checked.
/// json: where {"steps": [{"kind", "detail"}], "engine": as llamapen_engine_json gives it} goes. text: where the same in
/// lines for people goes. One of the two may be NULL. Both are freed with llamapen_string_free.
/// Errors: as for llamapen_prepare.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_plan(
    config: *const c_char,
    config_len: usize,
    options: *const c_char,
    options_len: usize,
    json: *mut *mut c_char,
    text: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointers and lengths belong together, as the header demands.
        let (config, options) = unsafe { read(config, config_len, options, options_len) }?;
        let plan = plan_with(&config, &options.machine()?, &options.prepare())?;
        Ok((plan.to_json(), plan.to_string()))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_json_and_text(json, text, make)) }
}

/// Looks at everything that running a configuration needs and says what is wrong and what to do about it. What fails is
/// a check and no error of this call: OK says that there is a report, not that the model will run.
///
/// config: as for llamapen_prepare. options: as for llamapen_prepare_with, or NULL and 0; given digests are not checked.
/// json: where {"checks": [{"name", "status": "pass", "warn" or "fail", "message", "remedy": text or null}]} goes; the
/// model will not run if one of them is "fail". text: where the same in lines for people goes. One of the two may be
/// NULL. Both are freed with llamapen_string_free. How much memory is free is that of this machine now, whatever
/// "machine" says. Errors: INVALID_PARAMS (config or options cannot be read).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_preflight(
    config: *const c_char,
    config_len: usize,
    options: *const c_char,
    options_len: usize,
    json: *mut *mut c_char,
    text: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointers and lengths belong together, as the header demands.
        let (config, options) = unsafe { read(config, config_len, options, options_len) }?;
        let report = preflight_with(&config, &options.machine()?, &options.prepare());
        Ok((report.to_json(), report.to_string()))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_json_and_text(json, text, make)) }
}

/// # Safety
/// Pointers and lengths belong together.
unsafe fn read(
    config: *const c_char,
    config_len: usize,
    options: *const c_char,
    options_len: usize,
) -> crate::Result<(EngineConfig, Options)> {
    // SAFETY: the caller vouches for it.
    let (config, options) = unsafe { (text("config", config, config_len)?, Options::read(options, options_len)?) };
    Ok((EngineConfig::from_json(config)?, options))
}
