//! Ending in order: nothing new comes in, what is there finishes, and a deadline ends what does not.

use super::gate::Entry;
use super::pool::Pool;
use super::shared::Stop;
use crate::error::{Error, Result};
use crate::isolation::thread;
use crate::status::Status;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How a [`drain`](super::Supervisor::drain) went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DrainReport {
    /// Something was left when the deadline passed, or when something else ended the supervisor.
    pub forced: bool,
    /// Milliseconds from the first call until everything had ended.
    pub duration_ms: u64,
    /// Leases that had not been given back by then.
    pub leases_left: usize,
    /// Requests that it ended, with `Failed` and `DRAINING`.
    pub requests_failed: u64,
}

/// When the first call came, and how many requests had ended with `DRAINING` before.
pub(super) struct Began {
    at: Instant,
    failed_before: u64,
}

/// Refuses on a thread of ours.
pub(super) fn check_may_wait(call: &str) -> Result<()> {
    if !thread::is_current() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{call}: it waits, and this is one of llamapen's own threads (a waker or a log subscriber is called on it), which requests may need; call it from another"
    )))
}

impl Pool {
    pub(super) fn drain(&self, timeout: Option<Duration>) -> Result<DrainReport> {
        self.check_process()?;
        check_may_wait("drain")?;
        let counts = &self.common.counts;
        let failed = || counts.failed.get(Status::Draining);
        let began = self.drain_began.get_or_init(|| Began { at: Instant::now(), failed_before: failed() });
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if self.common.gate.narrow(Entry::Draining) {
            // Whoever is put in its place afterwards sees that the gate is not open any more.
            let current = self.runs.lock().current.clone();
            current.queue.drain();
            current.interrupt_calibration();
            let pool_id = &current.telemetry.identity.pool_id;
            let (queue_depth, leases) = (current.queue.depths().total(), self.common.gate.look().1);
            tracing::info!(pool_id, queue_depth, leases, timeout_ms = ?timeout.map(|t| t.as_millis()), "drain begins");
        }
        let left = self.common.gate.wait_empty(deadline, || counts.running());
        self.stop(Stop::Drained);
        // Not under a lock around `stop`, which runs the host's wakers. Those who waited as well see the same report.
        Ok(*self.drained.get_or_init(|| {
            let requests_failed = failed() - began.failed_before;
            let report = DrainReport {
                forced: left.leases > 0 || left.requests > 0 || requests_failed > 0,
                duration_ms: u64::try_from(began.at.elapsed().as_millis()).unwrap_or(u64::MAX),
                leases_left: left.leases,
                requests_failed,
            };
            tracing::info!(pool_id = self.current().telemetry.identity.pool_id, ?report, "drained");
            report
        }))
    }
}
