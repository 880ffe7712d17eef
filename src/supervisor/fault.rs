//! Faults that a configuration asks for: while the model is loaded, and when a worker starts.

use crate::config::StartFault;
use crate::isolation::{Injected, Place, arm};
use std::cell::Cell;

thread_local! {
    /// Of a worker.
    static DIES_MEASURING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this worker is to die of its first measurement, which this is.
pub(crate) fn dies_measuring() -> bool {
    DIES_MEASURING.take()
}

/// In the loader's domain.
pub(crate) fn arm_load(fault: Option<StartFault>) {
    match fault {
        Some(StartFault::LoadNullWrite) => arm(Injected::NullWrite, Place::Load),
        Some(StartFault::LoadAbort) => arm(Injected::Abort, Place::Load),
        Some(StartFault::LoadException) => arm(Injected::Throw, Place::Load),
        Some(StartFault::LoadEndlessLoop) => arm(Injected::Loop, Place::Load),
        Some(StartFault::ContextMemory | StartFault::RestartMemory | StartFault::CalibrationNullWrite) | None => {}
    }
}

/// In the domain of a worker that was restarted so often.
pub(crate) fn arm_worker(fault: Option<StartFault>, restarts: u32) {
    if let (Some(StartFault::ContextMemory), 0) | (Some(StartFault::RestartMemory), 1) = (fault, restarts) {
        arm(Injected::NoMemory, Place::Memalign);
    }
    DIES_MEASURING.set(fault == Some(StartFault::CalibrationNullWrite) && restarts == 0);
}
