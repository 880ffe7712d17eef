//! What is counted while requests run: atomics only.

use super::histogram::AtomicHistogram;
use super::service::ServiceTime;
use crate::crash::CrashReason;
use crate::event::FinishReason;
use crate::prepare::PreparedEngine;
use crate::status::Status;
use crate::sync::Mutex;
use crate::worker::LoadPhases;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What runs, as it is named in logs, metrics and records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub pool_id: String,
    pub replica_id: u32,
    pub model_id: String,
    pub model_digests: Vec<String>,
    pub header_digests: Vec<String>,
    pub engine_version: String,
    pub engine_digest: String,
    pub device_mask: String,
    pub slots: u32,
}

impl From<&PreparedEngine> for Identity {
    fn from(engine: &PreparedEngine) -> Self {
        Self {
            pool_id: engine.pool_id().into(),
            replica_id: engine.replica_id(),
            model_id: engine.model_id().into(),
            model_digests: engine.digest().iter().map(ToString::to_string).collect(),
            header_digests: engine.files().iter().map(|file| file.header_digest.to_string()).collect(),
            engine_version: engine.engine_version().into(),
            engine_digest: engine.engine_digest().into(),
            device_mask: engine.device_mask().to_string(),
            slots: engine.slots(),
        }
    }
}

/// The counts of one supervisor, over all engines that it ran.
pub(crate) struct Counts {
    started: Instant,
    pub accepted: Counter,
    pub cancelled: Counter,
    /// Times that a request went on in another worker.
    pub resumed: Counter,
    pub rejected: ByStatus,
    pub failed: ByStatus,
    finished: [Counter; REASONS.len()],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            accepted: Counter::default(),
            cancelled: Counter::default(),
            resumed: Counter::default(),
            rejected: ByStatus::default(),
            failed: ByStatus::default(),
            finished: Default::default(),
        }
    }
}

impl Counts {
    pub(super) fn count_finished(&self, reason: FinishReason) {
        self.finished[place(reason)].add(1);
    }

    pub(super) fn finished(&self) -> BTreeMap<&'static str, u64> {
        REASONS.into_iter().zip(&self.finished).map(|(name, count)| (name, count.get())).collect()
    }

    /// Since the supervisor was started.
    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Requests that were accepted and have not ended. Never less than there are, once nothing is accepted any more.
    pub(crate) fn running(&self) -> u64 {
        let finished: u64 = self.finished.iter().map(Counter::get).sum();
        let ended = finished + self.failed.total() + self.cancelled.get();
        self.accepted.get().saturating_sub(ended)
    }
}

/// The counts of one engine.
pub(crate) struct Telemetry {
    pub identity: Identity,
    pub workers: Vec<Arc<WorkerCounters>>,
    /// Of its supervisor.
    pub counts: Arc<Counts>,
    /// How long requests hold a slot.
    pub(super) service: ServiceTime,
    /// Requests that came here, and those of them that have ended or went to another engine.
    came: Counter,
    left: Counter,
    /// Microseconds; 0 until the model is loaded.
    load_us: AtomicU64,
    load_phases: Mutex<Option<LoadPhases>>,
}

impl Telemetry {
    pub(crate) fn new(identity: Identity, workers: u32, counts: Arc<Counts>) -> Self {
        Self {
            identity,
            workers: (0..workers).map(|_| Arc::default()).collect(),
            counts,
            service: ServiceTime::default(),
            came: Counter::default(),
            left: Counter::default(),
            load_us: AtomicU64::new(0),
            load_phases: Mutex::default(),
        }
    }

    pub(crate) fn of(engine: &PreparedEngine, counts: &Arc<Counts>) -> Self {
        Self::new(engine.into(), engine.workers(), counts.clone())
    }

    /// A request comes to this engine.
    pub(super) fn comes(&self) {
        self.came.add(1);
    }

    /// A request that had come has ended, or goes to another engine.
    pub(super) fn leaves(&self) {
        self.left.add(1);
    }

    /// Requests that have come here, ever.
    pub(crate) fn came(&self) -> u64 {
        self.came.get()
    }

    /// Those that are here. Never less than there are, once none comes any more.
    pub(crate) fn running(&self) -> u64 {
        let left = self.left.get();
        self.came.get().saturating_sub(left)
    }

    /// `phases`: where workers share what was loaded.
    pub(crate) fn loaded(&self, took: Duration, phases: Option<LoadPhases>) {
        *self.load_phases.lock() = phases;
        self.load_us.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    pub(super) fn load_ms(&self) -> Option<f64> {
        match self.load_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(us as f64 / 1e3),
        }
    }

    pub(crate) fn load_phases(&self) -> Option<LoadPhases> {
        *self.load_phases.lock()
    }

    /// Milliseconds until so many requests will have ended, by how long the last ones took; `None` before any has run.
    pub(crate) fn retry_after_ms(&self, ends: usize) -> Option<u64> {
        self.service.until(ends, self.workers.len() as u64 * u64::from(self.identity.slots))
    }
}

/// Names of the reasons, at their [`place`].
const REASONS: [&str; 4] = ["stop", "length", "stop_string", "stop_token"];

/// A new reason needs its place here, and its name above.
fn place(reason: FinishReason) -> usize {
    match reason {
        FinishReason::Stop => 0,
        FinishReason::Length => 1,
        FinishReason::StopString => 2,
        FinishReason::StopToken => 3,
    }
}

/// The counts of one worker, over all its restarts.
pub(crate) struct WorkerCounters {
    pub tokens_in: Counter,
    pub tokens_cached: Counter,
    pub tokens_out: Counter,
    pub draft_tokens: Counter,
    pub draft_accepted: Counter,
    pub decode_failures: Counter,
    pub crashes: ByReason,
    pub latency_queue: AtomicHistogram,
    pub latency_first_token: AtomicHistogram,
    pub latency_inter_token: AtomicHistogram,
    pub latency_decode: AtomicHistogram,
    pub batch_tokens: AtomicHistogram,
    pub batch_time: AtomicHistogram,
    backoff_ms: AtomicU64,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self {
            tokens_in: Counter::default(),
            tokens_cached: Counter::default(),
            tokens_out: Counter::default(),
            draft_tokens: Counter::default(),
            draft_accepted: Counter::default(),
            decode_failures: Counter::default(),
            crashes: ByReason::default(),
            latency_queue: AtomicHistogram::of_ms(),
            latency_first_token: AtomicHistogram::of_ms(),
            latency_inter_token: AtomicHistogram::of_ms(),
            latency_decode: AtomicHistogram::of_ms(),
            batch_tokens: AtomicHistogram::of_tokens(),
            batch_time: AtomicHistogram::of_ms(),
            backoff_ms: AtomicU64::new(0),
        }
    }
}

impl WorkerCounters {
    /// The worker called the engine once, with so many tokens.
    pub(crate) fn decoded(&self, tokens: usize, took: Duration) {
        self.batch_tokens.add(tokens as f64);
        self.batch_time.add_time(took);
    }

    /// How long it waits for its restart; 0 once it is ready.
    pub(crate) fn set_backoff(&self, wait: Duration) {
        self.backoff_ms.store(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn backoff_ms(&self) -> u64 {
        self.backoff_ms.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter per status.
pub(crate) struct ByStatus([Counter; Status::ALL.len()]);

impl Default for ByStatus {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ByStatus {
    pub(crate) fn add(&self, status: Status) {
        let place = Status::ALL.iter().position(|known| *known == status).expect("every status is in ALL");
        self.0[place].add(1);
    }

    pub(crate) fn get(&self, status: Status) -> u64 {
        Status::ALL.iter().zip(&self.0).filter(|(known, _)| **known == status).map(|(_, count)| count.get()).sum()
    }

    fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }

    /// Those that happened, by name.
    pub(super) fn seen(&self) -> BTreeMap<&'static str, u64> {
        let named = Status::ALL.iter().zip(&self.0).map(|(status, count)| (status.name(), count.get()));
        named.filter(|(_, count)| *count > 0).collect()
    }
}

/// One counter per reason of a crash.
#[derive(Default)]
pub(crate) struct ByReason([Counter; CrashReason::ALL.len()]);

impl ByReason {
    pub(crate) fn add(&self, reason: CrashReason) {
        let place = CrashReason::ALL.iter().position(|known| *known == reason).expect("every reason is in ALL");
        self.0[place].add(1);
    }

    /// All of them, by name: so a first crash is a step in its series, not the beginning of one.
    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        CrashReason::ALL.iter().zip(&self.0).map(|(reason, count)| (reason.name(), count.get())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_under_their_names_in_json() {
        for reason in [FinishReason::Stop, FinishReason::Length, FinishReason::StopString, FinishReason::StopToken] {
            let counts = Counts::default();
            counts.count_finished(reason);
            let name = serde_json::to_value(reason).unwrap();
            assert_eq!(counts.finished()[name.as_str().unwrap()], 1);
        }
    }

    #[test]
    fn every_status_has_its_counter() {
        let counts = ByStatus::default();
        Status::ALL.iter().for_each(|status| counts.add(*status));
        assert_eq!(counts.seen().len(), Status::ALL.len());
        assert!(counts.seen().values().all(|count| *count == 1));
    }

    #[test]
    fn every_reason_of_a_crash_has_its_counter() {
        let counts = ByReason::default();
        CrashReason::ALL.iter().for_each(|reason| counts.add(*reason));
        assert_eq!(counts.all().len(), CrashReason::ALL.len());
        assert!(counts.all().values().all(|count| *count == 1));
    }
}
