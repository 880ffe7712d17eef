//! What the caller asks for: configurations with defaults, ranges and names.
//!
//! As JSON, unknown keys are refused by name, so that a misspelt option never silently does nothing.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Fewest positions a slot can have: below, a chat template alone does not fit.
pub const MIN_CTX: u32 = 16;
/// What a slot gets when nothing is asked for, unless the model was trained with less.
pub const DEFAULT_CTX: u32 = 4096;
/// Tokens per micro-batch when nothing is asked for: a cancelled or stopped prefill ends within one.
pub const DEFAULT_UBATCH: u32 = 256;

/// Which model to run, and how: the input of [`prepare`](crate::prepare()).
///
/// What is `None` is chosen by `prepare` and can be read off the [`PreparedEngine`](crate::PreparedEngine).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Path of a GGUF file.
    pub model: PathBuf,
    /// Positions (prompt and generated tokens) that each slot holds. Default: what the model was trained with, at most 4096.
    #[serde(default)]
    pub n_ctx: Option<u32>,
    /// Tokens per micro-batch, 1 to 4096. Default: 256. Smaller reacts faster, larger prefills faster.
    #[serde(default)]
    pub n_ubatch: Option<u32>,
    /// Compute threads of each worker. Default: the cores this process may use, divided by `workers`.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Workers on shared weights, each with a context of its own. Default: 1.
    #[serde(default)]
    pub workers: Option<u32>,
    /// Requests that one worker runs at a time, 1 to 64. Default: 1.
    #[serde(default)]
    pub slots: Option<u32>,
    /// Map the weights from the file instead of reading them into memory. Default: true.
    #[serde(default = "yes")]
    pub use_mmap: bool,
    /// Lock the weights into memory. Default: false.
    #[serde(default)]
    pub use_mlock: bool,
}

fn yes() -> bool {
    true
}

impl EngineConfig {
    /// A configuration for the GGUF file at `model`, everything else left to `prepare`.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            n_ctx: None,
            n_ubatch: None,
            threads: None,
            workers: None,
            slots: None,
            use_mmap: true,
            use_mlock: false,
        }
    }

    /// Reads a configuration from JSON.
    pub fn from_json(json: &str) -> Result<Self> {
        from_json("engine config", json)
    }

    /// The same configuration for another [`model`](Self::model).
    #[must_use]
    pub fn with_model(mut self, model: impl Into<PathBuf>) -> Self {
        self.model = model.into();
        self
    }

    /// Sets [`n_ctx`](Self::n_ctx).
    #[must_use]
    pub fn with_n_ctx(mut self, n_ctx: u32) -> Self {
        self.n_ctx = Some(n_ctx);
        self
    }

    /// Sets [`n_ubatch`](Self::n_ubatch).
    #[must_use]
    pub fn with_n_ubatch(mut self, n_ubatch: u32) -> Self {
        self.n_ubatch = Some(n_ubatch);
        self
    }

    /// Sets [`threads`](Self::threads).
    #[must_use]
    pub fn with_threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets [`workers`](Self::workers).
    #[must_use]
    pub fn with_workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Sets [`slots`](Self::slots).
    #[must_use]
    pub fn with_slots(mut self, slots: u32) -> Self {
        self.slots = Some(slots);
        self
    }

    /// Sets [`use_mmap`](Self::use_mmap).
    #[must_use]
    pub fn with_mmap(mut self, use_mmap: bool) -> Self {
        self.use_mmap = use_mmap;
        self
    }

    /// Sets [`use_mlock`](Self::use_mlock).
    #[must_use]
    pub fn with_mlock(mut self, use_mlock: bool) -> Self {
        self.use_mlock = use_mlock;
        self
    }
}

/// How to run it: queue, restarts, limits. Nothing here changes what the model does.
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
    /// A worker whose loop has not turned for this many milliseconds is reported as not ready. Default: 30000.
    pub stall_limit_ms: u64,
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        Self { queue_capacity: 256, max_restarts: 10, restart_window_ms: 60_000, stall_limit_ms: 30_000 }
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

    /// Refuses values outside their ranges.
    pub fn validate(&self) -> Result<()> {
        in_range("queue_capacity", self.queue_capacity, 1..=65_536)?;
        in_range("restart_window_ms", self.restart_window_ms, 1..=86_400_000)?;
        in_range("stall_limit_ms", self.stall_limit_ms, 100..=86_400_000)
    }
}

/// Reads JSON; the error names the text it is about and the place in it.
pub(crate) fn from_json<T: DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::invalid(what, e.to_string()))
}

/// Refuses a value outside `range`, naming both.
pub(crate) fn in_range<T>(what: &str, value: T, range: std::ops::RangeInclusive<T>) -> Result<()>
where
    T: PartialOrd + std::fmt::Display,
{
    match range.contains(&value) {
        true => Ok(()),
        false => Err(Error::invalid(what, format!("{value} is not between {} and {}", range.start(), range.end()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = EngineConfig::from_json(r#"{"model": "m.gguf", "n_ctxx": 3}"#).unwrap_err();
        assert!(error.to_string().contains("n_ctxx"), "{error}");
        assert!(error.to_string().contains("n_ctx"), "{error}");
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
