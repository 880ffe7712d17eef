//! [`SupervisorConfig`]: queue, restarts, limits.

use super::{from_json, in_range};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How to run it: queue, restarts, limits, and how long a prefill may hold up its neighbours. Only `max_stall_ms` touches
/// results, in their last bits: it sets how many tokens of a prompt are computed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SupervisorConfig {
    /// Requests that may wait, 1 to 65536. One more is refused with `QUEUE_FULL`. Default: 256.
    pub queue_capacity: u32,
    /// Restarts of workers within `restart_window_ms` after which the supervisor gives up. Default: 10.
    pub max_restarts: u32,
    /// Length of the sliding window for `max_restarts`, in milliseconds. Default: 60000.
    pub restart_window_ms: u64,
    /// A worker whose loop has not turned for this many milliseconds is not ready, and is replaced: it must be longer than any
    /// decode takes. Default: 30000.
    pub stall_limit_ms: u64,
    /// Longest time in milliseconds, 10 to 60000, that running streams wait for a piece of another request's prompt and
    /// one decode of their own. Each worker with several slots measures at its start how large pieces may be, and uses
    /// that size for every prompt. Smaller stalls less and prefills slower. Default: 100.
    pub max_stall_ms: u64,
    /// Installs handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL, once per process, which contain what the engine's own threads
    /// raise in its code, and hand everything else on to the handlers that were there before. Without them a memory fault
    /// or an abort of the engine ends the process. Default: true.
    pub contain_faults: bool,
    /// What follows a contained memory fault. Default: `stop`.
    pub taint: TaintPolicy,
}

/// What a supervisor does after a memory fault that was contained: something may have been written to before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaintPolicy {
    /// It stops, and says so in its health; the host goes on.
    #[default]
    Stop,
    /// It restarts the worker as after any other fault.
    Continue,
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        Self {
            queue_capacity: 256,
            max_restarts: 10,
            restart_window_ms: 60_000,
            stall_limit_ms: 30_000,
            max_stall_ms: 100,
            contain_faults: true,
            taint: TaintPolicy::Stop,
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

    /// Sets [`max_restarts`](Self::max_restarts) and its window.
    #[must_use]
    pub fn with_restarts(mut self, max: u32, window: Duration) -> Self {
        self.max_restarts = max;
        self.restart_window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Sets [`max_stall_ms`](Self::max_stall_ms).
    #[must_use]
    pub fn with_max_stall(mut self, limit: Duration) -> Self {
        self.max_stall_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
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
        self.taint = policy;
        self
    }

    /// Sets [`stall_limit_ms`](Self::stall_limit_ms).
    #[must_use]
    pub fn with_stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Refuses values outside their ranges.
    pub fn validate(&self) -> Result<()> {
        in_range("queue_capacity", self.queue_capacity, 1..=65_536)?;
        in_range("restart_window_ms", self.restart_window_ms, 1..=86_400_000)?;
        in_range("stall_limit_ms", self.stall_limit_ms, 100..=86_400_000)?;
        in_range("max_stall_ms", self.max_stall_ms, 10..=60_000)
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
    }
}
