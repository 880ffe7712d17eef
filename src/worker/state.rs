//! What others may know of a worker while it decodes. Nothing here is locked during a decode.

use super::Guesses;
use super::pace::Pace;
use crate::crash::Crash;
use crate::heartbeat::Heartbeat;
use crate::job::Job;
use crate::supervisor::BreakerState;
use crate::telemetry::WorkerCounters;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Values of the abort flag. Any but the first ends a running decode on the CPU between two operations.
const GO_ON: i32 = 0;
const STOP: i32 = 1;
const CANCEL_PIECE: i32 = 2;

/// What the worker's present life runs. One that is over may still turn, if it was taken for dead while it waited for
/// somebody: it can neither add nor remove anything.
#[derive(Default)]
struct RunningJobs {
    life: u64,
    jobs: Vec<Arc<Job>>,
}

pub(crate) struct WorkerState {
    turns: Heartbeat,
    ready: AtomicBool,
    restarts: AtomicU32,
    memory: AtomicU64,
    prefill_piece: AtomicU32,
    draft_max: AtomicU32,
    kv_used: AtomicU64,
    stored: AtomicU64,
    abort: Arc<AtomicI32>,
    running: Mutex<RunningJobs>,
    measured: Mutex<Option<(Pace, Guesses)>>,
    breaker: Mutex<BreakerState>,
    last_crash: Mutex<Option<Crash>>,
    pub counters: Arc<WorkerCounters>,
}

impl WorkerState {
    pub(crate) fn new(counters: Arc<WorkerCounters>) -> Self {
        Self {
            turns: Heartbeat::new(),
            ready: AtomicBool::new(false),
            restarts: AtomicU32::new(0),
            memory: AtomicU64::new(0),
            prefill_piece: AtomicU32::new(0),
            draft_max: AtomicU32::new(0),
            kv_used: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            abort: Arc::new(AtomicI32::new(GO_ON)),
            running: Mutex::default(),
            measured: Mutex::new(None),
            breaker: Mutex::new(BreakerState::Closed),
            last_crash: Mutex::new(None),
            counters,
        }
    }

    /// The loop turned.
    pub(crate) fn beat(&self) {
        self.turns.beat();
    }

    /// It has decoded a token since its start, and its loop turned within `stall_limit`.
    pub(crate) fn is_ready(&self, stall_limit: Duration) -> bool {
        self.ready.load(Ordering::Acquire) && self.turns.age() < stall_limit
    }

    /// How long ago its loop turned.
    pub(crate) fn idle_for(&self) -> Duration {
        self.turns.age()
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

    pub(crate) fn breaker(&self) -> BreakerState {
        *self.breaker.lock()
    }

    pub(crate) fn set_breaker(&self, state: BreakerState) {
        *self.breaker.lock() = state;
    }

    pub(crate) fn last_crash(&self) -> Option<Crash> {
        self.last_crash.lock().clone()
    }

    pub(crate) fn crashed(&self, crash: Crash) {
        self.counters.crashes.add(crash.reason);
        *self.last_crash.lock() = Some(crash);
    }

    /// Bytes that the engine allocated for its context; 0 while there is none.
    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    pub(crate) fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Tokens of a prompt that are decoded at a time; 0 before that is known.
    pub(crate) fn prefill_piece(&self) -> u32 {
        self.prefill_piece.load(Ordering::Relaxed)
    }

    pub(crate) fn set_prefill_piece(&self, tokens: u32) {
        self.prefill_piece.store(tokens, Ordering::Relaxed);
    }

    /// Most tokens that are guessed ahead.
    pub(crate) fn draft_max(&self) -> u32 {
        self.draft_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_draft_max(&self, tokens: u32) {
        self.draft_max.store(tokens, Ordering::Relaxed);
    }

    /// What an earlier life of this worker has measured.
    pub(super) fn measured(&self) -> Option<(Pace, Guesses)> {
        *self.measured.lock()
    }

    pub(super) fn set_measured(&self, measured: (Pace, Guesses)) {
        *self.measured.lock() = Some(measured);
    }

    /// Positions that the slots hold, and bytes of saved states.
    pub(crate) fn kept(&self) -> (u64, u64) {
        (self.kv_used.load(Ordering::Relaxed), self.stored.load(Ordering::Relaxed))
    }

    pub(crate) fn set_kept(&self, positions: u64, stored: u64) {
        self.kv_used.store(positions, Ordering::Relaxed);
        self.stored.store(stored, Ordering::Relaxed);
    }

    /// Its context is gone, and no successor follows soon.
    pub(crate) fn unloaded(&self) {
        self.set_memory(0);
        self.set_kept(0, 0);
        self.set_prefill_piece(0);
        self.set_draft_max(0);
    }

    /// The supervisor stops: ends a running decode, and every later one.
    pub(crate) fn abort(&self) {
        self.abort.store(STOP, Ordering::Relaxed);
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.load(Ordering::Relaxed) == STOP
    }

    /// Ends the running decode of a prompt's piece; see [`Job::prefilling`].
    pub(crate) fn abort_piece(&self) {
        let _ = self.abort.compare_exchange(GO_ON, CANCEL_PIECE, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn piece_is_over(&self) {
        let _ = self.abort.compare_exchange(CANCEL_PIECE, GO_ON, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn abort_flag(&self) -> Arc<AtomicI32> {
        self.abort.clone()
    }

    /// The number of the life that begins.
    pub(crate) fn begin_life(&self) -> u64 {
        let mut running = self.running.lock();
        running.life += 1;
        running.life
    }

    /// False: that life is over.
    #[must_use]
    pub(crate) fn add(&self, life: u64, job: Arc<Job>) -> bool {
        let mut running = self.running.lock();
        if running.life == life {
            running.jobs.push(job);
        }
        running.life == life
    }

    pub(crate) fn remove(&self, life: u64, id: u64) {
        let mut running = self.running.lock();
        if running.life == life {
            running.jobs.retain(|job| job.id != id);
        }
    }

    /// Whether this request has a slot.
    pub(crate) fn runs(&self, id: u64) -> bool {
        self.running.lock().jobs.iter().any(|job| job.id == id)
    }

    pub(crate) fn active(&self) -> usize {
        self.running.lock().jobs.len()
    }

    /// The requests that are running.
    pub(crate) fn jobs(&self) -> Vec<Arc<Job>> {
        self.running.lock().jobs.clone()
    }

    /// Ends the life, and gives the requests that were running in it.
    pub(crate) fn take_jobs(&self) -> Vec<Arc<Job>> {
        let mut running = self.running.lock();
        running.life += 1;
        std::mem::take(&mut running.jobs)
    }
}
