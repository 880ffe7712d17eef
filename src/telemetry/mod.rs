//! What is counted, logged and kept of requests and workers. Texts of prompts and answers never are.
//!
//! Everything that happens to a request goes through its event queue, which tells its [`Trace`]: so the counts add up by
//! construction, whoever ends a request. Counting is adding to atomics; only taking a snapshot allocates.
//!
//! The rendering for Prometheus is our own: the set of metrics is fixed, the same snapshot is needed as JSON, and the
//! registries of the known crates put a lock around every labelled value.

mod counters;
mod histogram;
mod metrics;
mod prometheus;
mod record;
mod service;
mod trace;

pub(crate) use counters::{Counts, Telemetry, WorkerCounters};
pub use histogram::Histogram;
pub use metrics::{Metrics, RequestCounts, WorkerMetrics};
pub use record::RunRecord;
pub(crate) use trace::{Progress, Trace};
