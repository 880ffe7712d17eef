//! How workers fail, told apart.

use crate::status::Status;
use serde::{Deserialize, Serialize};

/// What ended a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// The host's memory ran out, or the limit that a worker process has; or the system gave no thread.
    HostOutOfMemory,
    /// A worker process was killed, not by us and not for its memory.
    Killed,
    /// A worker process ended by itself, or nobody knows how.
    Exited,
    /// A worker process said what makes no sense, or does not read what it is sent.
    Protocol,
    /// The model's weights turned out to be damaged.
    LoadFailed,
    /// The engine reported an error that leaves its context unusable.
    EngineError,
    /// CUDA reported an error; the message has its number. Some of them nothing on the GPU survives but a new process.
    CudaError,
    /// A GPU's memory ran out.
    DeviceOutOfMemory,
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
        CrashReason::Killed,
        CrashReason::Exited,
        CrashReason::Protocol,
        CrashReason::LoadFailed,
        CrashReason::EngineError,
        CrashReason::CudaError,
        CrashReason::DeviceOutOfMemory,
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
            Self::Killed => "KILLED",
            Self::Exited => "EXITED",
            Self::Protocol => "PROTOCOL",
            Self::LoadFailed => "LOAD_FAILED",
            Self::EngineError => "ENGINE_ERROR",
            Self::CudaError => "CUDA_ERROR",
            Self::DeviceOutOfMemory => "DEVICE_OUT_OF_MEMORY",
        }
    }

    /// Its status.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Panic
            | Self::CppException
            | Self::Abort
            | Self::Signal
            | Self::Stall
            | Self::Killed
            | Self::Exited
            | Self::Protocol
            | Self::EngineError => Status::WorkerReset,
            Self::HostOutOfMemory | Self::DeviceOutOfMemory => Status::OutOfMemory,
            Self::LoadFailed => Status::LoadFailed,
            Self::CudaError => Status::DeviceError,
        }
    }

    /// What an abort of the engine was, by its message: ggml aborts when CUDA reports an error, and
    /// `src/native/cuda/backend.cpp` adds the number.
    pub(crate) fn of_abort(message: &str) -> Self {
        let Some((_, error)) = message.split_once("CUDA error") else { return Self::Abort };
        let code = error.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        // cudaErrorMemoryAllocation, which is CUDA_ERROR_OUT_OF_MEMORY as well.
        if code == "2" { Self::DeviceOutOfMemory } else { Self::CudaError }
    }

    /// What is wrong then may be wrong with all that the process does afterwards.
    pub(crate) fn taints(self) -> bool {
        matches!(self, Self::Signal | Self::CudaError | Self::DeviceOutOfMemory)
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
    /// How its process ended, if it was one.
    pub exit: Option<ChildExit>,
}

/// How a worker process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChildExit {
    /// Its number.
    pub pid: u32,
    /// What the system says: a signal, a code, or that nobody knows.
    pub how: String,
    /// Memory that it had when it was last looked at, at most half a second before it last showed that it is alive; `None`
    /// if it never was.
    pub rss_bytes: Option<u64>,
    /// The last lines that it wrote to stdout and stderr.
    pub output: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborts_that_are_errors_of_cuda() {
        let illegal =
            "ggml-cuda.cu:109: CUDA error 700 (cudaErrorIllegalAddress): an illegal memory access was encountered";
        assert_eq!(CrashReason::of_abort(illegal), CrashReason::CudaError);
        assert_eq!(
            CrashReason::of_abort("x.cu:1: CUDA error 2 (cudaErrorMemoryAllocation): out of memory"),
            CrashReason::DeviceOutOfMemory
        );
        assert_eq!(CrashReason::of_abort("x.cu:1: CUDA error: unknown"), CrashReason::CudaError);
        assert_eq!(CrashReason::of_abort("x.cu:1: CUDA error 219 (x): y"), CrashReason::CudaError);
        assert_eq!(CrashReason::of_abort("GGML_ASSERT(n > 0) failed"), CrashReason::Abort);
    }

    #[test]
    fn names_are_those_in_json() {
        for reason in CrashReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
