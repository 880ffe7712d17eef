//! [`Tuning`]: what workers, slots and batches are chosen for.

use serde::{Deserialize, Serialize};

/// What `prepare` chooses workers, slots and micro-batches for, where they are left out. Answers are the same with all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tuning {
    /// For the time between two tokens of a stream: one worker, all cores for each token, and small micro-batches, so that a prompt
    /// holds other streams up for less.
    Latency,
    /// For tokens per second of all streams together: large micro-batches, and as many workers as gain, by an estimate from the
    /// model's size and the cores; else one worker, whose batches read the weights once for all streams.
    Throughput,
    /// By what is measured: workers as without `tuning`, with slots for either way, are tried out when they are ready and nothing
    /// runs, for half a second in all; then requests go to as many workers as is fastest for that many streams. See
    /// [`Health::calibration`](crate::Health::calibration).
    Auto,
}

impl Tuning {
    /// Name as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::Auto => "auto",
        }
    }
}
