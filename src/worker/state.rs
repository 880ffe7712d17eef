//! What others may know of a worker while it decodes. Nothing here is locked during a decode.

use super::measure::Measuring;
use super::{Cores, Measured, PlaceMemory, StartPhases};
use crate::crash::Crash;
use crate::heartbeat::Heartbeat;
use crate::isolation::confine::ConfinementReport;
use crate::job::Job;
use crate::remote::Host;
use crate::supervisor::BreakerState;
use crate::sync::Mutex;
use crate::telemetry::WorkerCounters;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Values of the abort flag. Any but the first ends a running decode on the CPU between two operations.
const GO_ON: i32 = 0;
const STOP: i32 = 1;
const CANCEL_PIECE: i32 = 2;

/// A child process that is a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerProcess {
    /// Its number.
    pub pid: u32,
    /// Memory that it had when it was last looked at, twice a second; pages of the model's file that it has read are counted in.
    pub rss_bytes: Option<u64>,
    /// What it may do and have, as it reported.
    pub confinement: ConfinementReport,
}

/// What the worker's present life runs. One that is over may still turn, if it was taken for dead while it waited for
/// somebody: it can neither add nor remove anything.
#[derive(Default)]
struct RunningJobs {
    life: u64,
    jobs: Vec<Arc<Job>>,
    /// It finds out what it can do.
    tries: bool,
    /// It counts among those that compute.
    active: bool,
}

pub(crate) struct WorkerState {
    turns: Heartbeat,
    ready: AtomicBool,
    restarts: AtomicU32,
    memory: Mutex<Vec<PlaceMemory>>,
    start_phases: Mutex<Option<StartPhases>>,
    prefill_piece: AtomicU32,
    draft_max: AtomicU32,
    kv_used: AtomicU64,
    stored: AtomicU64,
    abort: Arc<AtomicI32>,
    running: Mutex<RunningJobs>,
    cores: Arc<Cores>,
    measured: Mutex<Option<Measured>>,
    measuring: Mutex<Measuring>,
    /// In a child process: what is said here is the host's.
    host: Option<Arc<Host>>,
    /// It takes nothing more, and ends when what it has has ended.
    retired: AtomicBool,
    /// It loads the model itself, and has not yet.
    loading: AtomicBool,
    process: Mutex<Option<WorkerProcess>>,
    breaker: Mutex<BreakerState>,
    last_crash: Mutex<Option<Crash>>,
    pub counters: Arc<WorkerCounters>,
}

impl WorkerState {
    pub(crate) fn new(counters: Arc<WorkerCounters>, cores: Arc<Cores>) -> Self {
        Self {
            turns: Heartbeat::new(),
            ready: AtomicBool::new(false),
            restarts: AtomicU32::new(0),
            memory: Mutex::default(),
            start_phases: Mutex::default(),
            prefill_piece: AtomicU32::new(0),
            draft_max: AtomicU32::new(0),
            kv_used: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            abort: Arc::new(AtomicI32::new(GO_ON)),
            running: Mutex::default(),
            cores,
            measured: Mutex::new(None),
            measuring: Mutex::default(),
            host: None,
            retired: AtomicBool::new(false),
            loading: AtomicBool::new(false),
            process: Mutex::new(None),
            breaker: Mutex::new(BreakerState::Closed),
            last_crash: Mutex::new(None),
            counters,
        }
    }

    /// The same in a child process.
    pub(crate) fn in_child(counters: Arc<WorkerCounters>, cores: Arc<Cores>, host: Arc<Host>) -> Self {
        Self { host: Some(host), ..Self::new(counters, cores) }
    }

    /// What it computes with.
    pub(crate) fn cores(&self) -> &Arc<Cores> {
        &self.cores
    }

    /// Counts it among those that compute, or not any more. In a child process its host counts.
    fn count(&self, running: &mut RunningJobs) {
        let active = running.tries || !running.jobs.is_empty();
        if std::mem::replace(&mut running.active, active) != active && self.host.is_none() {
            self.cores.change(active);
        }
    }

    /// Whether somebody measures in it, and who.
    pub(super) fn measuring(&self) -> &Mutex<Measuring> {
        &self.measuring
    }

    /// It is ready, stays so, and runs nothing.
    pub(crate) fn is_settled(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_retired() && self.active() == 0
    }

    /// It computes without having a request, or has done so.
    pub(crate) fn tries(&self, life: u64, tries: bool) {
        let mut running = self.running.lock();
        if running.life == life {
            running.tries = tries;
            self.count(&mut running);
        }
    }

    /// Where it is told what the worker does, if that is in a child process.
    #[cfg(feature = "fault-injection")]
    pub(super) fn host(&self) -> Option<&Host> {
        self.host.as_deref()
    }

    /// The loop turned.
    pub(crate) fn beat(&self) {
        self.turns.beat();
        if let Some(host) = &self.host {
            host.beat();
        }
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

    /// What the engine allocated; empty while it has no context.
    pub(crate) fn memory(&self) -> Vec<PlaceMemory> {
        self.memory.lock().clone()
    }

    pub(crate) fn set_memory(&self, places: Vec<PlaceMemory>) {
        if let Some(host) = &self.host {
            host.memory(places.clone());
        }
        *self.memory.lock() = places;
    }

    /// Where the time of its start went; `None` until it is ready.
    pub(crate) fn start_phases(&self) -> Option<StartPhases> {
        *self.start_phases.lock()
    }

    pub(crate) fn set_start_phases(&self, phases: Option<StartPhases>) {
        if let (Some(host), Some(phases)) = (&self.host, phases) {
            host.started(phases);
        }
        *self.start_phases.lock() = phases;
    }

    /// Tokens of a prompt that are decoded at a time; 0 before that is known.
    pub(crate) fn prefill_piece(&self) -> u32 {
        self.prefill_piece.load(Ordering::Relaxed)
    }

    /// Most tokens that are guessed ahead.
    pub(crate) fn draft_max(&self) -> u32 {
        self.draft_max.load(Ordering::Relaxed)
    }

    /// What a life of this worker has measured.
    pub(crate) fn measured(&self) -> Option<Measured> {
        *self.measured.lock()
    }

    pub(crate) fn set_measured(&self, measured: Measured) {
        self.prefill_piece.store(measured.pace.piece(), Ordering::Relaxed);
        self.draft_max.store(measured.guesses.most, Ordering::Relaxed);
        *self.measured.lock() = Some(measured);
        if let Some(host) = &self.host {
            host.measured(measured);
        }
    }

    /// Positions that the slots hold, and bytes of saved states.
    pub(crate) fn kept(&self) -> (u64, u64) {
        (self.kv_used.load(Ordering::Relaxed), self.stored.load(Ordering::Relaxed))
    }

    pub(crate) fn set_kept(&self, positions: u64, stored: u64) {
        let before = self.stored.swap(stored, Ordering::Relaxed);
        let before = (self.kv_used.swap(positions, Ordering::Relaxed), before);
        if let Some(host) = &self.host
            && before != (positions, stored)
        {
            host.kept(positions, stored);
        }
    }

    /// The engine was called once, with so many tokens.
    pub(super) fn decoded(&self, tokens: usize, took: Duration) {
        match &self.host {
            Some(host) => host.decoded(tokens, took),
            None => self.counters.decoded(tokens, took),
        }
    }

    pub(super) fn decode_failed(&self) {
        match &self.host {
            Some(host) => host.decode_failed(),
            None => self.counters.decode_failures.add(1),
        }
    }

    /// Its context is gone, and no successor follows soon.
    pub(crate) fn unloaded(&self) {
        self.set_memory(vec![]);
        self.set_start_phases(None);
        self.set_kept(0, 0);
        self.prefill_piece.store(0, Ordering::Relaxed);
        self.draft_max.store(0, Ordering::Relaxed);
    }

    /// What is known of the process that is this worker's from now on.
    pub(crate) fn follows(&self, spare: &Self) {
        self.set_memory(spare.memory());
        self.set_start_phases(spare.start_phases());
        if let Some(measured) = spare.measured() {
            self.set_measured(measured);
        }
        self.set_process(spare.process());
        self.beat();
    }

    /// It is to take nothing more.
    pub(crate) fn retire(&self, retired: bool) {
        self.retired.store(retired, Ordering::Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    pub(crate) fn set_loading(&self, loading: bool) {
        self.loading.store(loading, Ordering::Relaxed);
    }

    /// It loads the model: whether its loop turns says nothing yet.
    pub(crate) fn is_loading(&self) -> bool {
        self.loading.load(Ordering::Relaxed)
    }

    /// The child process that it is, if it is one.
    pub(crate) fn process(&self) -> Option<WorkerProcess> {
        self.process.lock().clone()
    }

    pub(crate) fn set_rss(&self, bytes: Option<u64>) {
        if let Some(process) = &mut *self.process.lock() {
            process.rss_bytes = bytes;
        }
    }

    pub(crate) fn set_process(&self, process: Option<WorkerProcess>) {
        *self.process.lock() = process;
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
        // A cancel may have met one that was dead already.
        *self.measuring.lock() = Measuring::Nobody;
        self.piece_is_over();
        self.set_start_phases(None);
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
            self.count(&mut running);
        }
        running.life == life
    }

    pub(crate) fn remove(&self, life: u64, id: u64) {
        let mut running = self.running.lock();
        if running.life == life {
            running.jobs.retain(|job| job.id != id);
            self.count(&mut running);
            if let Some(host) = &self.host {
                host.freed(id);
            }
        }
    }

    /// A request that runs in this life.
    pub(crate) fn job(&self, life: u64, id: u64) -> Option<Arc<Job>> {
        let running = self.running.lock();
        running.jobs.iter().find(|job| running.life == life && job.id == id).cloned()
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
        let jobs = {
            let mut running = self.running.lock();
            running.life += 1;
            running.tries = false;
            let jobs = std::mem::take(&mut running.jobs);
            self.count(&mut running);
            jobs
        };
        // Whoever ends them from now on is not to end a decode of the next life.
        jobs.iter().for_each(|job| job.runs_in(None));
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use crate::event::Failed;
    use crate::status::Status;
    use crate::telemetry::Telemetry;
    use std::sync::Weak;

    /// The thread that decoded its prompt was ended, and never said that the piece is over.
    #[test]
    fn the_end_of_a_request_whose_worker_died_ends_no_decode_of_the_next_life() {
        let telemetry = Arc::new(Telemetry::new(Default::default(), 1, Arc::default()));
        let state = Arc::new(WorkerState::new(telemetry.workers[0].clone(), Arc::new(Cores::new(1, false))));
        let job = |id| Arc::new(Job::new(id, Request::prompt("a"), Some(0), Weak::new(), telemetry.clone()));
        let (failed, cancelled) = (job(0), job(1));
        for (job, cancelled) in [(failed, false), (cancelled, true)] {
            let life = state.begin_life();
            assert!(state.add(life, job.clone()));
            std::mem::forget(job.prefilling(&state));
            if cancelled {
                job.cancel().unwrap();
                assert_eq!(state.abort.load(Ordering::Relaxed), CANCEL_PIECE);
            }
            assert_eq!(state.take_jobs().len(), 1);
            job.fail(Failed::new(Status::WorkerReset, "it died"));
            state.begin_life();
            assert_eq!(state.abort.load(Ordering::Relaxed), GO_ON, "cancelled: {cancelled}");
        }
    }
}
