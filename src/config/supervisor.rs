//! [`SupervisorConfig`]: queue, restarts, limits.

use super::child::ChildConfig;
use super::start_fault::StartFault;
use super::{from_json, in_ms, in_range};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How to run it: queue, restarts, limits, and how long a prefill may hold up its neighbours. Only `max_stall_ms` touches
/// results, in their last bits: it sets how many tokens of a prompt are computed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SupervisorConfig {
    /// Requests that may wait, 1 to 65536. Default: 256.
    pub queue_capacity: u32,
    /// What happens to one more. Default: it is refused with `QUEUE_FULL`.
    pub queue_full: QueueFullPolicy,
    /// Restarts within any `restart_window_ms`, over all workers, 1 to 1000000. A worker that would need one more has its
    /// circuit breaker opened. Default: 10.
    pub max_restarts: u32,
    /// Length of the sliding window for `max_restarts`, in milliseconds, 1 to 86400000. Default: 60000.
    pub restart_window_ms: u64,
    /// What the first restart of a worker that was not ready waits, in milliseconds, 1 to 86400000; each further one waits
    /// twice as long. The first restart of one that had been ready is immediate. Default: 1000.
    pub backoff_initial_ms: u64,
    /// Longest such wait, in milliseconds, `backoff_initial_ms` to 86400000. Default: 60000.
    pub backoff_max_ms: u64,
    /// How far a wait is shortened or lengthened at random, in percent, 0 to 50; never past `backoff_max_ms`. Default: 10.
    pub backoff_jitter_percent: u32,
    /// A worker that was ready for this many milliseconds, 1 to 86400000, has its earlier failures forgotten: the next
    /// restart is the first one. Default: 300000.
    pub backoff_reset_ms: u64,
    /// After a fault of a device (GPU) a restart waits this many times as long, 1 to 16. Default: 2.
    pub backoff_device_factor: u32,
    /// Failures of a worker in a row, 1 to 1000000, that open its circuit breaker; it is not restarted then. In a row:
    /// without being ready for `breaker_stable_ms` in between. Default: 5.
    pub breaker_failures: u32,
    /// How long an open breaker waits, in milliseconds, 1 to 86400000, before the worker is tried once. Each time that it
    /// opens again without having been closed, it waits twice as long. Default: 300000.
    pub breaker_open_ms: u64,
    /// Longest such wait, in milliseconds, `breaker_open_ms` to 604800000. Default: 3600000.
    pub breaker_open_max_ms: u64,
    /// A worker that was ready for this many milliseconds, 1 to 86400000, is trusted again: its breaker closes.
    /// Default: 60000.
    pub breaker_stable_ms: u64,
    /// A worker whose loop has not turned for this many milliseconds is not ready, and is replaced: it must be longer than any
    /// decode takes. Default: 30000.
    pub stall_limit_ms: u64,
    /// A load that has made no progress for this many milliseconds, 100 to 86400000, is ended: the supervisor is `Failed`. It
    /// must be longer than the file takes to read, where that is not told in between. Once the load is cancelled or the
    /// supervisor stopped, `stall_limit_ms` holds if it is less. Default: 600000.
    pub load_stall_limit_ms: u64,
    /// Longest time in milliseconds, 10 to 60000, that running streams wait for a piece of another request's prompt and one
    /// decode of their own. Each worker with several slots measures at its start how large pieces may be, and while others
    /// wait each prompt corrects that by what its last piece took. Where the streams' own decodes take most of the time,
    /// a piece takes three quarters of it beside them. Smaller stalls less and prefills slower. Default: 100.
    pub max_stall_ms: u64,
    /// Installs handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL, once per process, which contain what the engine's own threads
    /// raise in its code, and hand everything else on to the handlers that were there before. Without them a memory fault
    /// or an abort of the engine ends the process. Default: true.
    pub contain_faults: bool,
    /// What follows a contained memory fault of a worker that is a thread. Default: `escalate_to_process` where a worker
    /// process can be started, else `stop`; the health says which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taint: Option<TaintPolicy>,
    /// How workers that are child processes are run. Default: with no other rights and limits than this process has.
    pub child: ChildConfig,
    /// Tokens of a request after which its state is copied into the host's memory, 0 to 65536: when its worker dies, another one
    /// goes on from there. In contexts of more than 16 times as many tokens, after a 16th of the context; and seldom enough that
    /// copying takes 2 % of a worker's time at most. 0: never; all is decoded again then. Requests with mirostat have none. Default: 32.
    pub snapshot_tokens: u32,
    /// Bytes that these copies may take, all together, apart from one more per worker: 0 to 1099511627776. A request for whose
    /// copy there is no room keeps its last one. Not in the plan's memory. Default: 134217728.
    pub snapshot_bytes: u64,
    /// How long a request that was running in two crashes, which can be laid at its door, is refused with `POISONED_REQUEST`,
    /// in milliseconds, 0 to 86400000. 0: nobody is blamed for a crash. Default: 600000.
    pub quarantine_ms: u64,
    /// After this many milliseconds without a request, 1 to 86400000, weights and contexts are freed; the next request has
    /// them loaded again. 0: never. Up to half a second later than said. Default: 0.
    pub idle_unload_ms: u64,
    /// An existing directory in which a file says what is ready (see [`HandoffRecord`](crate::HandoffRecord)), from when a
    /// worker is until the supervisor stops or gives up: `llamapen-POOL-REPLICA.json`, written whole or not at all. On a
    /// local disk: the supervisor waits for it. After a kill it stays, with a `pid` that is gone. Default: no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handoff_dir: Option<PathBuf>,
    /// A fault to provoke when it starts, in builds with the `fault-injection` feature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<StartFault>,
}

/// What happens to a request that comes when the queue is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QueueFullPolicy {
    /// It is refused with `QUEUE_FULL`.
    #[default]
    Reject,
    /// The batch request that has waited longest ends with `QUEUE_FULL_DROP_LRU`, and the new one takes a place, of
    /// whatever [`Priority`](crate::Priority) it is. Where no batch request waits, the new one is refused.
    DropOldestBatch,
}

/// What a supervisor does after a memory fault that was contained: something may have been written to before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaintPolicy {
    /// It stops, and says so in its health; the host goes on.
    Stop,
    /// It restarts the worker as after any other fault.
    Continue,
    /// From now on workers are child processes: the one that died is replaced by one, the others when what they run has ended.
    /// Each of them loads the model itself, so weights that are not mapped from the file are in memory once per worker.
    /// Asked for by name, a start fails with `Unsupported` where no worker process can be started.
    EscalateToProcess,
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        Self {
            queue_capacity: 256,
            queue_full: QueueFullPolicy::Reject,
            max_restarts: 10,
            restart_window_ms: 60_000,
            backoff_initial_ms: 1_000,
            backoff_max_ms: 60_000,
            backoff_jitter_percent: 10,
            backoff_reset_ms: 300_000,
            backoff_device_factor: 2,
            breaker_failures: 5,
            breaker_open_ms: 300_000,
            breaker_open_max_ms: 3_600_000,
            breaker_stable_ms: 60_000,
            stall_limit_ms: 30_000,
            load_stall_limit_ms: 600_000,
            max_stall_ms: 100,
            snapshot_tokens: 32,
            snapshot_bytes: 128 << 20,
            quarantine_ms: 600_000,
            idle_unload_ms: 0,
            handoff_dir: None,
            contain_faults: true,
            taint: None,
            child: ChildConfig::default(),
            fault: None,
        }
    }
}

impl SupervisorConfig {
    /// Reads a configuration from JSON; what is missing takes its default.
    pub fn from_json(json: &str) -> Result<Self> {
        from_json("supervisor config", json)
    }

    /// Sets [`queue_capacity`](Self::queue_capacity).
    #[must_use]
    pub fn with_queue_capacity(mut self, requests: u32) -> Self {
        self.queue_capacity = requests;
        self
    }

    /// Sets [`queue_full`](Self::queue_full).
    #[must_use]
    pub fn with_queue_full(mut self, policy: QueueFullPolicy) -> Self {
        self.queue_full = policy;
        self
    }

    /// Sets [`max_stall_ms`](Self::max_stall_ms).
    #[must_use]
    pub fn with_max_stall(mut self, limit: Duration) -> Self {
        self.max_stall_ms = in_ms(limit);
        self
    }

    /// Sets [`snapshot_tokens`](Self::snapshot_tokens) and [`snapshot_bytes`](Self::snapshot_bytes).
    #[must_use]
    pub fn with_snapshots(mut self, every_tokens: u32, bytes: u64) -> Self {
        (self.snapshot_tokens, self.snapshot_bytes) = (every_tokens, bytes);
        self
    }

    /// Sets [`quarantine_ms`](Self::quarantine_ms).
    #[must_use]
    pub fn with_quarantine(mut self, length: Duration) -> Self {
        self.quarantine_ms = in_ms(length);
        self
    }

    /// Sets [`idle_unload_ms`](Self::idle_unload_ms).
    #[must_use]
    pub fn with_idle_unload(mut self, after: Duration) -> Self {
        self.idle_unload_ms = in_ms(after);
        self
    }

    /// Sets [`handoff_dir`](Self::handoff_dir).
    #[must_use]
    pub fn with_handoff_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.handoff_dir = Some(dir.into());
        self
    }

    /// Sets [`contain_faults`](Self::contain_faults).
    #[must_use]
    pub fn with_contain_faults(mut self, contain: bool) -> Self {
        self.contain_faults = contain;
        self
    }

    /// Sets [`taint`](Self::taint).
    #[must_use]
    pub fn with_taint(mut self, policy: TaintPolicy) -> Self {
        self.taint = Some(policy);
        self
    }

    /// Sets [`child`](Self::child).
    #[must_use]
    pub fn with_child(mut self, child: ChildConfig) -> Self {
        self.child = child;
        self
    }

    /// Sets [`stall_limit_ms`](Self::stall_limit_ms).
    #[must_use]
    pub fn with_stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Sets [`load_stall_limit_ms`](Self::load_stall_limit_ms).
    #[must_use]
    pub fn with_load_stall_limit(mut self, limit: Duration) -> Self {
        self.load_stall_limit_ms = in_ms(limit);
        self
    }

    /// Sets [`fault`](Self::fault).
    #[must_use]
    pub fn with_fault(mut self, fault: StartFault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Refuses values outside their ranges, and what is not in this version or build.
    pub fn validate(&self) -> Result<()> {
        in_range("queue_capacity", self.queue_capacity, 1..=65_536)?;
        self.validate_restarts()?;
        in_range("stall_limit_ms", self.stall_limit_ms, 100..=86_400_000)?;
        in_range("load_stall_limit_ms", self.load_stall_limit_ms, 100..=86_400_000)?;
        in_range("max_stall_ms", self.max_stall_ms, 10..=60_000)?;
        in_range("snapshot_tokens", self.snapshot_tokens, 0..=65_536)?;
        in_range("snapshot_bytes", self.snapshot_bytes, 0..=1 << 40)?;
        in_range("quarantine_ms", self.quarantine_ms, 0..=86_400_000)?;
        in_range("idle_unload_ms", self.idle_unload_ms, 0..=86_400_000)?;
        self.child.validate()?;
        if self.fault.is_some() && !cfg!(feature = "fault-injection") {
            return Err(Error::Unsupported(
                "fault: this build has no fault injection (cargo feature `fault-injection`)".into(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = SupervisorConfig::from_json(r#"{"queue": 3}"#).unwrap_err();
        assert!(error.to_string().contains("`queue`"), "{error}");
    }

    #[test]
    fn defaults_and_ranges() {
        let config = SupervisorConfig::from_json("{}").unwrap();
        assert_eq!(config, SupervisorConfig::default());
        let error = config.with_queue_capacity(0).validate().unwrap_err();
        assert_eq!(error.to_string(), "queue_capacity: 0 is not between 1 and 65536");
        let error = SupervisorConfig::default().with_load_stall_limit(Duration::ZERO).validate().unwrap_err();
        assert!(error.to_string().starts_with("load_stall_limit_ms: 0 is"), "{error}");
    }
}
