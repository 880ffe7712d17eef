//! Faults of a start on demand.

use serde::{Deserialize, Serialize};

/// A fault that a supervisor's loader or a starting worker provokes in itself: for tests of the containment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StartFault {
    /// A write to address 0 while the weights are loaded.
    LoadNullWrite,
    /// `GGML_ABORT`, as above.
    LoadAbort,
    /// A C++ exception, as above.
    LoadException,
    /// A loop without end, as above: only `load_stall_limit_ms` or a stop ends it.
    LoadEndlessLoop,
    /// ggml gets no memory for the context of each worker, when it is started for the first time.
    ContextMemory,
    /// The same when it is restarted for the first time.
    RestartMemory,
    /// A write to address 0 when a worker that was never restarted first measures something for a calibration.
    CalibrationNullWrite,
}
