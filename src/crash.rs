//! How workers fail, told apart.

use crate::status::Status;
use serde::Serialize;

/// What ended a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum CrashReason {
    /// A Rust panic.
    Panic,
    /// A C++ exception.
    CppException,
    /// An assertion of the engine failed.
    Abort,
    /// A memory fault, a division by zero or an illegal instruction in the engine.
    Signal,
    /// Its loop did not turn for too long.
    Stall,
    /// The host's memory ran out, or the system gave no thread.
    HostOutOfMemory,
    /// The model's weights turned out to be damaged.
    LoadFailed,
    /// The engine reported an error that leaves its context unusable.
    EngineError,
}

impl CrashReason {
    /// Every reason.
    pub const ALL: &[CrashReason] = &[
        CrashReason::Panic,
        CrashReason::CppException,
        CrashReason::Abort,
        CrashReason::Signal,
        CrashReason::Stall,
        CrashReason::HostOutOfMemory,
        CrashReason::LoadFailed,
        CrashReason::EngineError,
    ];

    /// Name as in JSON, such as `CPP_EXCEPTION`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "PANIC",
            Self::CppException => "CPP_EXCEPTION",
            Self::Abort => "ABORT",
            Self::Signal => "SIGNAL",
            Self::Stall => "STALL",
            Self::HostOutOfMemory => "HOST_OUT_OF_MEMORY",
            Self::LoadFailed => "LOAD_FAILED",
            Self::EngineError => "ENGINE_ERROR",
        }
    }

    /// Its status.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Panic | Self::CppException | Self::Abort | Self::Signal | Self::Stall | Self::EngineError => {
                Status::WorkerReset
            }
            Self::HostOutOfMemory => Status::OutOfMemory,
            Self::LoadFailed => Status::LoadFailed,
        }
    }
}

/// A crash of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Crash {
    /// What ended it.
    pub reason: CrashReason,
    /// What it said.
    pub message: String,
    /// When, in milliseconds since the supervisor was started.
    pub at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_in_json() {
        for reason in CrashReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
