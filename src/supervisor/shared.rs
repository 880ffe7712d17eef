//! What the owner's handle, the control thread and the workers of one engine share.

use super::calibration::{Calibration, Calibrator};
use super::common::Common;
use super::control::Report;
use super::gate::Entry;
use super::handoff::Handoff;
use super::health::{Health, State, WorkerHealth};
use super::quarantine::Quarantine;
use super::queue::Queue;
use crate::config::{Isolation, SupervisorConfig};
use crate::error::{Error, Rejected, Result};
use crate::event::Failed;
use crate::heartbeat::Heartbeat;
use crate::isolation::{handlers_installed, thread};
use crate::job::Job;
use crate::prepare::PreparedEngine;
use crate::status::Status;
use crate::sync::{Condvar, Mutex};
use crate::telemetry::{Telemetry, WorkerCounters};
use crate::worker::{Cores, SnapshotPolicy, WorkerState};
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Why requests end with `Draining`.
pub(super) const STOPPED: &str = "the supervisor was stopped";

/// The same after a reload.
pub(super) const REPLACED: &str = "the supervisor was reloaded, and this had not ended by then";

/// Why it stops.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    /// By its owner, or because the process ends.
    Asked,
    /// After a drain; what is left did not end by itself.
    Drained,
    /// Another engine has its place, or keeps it.
    Replaced,
}

/// What becomes of an engine that fails for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Requests come to it: the supervisor has failed with it.
    Current,
    /// To take another one's place once it is ready: what waits is kept, for whoever comes up.
    Trial,
    /// Another one has its place: what it has ends with it, nothing more.
    Retired,
}

/// The control loop turns twice a second; a process that was starved of its cores may be late.
const LIVE_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Shared {
    pub prepared: Arc<PreparedEngine>,
    pub config: SupervisorConfig,
    pub queue: Arc<Queue>,
    pub workers: Vec<Arc<WorkerState>>,
    pub to_control: Sender<Report>,
    pub reports: Receiver<Report>,
    pub control: Mutex<Option<thread::Handle>>,
    pub telemetry: Arc<Telemetry>,
    pub handoff: Handoff,
    pub snapshots: Arc<SnapshotPolicy>,
    pub cores: Arc<Cores>,
    /// Where there is something to choose by measuring.
    pub(super) calibrator: Option<Calibrator>,
    pub quarantine: Mutex<Quarantine>,
    pub common: Arc<Common>,
    /// While it is on trial: the engine that would run its requests if it failed.
    pub rival: Mutex<Option<Arc<PreparedEngine>>>,
    stopping: AtomicBool,
    pub(super) load_cancelled: AtomicBool,
    pub(super) load_progress: AtomicU32,
    load_turns: Heartbeat,
    pub(super) phase: Mutex<Phase>,
    pub(super) phase_changed: Condvar,
    turns: Heartbeat,
}

/// What is decided once, apart from what the workers say.
pub(super) struct Phase {
    pub stage: Stage,
    pub role: Role,
    last_error: Option<(Status, String)>,
    circuit: Option<Circuit>,
    /// A reset was asked for and is not done: until then nothing opens the circuit.
    resetting: bool,
    /// How often memory was given back.
    pub unloads: u64,
}

/// All workers' breakers are open: why, and when the first one is tried again.
#[derive(Clone)]
pub(super) struct Circuit {
    pub message: String,
    pub probe_at: Instant,
}

#[derive(Clone)]
pub(super) enum Stage {
    Starting,
    Running,
    /// Workers are being sent home.
    Unloading,
    Unloaded,
    /// For good, with what it failed of.
    Failed(Status, String),
    Stopped,
}

impl Shared {
    pub(super) fn new(
        prepared: PreparedEngine,
        config: SupervisorConfig,
        common: &Arc<Common>,
        role: Role,
    ) -> Result<Self> {
        let (to_control, reports) = crossbeam_channel::unbounded();
        let telemetry = Arc::new(Telemetry::of(&prepared, &common.counts));
        let cores = Arc::new(Cores::new(prepared.threads(), prepared.share_threads()));
        let worker = |counters: &Arc<WorkerCounters>| Arc::new(WorkerState::new(counters.clone(), cores.clone()));
        let (calibrator, queue) = (Calibrator::new(&prepared), Queue::new(config.queue_capacity, config.queue_full));
        if let Some(Calibration { spread, .. }) = calibrator.as_ref().map(Calibrator::look) {
            queue.spread(spread, prepared.slots());
        }
        Ok(Self {
            queue: Arc::new(queue),
            calibrator,
            workers: telemetry.workers.iter().map(worker).collect(),
            cores: cores.clone(),
            telemetry,
            snapshots: Arc::new(SnapshotPolicy::new(config.snapshot_tokens, config.snapshot_bytes)),
            quarantine: Mutex::default(),
            handoff: Handoff::new(&prepared, config.handoff_dir.as_deref(), role == Role::Current)?,
            common: common.clone(),
            rival: Mutex::new(None),
            prepared: Arc::new(prepared),
            config,
            to_control,
            reports,
            control: Mutex::new(None),
            stopping: AtomicBool::new(false),
            load_cancelled: AtomicBool::new(false),
            load_progress: AtomicU32::new(0),
            load_turns: Heartbeat::new(),
            phase: Mutex::new(Phase {
                stage: Stage::Starting,
                role,
                last_error: None,
                circuit: None,
                resetting: false,
                unloads: 0,
            }),
            phase_changed: Condvar::new(),
            turns: Heartbeat::new(),
        })
    }

    pub(super) fn role(&self) -> Role {
        self.phase.lock().role
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Called by the loader; false ends the load.
    pub(super) fn loading(&self, progress: f32) -> bool {
        self.load_progress.store(progress.to_bits(), Ordering::Relaxed);
        self.load_turns.beat();
        !self.load_cancelled.load(Ordering::Relaxed) && !self.is_stopping()
    }

    pub(super) fn load_is_cancelled(&self) -> bool {
        self.load_cancelled.load(Ordering::Relaxed)
    }

    /// How long ago the load made progress.
    pub(super) fn load_idle_for(&self) -> Duration {
        self.load_turns.age()
    }

    /// How long it may make none. Nobody waits long for one that was told to end.
    pub(super) fn load_stall_limit(&self) -> Duration {
        let limit = Duration::from_millis(self.config.load_stall_limit_ms);
        match self.load_is_cancelled() || self.is_stopping() {
            true => limit.min(self.stall_limit()),
            false => limit,
        }
    }

    pub(super) fn cancel_load(&self) {
        let phase = self.phase.lock();
        // Not for the next load.
        if let Stage::Starting = phase.stage {
            self.load_cancelled.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.phase.lock().stage, Stage::Starting)
    }

    pub(super) fn control_turned(&self) {
        self.turns.beat();
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        let mut phase = self.phase.lock();
        phase.stage = stage;
        self.phase_changed.notify_all();
    }

    pub(super) fn set_last_error(&self, status: Status, message: String) {
        self.phase.lock().last_error = Some((status, message));
    }

    /// Opens or closes the circuit. Open, it ends the waiting requests.
    pub(super) fn set_circuit(&self, circuit: Option<Circuit>) {
        {
            let mut phase = self.phase.lock();
            phase.circuit = circuit.filter(|_| !phase.resetting);
        }
        self.fail_if_open();
    }

    /// Closes the circuit until the control thread has reset the breakers.
    pub(super) fn reset_circuit(&self) -> Result<()> {
        let mut phase = self.phase.lock();
        if matches!(phase.stage, Stage::Failed(..) | Stage::Stopped) || self.is_stopping() {
            drop(phase);
            return Err(self.unavailable());
        }
        (phase.circuit, phase.resetting) = (None, true);
        let _ = self.to_control.send(Report::ResetBreaker);
        Ok(())
    }

    pub(super) fn circuit_was_reset(&self) {
        self.phase.lock().resetting = false;
    }

    /// Refuses while the circuit is open.
    pub(super) fn check_circuit(&self) -> Result<(), Rejected> {
        let Some(Circuit { message, probe_at }) = self.phase.lock().circuit.clone() else { return Ok(()) };
        let wait = u64::try_from(probe_at.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX);
        let (wait, next) = match wait {
            // Nobody knows how long a start takes: as long as a restart would wait.
            0 => (self.config.backoff_initial_ms, "it is being tried again".to_owned()),
            _ => (wait, format!("it is tried again in {wait} ms, or now if the breaker is reset")),
        };
        let message = format!("{message}; {next}");
        let rejected = Rejected::new(Status::PoolUnavailable, "breaker", message);
        Err(Rejected { retriable: true, retry_after_ms: Some(wait), ..rejected })
    }

    /// Ends the waiting requests if the circuit is open. For who opened it, for who queued a request meanwhile, and for those that
    /// come back late: the control thread asks every turn.
    pub(super) fn fail_if_open(&self) {
        let Err(Rejected { status, retriable, retry_after_ms, message, .. }) = self.check_circuit() else { return };
        for job in self.queue.take() {
            job.fail(Failed { status, message: message.clone(), retriable, retry_after_ms });
        }
    }

    /// A worker became ready or ceased to be.
    pub(super) fn worker_changed(&self) {
        let _phase = self.phase.lock();
        self.phase_changed.notify_all();
    }

    fn stall_limit(&self) -> Duration {
        Duration::from_millis(self.config.stall_limit_ms)
    }

    fn ready_workers(&self) -> usize {
        self.workers.iter().filter(|w| w.is_ready(self.stall_limit())).count()
    }

    pub(super) fn wait_ready(&self, deadline: Option<Instant>) -> Result<bool> {
        let mut phase = self.phase.lock();
        loop {
            match &phase.stage {
                Stage::Failed(status, message) => {
                    return Err(Error::Load { status: *status, message: message.clone() });
                }
                Stage::Stopped => return Err(Error::Unavailable("it was stopped".into())),
                Stage::Running if self.ready_workers() > 0 => return Ok(true),
                Stage::Starting | Stage::Running | Stage::Unloading | Stage::Unloaded => {}
            }
            match deadline {
                None => self.phase_changed.wait(&mut phase),
                Some(deadline) if Instant::now() >= deadline => return Ok(false),
                Some(deadline) => {
                    self.phase_changed.wait_until(&mut phase, deadline);
                }
            }
        }
    }

    /// Why nothing can be submitted any more.
    pub(super) fn unavailable(&self) -> Error {
        match &self.phase.lock().stage {
            Stage::Failed(_, message) => Error::Unavailable(format!("it failed: {message}")),
            _ => Error::Unavailable("it was stopped".into()),
        }
    }

    pub(super) fn health(&self) -> Health {
        let (stage, last_error, open) = {
            let phase = self.phase.lock();
            let stage = match (&phase.stage, phase.role) {
                // Another one comes up soon.
                (Stage::Failed(..) | Stage::Stopped, Role::Trial) => Stage::Starting,
                (stage, _) => stage.clone(),
            };
            (stage, phase.last_error.clone(), phase.circuit.is_some())
        };
        let (last_error_status, last_error) = last_error.unzip();
        let ready = match stage {
            Stage::Running => self.ready_workers(),
            _ => 0,
        };
        let (entry, leases) = self.common.gate.look();
        let state = match stage {
            Stage::Failed(..) => State::Failed,
            Stage::Stopped => State::Stopped,
            _ if entry == Entry::Draining => State::Draining,
            Stage::Starting => State::Starting,
            Stage::Unloading => State::Unloading,
            Stage::Unloaded => State::Unloaded,
            Stage::Running if ready == self.workers.len() => State::Ready,
            Stage::Running if ready > 0 => State::Degraded,
            Stage::Running if open => State::CircuitOpen,
            Stage::Running => State::Backoff,
        };
        let queued = self.queue.depths();
        let workers: Vec<_> = self.workers.iter().map(|w| self.worker_health(w)).collect();
        let (identity, slots) = (&self.telemetry.identity, self.prepared.slots() as usize);
        let free = |worker: &WorkerHealth| slots.saturating_sub(worker.active);
        Health {
            state,
            live: state != State::Stopped && self.turns.age() < LIVE_LIMIT,
            ready: ready > 0,
            uptime_ms: self.telemetry.counts.uptime_ms(),
            engine_version: identity.engine_version.clone(),
            engine_digest: identity.engine_digest.clone(),
            device_mask: identity.device_mask.clone(),
            slots: slots * workers.len(),
            slots_free: workers.iter().filter(|worker| worker.ready).map(free).sum(),
            compute_threads: self.cores.share(),
            load_progress: f32::from_bits(self.load_progress.load(Ordering::Relaxed)),
            load_phases: self.telemetry.load_phases(),
            calibration: self.calibrator.as_ref().map(Calibrator::look),
            queue_depth: queued.total(),
            queue_depth_by_priority: queued,
            leases,
            snapshot_bytes: self.snapshots.used(),
            workers,
            last_error_status,
            last_error,
            reloading: false,
            tainted: self.common.is_tainted(),
            taint: self.common.taint,
            isolation: match self.common.place(self.prepared.isolation()) {
                Some(_) => Isolation::Process,
                None => Isolation::Thread,
            },
            contains_faults: handlers_installed(),
        }
    }

    fn worker_health(&self, worker: &WorkerState) -> WorkerHealth {
        let (kv_used, prefix_store_used) = worker.kept();
        let memory = worker.memory();
        WorkerHealth {
            ready: worker.is_ready(self.stall_limit()),
            heartbeat_ms: u64::try_from(worker.idle_for().as_millis()).unwrap_or(u64::MAX),
            restarts: worker.restarts(),
            breaker: worker.breaker(),
            last_crash: worker.last_crash(),
            active: worker.active(),
            memory_bytes: memory.iter().map(|place| place.allocated_bytes).sum(),
            memory,
            start_phases: worker.start_phases(),
            prefill_piece: worker.prefill_piece(),
            draft_max: worker.draft_max(),
            kv_used,
            kv_total: u64::from(self.prepared.slots()) * u64::from(self.prepared.n_ctx()),
            prefix_store_used,
            process: worker.process(),
        }
    }

    /// It has failed for good.
    pub(super) fn fail(&self, status: Status, message: &str) {
        self.handoff.end();
        let waiting = {
            // Together under its lock: who hears of the failure finds the queue closed, and a trial is decided one way.
            let mut phase = self.phase.lock();
            phase.last_error = Some((status, message.into()));
            phase.stage = Stage::Failed(status, message.into());
            self.phase_changed.notify_all();
            self.end_by(phase.role)
        };
        fail_all(waiting, status, message);
    }

    /// Sends the workers home. Gives the requests that wait, unless another engine may run them.
    fn end_by(&self, role: Role) -> Vec<Arc<Job>> {
        match role {
            Role::Trial => {
                self.queue.hold();
                return vec![];
            }
            Role::Current => drop(self.common.gate.narrow(Entry::Closed)),
            Role::Retired => {}
        }
        self.queue.close()
    }

    /// Ends its trial. False: it has failed or was stopped.
    pub(super) fn passes_trial(&self) -> bool {
        {
            let mut phase = self.phase.lock();
            if matches!(phase.stage, Stage::Failed(..) | Stage::Stopped) {
                return false;
            }
            phase.role = Role::Current;
        }
        *self.rival.lock() = None;
        true
    }

    /// It failed on trial, and there is nothing to go back to: that is the supervisor's failure.
    pub(super) fn fails_trial(&self) {
        let failure = {
            let mut phase = self.phase.lock();
            phase.role = Role::Current;
            match &phase.stage {
                Stage::Failed(status, message) => Some((*status, message.clone(), self.end_by(Role::Current))),
                _ => None,
            }
        };
        if let Some((status, message, waiting)) = failure {
            fail_all(waiting, status, &message);
        }
    }

    pub(super) fn set_role(&self, role: Role) {
        self.phase.lock().role = role;
    }

    /// Whether it has failed for good or stopped.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase.lock().stage, Stage::Failed(..) | Stage::Stopped)
    }

    pub(super) fn stop(&self, why: Stop) {
        let message = match why {
            Stop::Asked => STOPPED,
            Stop::Drained => "the supervisor was drained, and this had not ended by the deadline",
            Stop::Replaced => REPLACED,
        };
        self.stopping.store(true, Ordering::Release);
        self.handoff.end();
        let role = match why {
            Stop::Replaced => self.role(),
            Stop::Asked | Stop::Drained => Role::Current,
        };
        fail_all(self.end_by(role), Status::Draining, message);
        for worker in &self.workers {
            fail_all(worker.take_jobs(), Status::Draining, message);
            worker.abort();
        }
        let _ = self.to_control.send(Report::Stop);
        // One of our own threads (a waker or log subscriber of the host runs on it) cannot wait for itself.
        if !thread::is_current() {
            let mut control = self.control.lock();
            if let Some(handle) = control.take() {
                handle.join();
            }
        }
    }
}

pub(super) fn fail_all(jobs: Vec<Arc<Job>>, status: Status, message: &str) {
    for job in jobs {
        job.fail(Failed::new(status, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::supervisor::queue::{Popped, Taker};
    use crate::{EngineConfig, Next, Request};

    fn shared() -> Shared {
        let engine = crate::prepare(&EngineConfig::new(crate::test_model())).unwrap();
        Shared::new(
            engine,
            SupervisorConfig::default(),
            &Arc::new(Common::new(&SupervisorConfig::default()).unwrap()),
            Role::Current,
        )
        .unwrap()
    }

    fn open(after: Duration) -> Option<Circuit> {
        Some(Circuit { message: "why".into(), probe_at: Instant::now() + after })
    }

    fn queued(shared: &Shared) -> Arc<Job> {
        let job = Job::new(0, Request::prompt("a"), None, Arc::downgrade(&shared.queue), shared.telemetry.clone());
        let job = Arc::new(job);
        assert!(shared.queue.push(job.clone(), false).is_ok());
        job
    }

    fn failed(job: &Job) -> Option<Failed> {
        match job.events.next(Some(Instant::now())).unwrap() {
            Next::Event(Event::Failed(failed)) => Some(failed),
            _ => None,
        }
    }

    /// As `submit` does it when the circuit opens between its check and its place in the queue.
    #[test]
    fn a_request_that_was_queued_before_or_after_the_circuit_opened_ends() {
        let shared = shared();
        shared.set_stage(Stage::Running);
        let before = queued(&shared);
        shared.set_circuit(None);
        assert_eq!(failed(&before), None);
        shared.set_circuit(open(Duration::from_secs(60)));
        let failed_before = failed(&before).unwrap();
        assert_eq!((failed_before.status, failed_before.retriable), (Status::PoolUnavailable, true));
        assert!((50_000..=60_000).contains(&failed_before.retry_after_ms.unwrap()));
        let after = queued(&shared);
        assert_eq!(failed(&after), None);
        shared.fail_if_open();
        assert!(failed(&after).is_some());
        let come_back = queued(&shared);
        assert!(matches!(
            shared.queue.pop(Duration::ZERO, Taker { worker: 0, suspects: true, running: 0 }),
            Popped::Job(..)
        ));
        assert!(shared.queue.push_again(come_back.clone()));
        shared.fail_if_open();
        assert!(failed(&come_back).is_some());
        assert_eq!((shared.queue.depths().total(), shared.health().state), (0, State::CircuitOpen));
    }

    #[test]
    fn while_a_probe_starts_the_wait_is_that_of_a_restart() {
        let shared = shared();
        assert!(shared.check_circuit().is_ok());
        shared.set_circuit(open(Duration::ZERO));
        assert_eq!(shared.check_circuit().unwrap_err().retry_after_ms, Some(1000));
    }

    #[test]
    fn nothing_opens_the_circuit_between_a_reset_and_its_effect() {
        let shared = shared();
        shared.set_circuit(open(Duration::from_secs(60)));
        shared.reset_circuit().unwrap();
        assert!(shared.check_circuit().is_ok());
        shared.set_circuit(open(Duration::from_secs(60)));
        assert!(shared.check_circuit().is_ok(), "it opened again before the breakers were reset");
        shared.circuit_was_reset();
        shared.set_circuit(open(Duration::from_secs(60)));
        assert!(shared.check_circuit().is_err());
        shared.set_stage(Stage::Stopped);
        assert_eq!(shared.reset_circuit().unwrap_err().status(), Status::PoolUnavailable);
    }
}
