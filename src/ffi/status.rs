//! Status numbers as C constants. Written out, because the header generator reads literals only; a test compares them
//! with [`Status`].

use crate::Status;
use std::ffi::c_char;

/// Success.
pub const LLAMAPEN_STATUS_OK: i32 = 0;
/// Next event: there is one.
pub const LLAMAPEN_STATUS_EVENT: i32 = 1;
/// The time given to wait is over; nothing is lost, ask again.
pub const LLAMAPEN_STATUS_TIMEOUT: i32 = 2;
/// Next event: the terminal event has been given, there will never be another.
pub const LLAMAPEN_STATUS_END: i32 = 3;
/// A value is out of range, a key is unknown, a text is not UTF-8.
pub const LLAMAPEN_STATUS_INVALID_PARAMS: i32 = 100;
/// Another thread is using this object, which takes one at a time.
pub const LLAMAPEN_STATUS_BUSY: i32 = 101;
/// The object was made before a `fork` and cannot be used in the child.
pub const LLAMAPEN_STATUS_FORKED: i32 = 102;
/// Valid, but not in this version, this build or for this model.
pub const LLAMAPEN_STATUS_UNSUPPORTED: i32 = 103;
/// The caller cancelled it.
pub const LLAMAPEN_STATUS_CANCELLED: i32 = 104;
/// There is no regular, readable file at the path of the model.
pub const LLAMAPEN_STATUS_MODEL_NOT_FOUND: i32 = 105;
/// The file of the model is no GGUF, is damaged, or would break the engine.
pub const LLAMAPEN_STATUS_MODEL_INVALID: i32 = 106;
/// A serialized PreparedEngine does not fit this build, this machine or its file any more.
pub const LLAMAPEN_STATUS_STALE_ENGINE: i32 = 107;
/// A file of the model does not have the digest that was given for it.
pub const LLAMAPEN_STATUS_DIGEST_MISMATCH: i32 = 108;
/// Refused before queueing, for a reason that no other status names.
pub const LLAMAPEN_STATUS_ADMISSION_REJECT: i32 = 200;
/// The queue is full.
pub const LLAMAPEN_STATUS_QUEUE_FULL: i32 = 201;
/// The queue was full and this request was dropped from it in favour of another.
pub const LLAMAPEN_STATUS_QUEUE_FULL_DROP_LRU: i32 = 202;
/// Prompt and `max_tokens` do not fit a slot's context.
pub const LLAMAPEN_STATUS_CONTEXT_OVERFLOW: i32 = 203;
/// The pool exists but is not ready yet.
pub const LLAMAPEN_STATUS_POOL_UNREADY: i32 = 204;
/// The pool was stopped, failed, or leaves its workers alone for a while because they failed too often (then retriable).
pub const LLAMAPEN_STATUS_POOL_UNAVAILABLE: i32 = 205;
/// The deadline could not have been met.
pub const LLAMAPEN_STATUS_DEADLINE_UNMET: i32 = 206;
/// The pool was stopped while the request was queued or running.
pub const LLAMAPEN_STATUS_DRAINING: i32 = 207;
/// The model could not be loaded.
pub const LLAMAPEN_STATUS_LOAD_FAILED: i32 = 300;
/// Memory ran out, or would: what is asked for does not fit.
pub const LLAMAPEN_STATUS_OUT_OF_MEMORY: i32 = 301;
/// A device (GPU) failed.
pub const LLAMAPEN_STATUS_DEVICE_ERROR: i32 = 302;
/// A deadline passed during generation.
pub const LLAMAPEN_STATUS_DECODE_TIMEOUT: i32 = 303;
/// The worker that ran the request failed and was restarted.
pub const LLAMAPEN_STATUS_WORKER_RESET: i32 = 304;
/// The request was running in two failures of a worker and is not tried again.
pub const LLAMAPEN_STATUS_POISONED_REQUEST: i32 = 305;
/// The engine could not decode this request; the worker and its other requests go on.
pub const LLAMAPEN_STATUS_DECODE_FAILED: i32 = 306;
/// A defect of llamapen: please report it.
pub const LLAMAPEN_STATUS_INTERNAL: i32 = 400;

/// Name of a status without its prefix, such as "CONTEXT_OVERFLOW"; "UNKNOWN" for another number. Static.
#[unsafe(no_mangle)]
pub extern "C" fn llamapen_status_name(status: i32) -> *const c_char {
    Status::from_code(status).map_or("UNKNOWN\0", Status::name_nul).as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use crate::Status;

    #[test]
    fn the_constants_are_the_statuses() {
        let source = include_str!("status.rs");
        let constant = |line: &str| {
            let (name, value) =
                line.strip_prefix("pub const LLAMAPEN_STATUS_")?.strip_suffix(';')?.split_once(": i32 = ")?;
            Some((name.to_owned(), value.parse::<i32>().ok()?))
        };
        let constants: Vec<_> = source.lines().filter_map(constant).collect();
        let statuses: Vec<_> = Status::ALL.iter().map(|s| (s.name().to_owned(), s.code())).collect();
        assert_eq!(constants, statuses);
    }
}
