//! What can go wrong, and its one mapping to [`Status`] numbers.

use crate::device::DeviceShare;
use crate::model::{Digest, GgufError};
use crate::status::Status;
use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const ANOTHER_WAITS: &str =
    "another thread is waiting for the next event of this request; one consumer at a time";

pub(crate) const ANOTHER_WATCHES: &str = "another thread uses this watcher; one at a time";

/// Result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Its [`Display`](std::fmt::Display) says what, where and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that cannot be used. `what` names the field or argument.
    #[error("{what}: {problem}")]
    InvalidParams {
        /// The field or argument.
        what: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// There is no model at the path.
    #[error("model {}: {problem}", path.display())]
    ModelNotFound {
        /// As it was given.
        path: PathBuf,
        /// What is there instead, or what the system said.
        problem: String,
    },
    /// The file of the model cannot be used.
    #[error("model {}: {source}", path.display())]
    ModelInvalid {
        /// As it was given.
        path: PathBuf,
        /// What is wrong, with its place in the file.
        source: Arc<GgufError>,
    },
    /// A file is not the one whose digest was given.
    #[error("model {}: digest mismatch: expected {expected}, got {found}", path.display())]
    DigestMismatch {
        /// The file, of a split model the part.
        path: PathBuf,
        /// What the caller gave.
        expected: Digest,
        /// What the file has.
        found: Digest,
    },
    /// The caller asked for it to end.
    #[error("cancelled: {0}")]
    Cancelled(String),
    /// A PreparedEngine from elsewhere, or from before something changed.
    #[error("this PreparedEngine does not fit any more: {0}. Call prepare() again")]
    StaleEngine(String),
    /// Refused before queueing.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It does not fit into the memory there is.
    #[error("{place}: {required} bytes are required and {available} are available; {advice}")]
    DoesNotFit {
        /// `host`, or a device.
        place: String,
        /// Bytes that it takes, without what is mapped from the file.
        required: u64,
        /// Bytes that there are, after all limits.
        available: u64,
        /// What to do.
        advice: String,
    },
    /// The model could not be loaded, or a worker could not be made.
    #[error("{message}")]
    Load {
        /// `LoadFailed`, `OutOfMemory`, `DeviceError` or `Cancelled`.
        status: Status,
        /// What was being done and what went wrong.
        message: String,
    },
    /// GPUs are a must and cannot be used as asked: no working driver, or not enough memory on a device.
    #[error("{problem}")]
    Device {
        /// What is wrong, with the bytes where memory is, and what to do.
        problem: String,
        /// Required and available bytes per device, where memory is the problem; else empty.
        shares: Vec<DeviceShare>,
    },
    /// The supervisor is stopped or gave up.
    #[error("the supervisor is not running: {0}")]
    Unavailable(String),
    /// Another thread is waiting for events of the same request, reloads the same supervisor, or uses the same watcher.
    #[error("{0}")]
    Busy(&'static str),
    /// Used in a forked child.
    #[error(
        "this object was made before a fork and cannot be used in the child process: make a new one there, or use spawn/exec instead of fork"
    )]
    Forked,
    /// Not in this version or build.
    #[error("{0}")]
    Unsupported(String),
    /// A defect of this library.
    #[error("internal error (please report it): {0}")]
    Internal(String),
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidParams { what: what.into(), problem: problem.into() }
    }

    /// For a file whose header was not read: because it cannot be, or because of what it says.
    pub(crate) fn model(path: PathBuf, source: GgufError) -> Self {
        match source {
            GgufError::Io { .. } => Self::ModelNotFound { path, problem: source.to_string() },
            _ => Self::ModelInvalid { path, source: Arc::new(source) },
        }
    }

    pub(crate) fn device(problem: impl Into<String>) -> Self {
        Self::Device { problem: problem.into(), shares: vec![] }
    }

    /// The status of this error.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::InvalidParams { .. } => Status::InvalidParams,
            Self::ModelNotFound { .. } => Status::ModelNotFound,
            Self::ModelInvalid { .. } => Status::ModelInvalid,
            Self::DigestMismatch { .. } => Status::DigestMismatch,
            Self::Cancelled(_) => Status::Cancelled,
            Self::StaleEngine(_) => Status::StaleEngine,
            Self::Rejected(rejected) => rejected.status,
            Self::DoesNotFit { .. } => Status::OutOfMemory,
            Self::Load { status, .. } => *status,
            Self::Device { .. } => Status::DeviceError,
            Self::Unavailable(_) => Status::PoolUnavailable,
            Self::Busy(_) => Status::Busy,
            Self::Forked => Status::Forked,
            Self::Unsupported(_) => Status::Unsupported,
            Self::Internal(_) => Status::Internal,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn retriable(&self) -> bool {
        match self {
            Self::Rejected(rejected) => rejected.retriable,
            other => other.status().retriable(),
        }
    }

    /// Which rule refused a request or a lease: `queue`, `context`, `drain`, `breaker`, `quarantine` or `state`. `None` for other errors.
    #[must_use]
    pub fn policy(&self) -> Option<&'static str> {
        match self {
            Self::Rejected(rejected) => Some(rejected.policy),
            Self::Unavailable(_) => Some("state"),
            _ => None,
        }
    }

    /// When to try again, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejected) => rejected.retry_after_ms.map(Duration::from_millis),
            _ => None,
        }
    }
}

/// The rules that refuse.
pub(crate) const POLICIES: [&CStr; 6] = [c"queue", c"context", c"drain", c"breaker", c"quarantine", c"state"];

/// A request that was refused before queueing: it never ran and has no events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Rejected {
    /// Why, as a number.
    pub status: Status,
    /// Which rule refused it: `queue`, `context`, `drain`, `breaker` or `quarantine`.
    pub policy: &'static str,
    /// Whether the same request may be accepted later.
    pub retriable: bool,
    /// When to try again, in milliseconds, if that is known.
    pub retry_after_ms: Option<u64>,
    /// What, where and what to do.
    pub message: String,
}

impl Rejected {
    pub(crate) fn new(status: Status, policy: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(POLICIES.into_iter().any(|known| known.to_bytes() == policy.as_bytes()));
        Self { status, policy, retriable: status.retriable(), retry_after_ms: None, message: message.into() }
    }
}
