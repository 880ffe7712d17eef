//! What others may know of a worker while it decodes. Nothing here is locked during a decode.

use crate::job::Job;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct WorkerState {
    epoch: Instant,
    last_beat_ms: AtomicU64,
    ready: AtomicBool,
    restarts: AtomicU32,
    abort: Arc<AtomicI32>,
    jobs: Mutex<Vec<Arc<Job>>>,
}

impl WorkerState {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            last_beat_ms: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            restarts: AtomicU32::new(0),
            abort: Arc::new(AtomicI32::new(0)),
            jobs: Mutex::new(Vec::new()),
        }
    }

    /// The loop turned.
    pub(crate) fn beat(&self) {
        let ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_beat_ms.store(ms, Ordering::Relaxed);
    }

    /// It has decoded a token since its start, and its loop turned within `stall_limit`.
    pub(crate) fn is_ready(&self, stall_limit: Duration) -> bool {
        let last = Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
        self.ready.load(Ordering::Acquire) && self.epoch.elapsed().saturating_sub(last) < stall_limit
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a running decode on the CPU between two operations.
    pub(crate) fn abort(&self) {
        self.abort.store(1, Ordering::Relaxed);
    }

    pub(crate) fn abort_flag(&self) -> Arc<AtomicI32> {
        self.abort.clone()
    }

    pub(crate) fn add(&self, job: Arc<Job>) {
        self.jobs.lock().push(job);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.jobs.lock().retain(|job| job.id != id);
    }

    pub(crate) fn active(&self) -> usize {
        self.jobs.lock().len()
    }

    /// The requests that were running, when the worker is gone or is to go.
    pub(crate) fn take_jobs(&self) -> Vec<Arc<Job>> {
        std::mem::take(&mut *self.jobs.lock())
    }
}
