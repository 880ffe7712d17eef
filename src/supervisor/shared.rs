//! What the owner's handle, the control thread and the workers share.

use super::control::Report;
use super::health::{Health, State, WorkerHealth};
use super::queue::Queue;
use crate::config::SupervisorConfig;
use crate::error::{Error, Result};
use crate::event::Failed;
use crate::heartbeat::Heartbeat;
use crate::isolation::{handlers_installed, thread};
use crate::job::Job;
use crate::prepare::PreparedEngine;
use crate::process::Process;
use crate::status::Status;
use crate::telemetry::Telemetry;
use crate::worker::WorkerState;
use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Why requests end with `Draining`.
pub(super) const STOPPED: &str = "the supervisor was stopped";

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
    stopping: AtomicBool,
    load_cancelled: AtomicBool,
    load_progress: AtomicU32,
    phase: Mutex<Phase>,
    phase_changed: Condvar,
    turns: Heartbeat,
    last_id: AtomicU64,
    tainted: AtomicBool,
    process: Process,
}

/// What is decided once, apart from what the workers say.
struct Phase {
    stage: Stage,
    last_error: Option<(Status, String)>,
}

#[derive(Clone)]
pub(super) enum Stage {
    Starting,
    Running,
    /// For good, with what it failed of.
    Failed(Status, String),
    Stopped,
}

impl Shared {
    pub(super) fn new(prepared: PreparedEngine, config: SupervisorConfig) -> Self {
        let (to_control, reports) = crossbeam_channel::unbounded();
        let telemetry = Arc::new(Telemetry::of(&prepared));
        Self {
            queue: Arc::new(Queue::new(config.queue_capacity)),
            workers: telemetry.workers.iter().map(|counters| Arc::new(WorkerState::new(counters.clone()))).collect(),
            telemetry,
            prepared: Arc::new(prepared),
            config,
            to_control,
            reports,
            control: Mutex::new(None),
            stopping: AtomicBool::new(false),
            load_cancelled: AtomicBool::new(false),
            load_progress: AtomicU32::new(0),
            phase: Mutex::new(Phase { stage: Stage::Starting, last_error: None }),
            phase_changed: Condvar::new(),
            turns: Heartbeat::new(),
            last_id: AtomicU64::new(0),
            tainted: AtomicBool::new(false),
            process: Process::current(),
        }
    }

    pub(super) fn check_process(&self) -> Result<()> {
        self.process.check()
    }

    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Called by the loader; false ends the load.
    pub(super) fn loading(&self, progress: f32) -> bool {
        self.load_progress.store(progress.to_bits(), Ordering::Relaxed);
        !self.load_cancelled.load(Ordering::Relaxed) && !self.is_stopping()
    }

    pub(super) fn set_tainted(&self) {
        self.tainted.store(true, Ordering::Relaxed);
    }

    pub(super) fn cancel_load(&self) {
        self.load_cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn control_turned(&self) {
        self.turns.beat();
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        let mut phase = self.phase.lock();
        if let Stage::Failed(status, message) = &stage {
            phase.last_error = Some((*status, message.clone()));
        }
        phase.stage = stage;
        self.phase_changed.notify_all();
    }

    pub(super) fn set_last_error(&self, status: Status, message: String) {
        self.phase.lock().last_error = Some((status, message));
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
                Stage::Starting | Stage::Running => {}
            }
            match deadline {
                None => self.phase_changed.wait(&mut phase),
                Some(deadline) if Instant::now() >= deadline => return Ok(false),
                Some(deadline) => drop(self.phase_changed.wait_until(&mut phase, deadline)),
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
        let (stage, last_error) = {
            let phase = self.phase.lock();
            (phase.stage.clone(), phase.last_error.clone())
        };
        let (last_error_status, last_error) = last_error.unzip();
        let ready = match stage {
            Stage::Running => self.ready_workers(),
            _ => 0,
        };
        let state = match stage {
            Stage::Starting => State::Starting,
            Stage::Failed(..) => State::Failed,
            Stage::Stopped => State::Stopped,
            Stage::Running if ready == self.workers.len() => State::Ready,
            Stage::Running if ready > 0 => State::Degraded,
            Stage::Running => State::Backoff,
        };
        Health {
            state,
            live: state != State::Stopped && self.turns.age() < LIVE_LIMIT,
            ready: ready > 0,
            load_progress: f32::from_bits(self.load_progress.load(Ordering::Relaxed)),
            queue_depth: self.queue.len(),
            workers: self.workers.iter().map(|w| self.worker_health(w)).collect(),
            last_error_status,
            last_error,
            tainted: self.tainted.load(Ordering::Relaxed),
            contains_faults: handlers_installed(),
        }
    }

    fn worker_health(&self, worker: &WorkerState) -> WorkerHealth {
        let (kv_used, prefix_store_used) = worker.kept();
        WorkerHealth {
            ready: worker.is_ready(self.stall_limit()),
            restarts: worker.restarts(),
            active: worker.active(),
            memory_bytes: worker.memory(),
            prefill_piece: worker.prefill_piece(),
            draft_max: worker.draft_max(),
            kv_used,
            kv_total: u64::from(self.prepared.slots()) * u64::from(self.prepared.n_ctx()),
            prefix_store_used,
        }
    }

    /// Takes no more requests and ends the waiting ones.
    pub(super) fn close_queue(&self, status: Status, message: &str) {
        fail_all(self.queue.close(), status, message);
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.close_queue(Status::Draining, STOPPED);
        for worker in &self.workers {
            fail_all(worker.take_jobs(), Status::Draining, STOPPED);
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
