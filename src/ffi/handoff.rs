//! Watchers of handoff records.

use super::border::{free, give, give_text_if_any, guard, object, text, timeout};
use super::error::llamapen_error;
use super::status::{LLAMAPEN_STATUS_EVENT, LLAMAPEN_STATUS_OK, LLAMAPEN_STATUS_TIMEOUT};
use crate::error::Error;
use crate::supervisor::{HandoffRecord, HandoffWatcher};
use std::ffi::c_char;

/// Watches a directory that supervisors write their handoff records to ("handoff_dir"). It has no thread: it looks while
/// llamapen_handoff_watcher_next is called. One caller at a time: a second one gets BUSY.
#[allow(non_camel_case_types)]
pub struct llamapen_handoff_watcher {
    watcher: HandoffWatcher,
}

/// Watches an existing directory. It must see the same processes as those that write there (the same PID namespace).
/// Errors: INVALID_PARAMS (no such directory).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_handoff_watcher_open(
    dir: *const c_char,
    dir_len: usize,
    watcher: *mut *mut llamapen_handoff_watcher,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, as the header demands.
        let dir = unsafe { text("dir", dir, dir_len) }?;
        Ok(llamapen_handoff_watcher { watcher: HandoffWatcher::new(dir)? })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("watcher", watcher, make)) }
}

/// The next change, each once: EVENT with JSON, or TIMEOUT after timeout_ms (negative: no limit) with *json NULL.
///
/// json: {"change": "appeared", "changed" (the same pool and replica is ready anew) or "gone" (the file is removed, or the
/// process has ended), "record": as of llamapen_supervisor_handoff_json}, or {"change": "problem", "path", "problem"} for a
/// file of that name that is no record: what was known stays. Freed with llamapen_string_free.
/// Errors: BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_handoff_watcher_next(
    watcher: *const llamapen_handoff_watcher,
    timeout_ms: i64,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let change = unsafe { object("watcher", watcher) }?.watcher.next(timeout(timeout_ms))?;
        Ok(change.map(|change| serde_json::to_string(&change).expect("plain data")))
    };
    let body = || {
        // SAFETY: NULL or may be written to, as the header demands; after success it was.
        let none = unsafe {
            give_text_if_any("json", json, make)?;
            (*json).is_null()
        };
        Ok(if none { LLAMAPEN_STATUS_TIMEOUT } else { LLAMAPEN_STATUS_EVENT })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// Takes note of a record that came another way. *news: 1 if it is newer than what is known of its pool and replica, and its
/// process lives: then it is not given as a change any more. 0 otherwise; the same record again is no news.
///
/// record: JSON as of llamapen_supervisor_handoff_json. news may be NULL.
/// Errors: INVALID_PARAMS (no valid record), BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_handoff_watcher_bind(
    watcher: *const llamapen_handoff_watcher,
    record: *const c_char,
    record_len: usize,
    news: *mut i32,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: pointer and length belong together, the watcher is NULL or live, as the header demands.
        let (json, watcher) = unsafe { (text("record", record, record_len)?, object("watcher", watcher)?) };
        let record: HandoffRecord =
            serde_json::from_str(json).map_err(|e| Error::invalid("record", format!("it is no record: {e}")))?;
        let is_news = watcher.watcher.bind(&record)?;
        if !news.is_null() {
            // SAFETY: not NULL, and may be written to, as the header demands.
            unsafe { news.write(i32::from(is_news)) };
        }
        Ok(LLAMAPEN_STATUS_OK)
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// What is known and not gone, as of the last look: a JSON array of records, by pool and replica. Freed with
/// llamapen_string_free.
/// Errors: BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_handoff_watcher_records_json(
    watcher: *const llamapen_handoff_watcher,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let records = unsafe { object("watcher", watcher) }?.watcher.records()?;
        Ok(Some(serde_json::to_string(&records).expect("plain data")))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text_if_any("json", json, make)) }
}

/// Frees a watcher. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_handoff_watcher_free(watcher: *mut llamapen_handoff_watcher) {
    // SAFETY: NULL or live and not used again, as the header demands.
    unsafe { free(watcher) }
}
