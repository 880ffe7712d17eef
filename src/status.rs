//! How things end, as numbers that never change their meaning.

use serde::{Deserialize, Serialize};

/// Status of a call or of a request. The same numbers in Rust, C and Python.
///
/// | band | meaning |
/// |---|---|
/// | 0–99 | not an error |
/// | 100–199 | the caller: bad input, wrong use, cancelled |
/// | 200–299 | admission: the request was not run |
/// | 300–399 | the engine: loading, memory, a fault |
/// | 400– | a defect of this library |
///
/// A retired number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
#[repr(i32)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// Next event: there is one.
    Event = 1,
    /// The time given to wait is over; nothing is lost, ask again.
    Timeout = 2,
    /// Next event: the terminal event has been given, there will never be another.
    End = 3,
    /// A value is out of range, a key is unknown, a text is not UTF-8.
    InvalidParams = 100,
    /// Another thread is using this object, which takes one at a time.
    Busy = 101,
    /// The object was made before a `fork` and cannot be used in the child.
    Forked = 102,
    /// Valid, but not in this version, this build or for this model.
    Unsupported = 103,
    /// The caller cancelled it.
    Cancelled = 104,
    /// There is no regular, readable file at the path of the model.
    ModelNotFound = 105,
    /// The file of the model is no GGUF, is damaged, or would break the engine.
    ModelInvalid = 106,
    /// A serialized PreparedEngine does not fit this build, this machine or its file any more.
    StaleEngine = 107,
    /// A file of the model does not have the digest that was given for it.
    DigestMismatch = 108,
    /// Refused before queueing, for a reason that no other status names.
    AdmissionReject = 200,
    /// The queue is full.
    QueueFull = 201,
    /// The queue was full and this request was dropped from it in favour of another.
    QueueFullDropLru = 202,
    /// Prompt and `max_tokens` do not fit a slot's context.
    ContextOverflow = 203,
    /// The pool exists but is not ready yet.
    PoolUnready = 204,
    /// The pool was stopped, failed, or leaves its workers alone for a while because they failed too often (then retriable).
    PoolUnavailable = 205,
    /// A limit of the request passed before a worker took it up.
    DeadlineUnmet = 206,
    /// The pool was stopped while the request was queued or running, or takes nothing new because it is being drained.
    Draining = 207,
    /// The model could not be loaded.
    LoadFailed = 300,
    /// Memory ran out, or would: what is asked for does not fit.
    OutOfMemory = 301,
    /// A device (GPU) failed.
    DeviceError = 302,
    /// A limit of the request passed while a worker ran it.
    DecodeTimeout = 303,
    /// The worker that ran the request failed and was restarted.
    WorkerReset = 304,
    /// The request was running in two failures of a worker and is not tried again.
    PoisonedRequest = 305,
    /// The engine could not decode this request; the worker and its other requests go on.
    DecodeFailed = 306,
    /// A defect of llamapen: please report it.
    Internal = 400,
}

impl Status {
    /// Every status.
    pub const ALL: &[Status] = &[
        Status::Ok,
        Status::Event,
        Status::Timeout,
        Status::End,
        Status::InvalidParams,
        Status::Busy,
        Status::Forked,
        Status::Unsupported,
        Status::Cancelled,
        Status::ModelNotFound,
        Status::ModelInvalid,
        Status::StaleEngine,
        Status::DigestMismatch,
        Status::AdmissionReject,
        Status::QueueFull,
        Status::QueueFullDropLru,
        Status::ContextOverflow,
        Status::PoolUnready,
        Status::PoolUnavailable,
        Status::DeadlineUnmet,
        Status::Draining,
        Status::LoadFailed,
        Status::OutOfMemory,
        Status::DeviceError,
        Status::DecodeTimeout,
        Status::WorkerReset,
        Status::PoisonedRequest,
        Status::DecodeFailed,
        Status::Internal,
    ];

    /// The number that crosses the C border.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The status with this number.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Status> {
        Self::ALL.iter().copied().find(|status| status.code() == code)
    }

    /// Name as in the C header without its prefix, such as `CONTEXT_OVERFLOW`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        // The trailing NUL is for C callers, who get the same bytes.
        let with_nul = self.name_nul();
        with_nul.split_at(with_nul.len() - 1).0
    }

    pub(crate) const fn name_nul(self) -> &'static str {
        match self {
            Status::Ok => "OK\0",
            Status::Event => "EVENT\0",
            Status::Timeout => "TIMEOUT\0",
            Status::End => "END\0",
            Status::InvalidParams => "INVALID_PARAMS\0",
            Status::Busy => "BUSY\0",
            Status::Forked => "FORKED\0",
            Status::Unsupported => "UNSUPPORTED\0",
            Status::Cancelled => "CANCELLED\0",
            Status::ModelNotFound => "MODEL_NOT_FOUND\0",
            Status::ModelInvalid => "MODEL_INVALID\0",
            Status::StaleEngine => "STALE_ENGINE\0",
            Status::DigestMismatch => "DIGEST_MISMATCH\0",
            Status::AdmissionReject => "ADMISSION_REJECT\0",
            Status::QueueFull => "QUEUE_FULL\0",
            Status::QueueFullDropLru => "QUEUE_FULL_DROP_LRU\0",
            Status::ContextOverflow => "CONTEXT_OVERFLOW\0",
            Status::PoolUnready => "POOL_UNREADY\0",
            Status::PoolUnavailable => "POOL_UNAVAILABLE\0",
            Status::DeadlineUnmet => "DEADLINE_UNMET\0",
            Status::Draining => "DRAINING\0",
            Status::LoadFailed => "LOAD_FAILED\0",
            Status::OutOfMemory => "OUT_OF_MEMORY\0",
            Status::DeviceError => "DEVICE_ERROR\0",
            Status::DecodeTimeout => "DECODE_TIMEOUT\0",
            Status::WorkerReset => "WORKER_RESET\0",
            Status::PoisonedRequest => "POISONED_REQUEST\0",
            Status::DecodeFailed => "DECODE_FAILED\0",
            Status::Internal => "INTERNAL\0",
        }
    }

    /// Whether the same request may succeed when it is sent again, unchanged: later, or with `Draining` to another pool.
    #[must_use]
    pub const fn retriable(self) -> bool {
        matches!(
            self,
            Status::Busy
                | Status::QueueFull
                | Status::QueueFullDropLru
                | Status::PoolUnready
                | Status::DeadlineUnmet
                | Status::Draining
                | Status::OutOfMemory
                | Status::DecodeTimeout
                | Status::WorkerReset
        )
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_json_and_in_c_agree_and_numbers_are_distinct() {
        let mut codes = std::collections::BTreeSet::new();
        for status in Status::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
            assert_eq!(Status::from_code(status.code()), Some(*status));
            assert!(codes.insert(status.code()), "{status} shares its number");
        }
        assert_eq!(Status::from_code(-1), None);
    }
}
