//! The supervisor's own thread: starts the loader and the workers, hears how they end, restarts them.

use super::deadline::Deadlines;
use super::restart::{RestartLimiter, backoff};

use super::shared::{STOPPED, Shared, Stage, fail_all};
use crate::config::TaintPolicy;
use crate::error::{Error, Result};
use crate::isolation::FaultKind;
use crate::isolation::thread::{self, Death};
use crate::job::Job;
use crate::native::{self, LoadParams, Model, NativeError, NativeStatus};
use crate::status::Status;
use crate::worker::{Worker, WorkerFault};
use crossbeam_channel::RecvTimeoutError;
use std::ffi::CString;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often the loop turns when nothing happens.
const TURN: Duration = Duration::from_millis(500);

/// Logs of worker `$i`, with what every such line says: whose it is, and what it has done so far.
macro_rules! log_worker {
    ($level:ident, $control:ident, $i:ident, $($more:tt)+) => {{
        let state = &$control.shared.workers[$i];
        tracing::$level!(
            pool_id = $control.shared.telemetry.identity.pool_id,
            worker = $i,
            restart_count = state.restarts(),
            tokens_in_total = state.counters.tokens_in.get(),
            tokens_out_total = state.counters.tokens_out.get(),
            $($more)+
        )
    }};
}

/// What the control thread hears.
pub(super) enum Report {
    /// The loader ended: with a model, an error of llama.cpp, or dead.
    Loaded(Result<Result<Model, NativeError>, Death>),
    /// A worker decoded its first token.
    Ready(usize),
    /// A worker ended: in order (because the queue closed), with a fault, or dead.
    Ended(usize, Result<Result<(), WorkerFault>, Death>),
    /// A request has deadlines, or a nearer one than before.
    Watch(Weak<Job>),
    Stop,
}

pub(super) fn start(shared: &Arc<Shared>) -> Result<()> {
    let control = {
        let shared = shared.clone();
        move || Control::new(shared).run()
    };
    let done = {
        let shared = shared.clone();
        move |end: Result<(), Death>| match end {
            Ok(()) => shared.set_stage(Stage::Stopped),
            Err(death) => {
                let message = format!("the supervisor's own thread died (please report it): {death}");
                shared.close_queue(Status::Internal, &message);
                shared.workers.iter().for_each(|w| fail_all(w.take_jobs(), Status::Internal, &message));
                shared.set_stage(Stage::Failed(Status::Internal, message));
            }
        }
    };
    let handle = thread::spawn("llamapen-control".into(), control, done).map_err(no_thread)?;
    *shared.control.lock() = Some(handle);
    Ok(())
}

fn no_thread(error: std::io::Error) -> Error {
    Error::Internal(format!("the system gives no thread: {error}"))
}

struct Control {
    shared: Arc<Shared>,
    model: Option<Arc<Model>>,
    loader: Option<thread::Handle>,
    workers: Vec<Slot>,
    /// Domains that died, and whose threads may not all be gone.
    dead: Vec<thread::Handle>,
    limiter: RestartLimiter,
    deadlines: Deadlines<Job>,
    load_began: Instant,
    stopping: bool,
    /// Whether any worker was ever ready: a first start that fails is not tried again.
    was_ready: bool,
}

/// The control thread's view of one worker.
#[derive(Default)]
struct Slot {
    thread: Option<thread::Handle>,
    restart_at: Option<Instant>,
    /// Failures in a row without having been ready.
    failures: u32,
    /// It stalled, and was told to die.
    condemned: bool,
}

impl Control {
    fn new(shared: Arc<Shared>) -> Self {
        let config = &shared.config;
        let limiter = RestartLimiter::new(config.max_restarts, Duration::from_millis(config.restart_window_ms));
        let workers = shared.workers.iter().map(|_| Slot::default()).collect();
        let now = Instant::now();
        Self {
            shared,
            model: None,
            loader: None,
            workers,
            dead: vec![],
            limiter,
            deadlines: Deadlines::new(now),
            load_began: now,
            stopping: false,
            was_ready: false,
        }
    }

    fn run(mut self) {
        self.start_loader();
        loop {
            self.shared.control_turned();
            if self.stopping && self.loader.is_none() && self.workers.iter().all(|w| w.thread.is_none()) {
                self.dead.drain(..).for_each(thread::Handle::join);
                return;
            }
            self.restart_due();
            self.condemn_stalled();
            self.deadlines.turn(Instant::now());
            let next = self.workers.iter().filter_map(|w| w.restart_at).chain(self.deadlines.next()).min();
            let wait = next.map_or(TURN, |at| at.saturating_duration_since(Instant::now()).min(TURN));
            match self.shared.reports.recv_timeout(wait) {
                Ok(Report::Loaded(result)) => self.loaded(result),
                Ok(Report::Ready(i)) => self.ready(i),
                Ok(Report::Ended(i, end)) => self.ended(i, end),
                Ok(Report::Watch(job)) => {
                    if let Some(job) = job.upgrade() {
                        self.deadlines.watch(job.id, &job);
                    }
                }
                Ok(Report::Stop) | Err(RecvTimeoutError::Disconnected) => self.stopping = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn start_loader(&mut self) {
        let (shared, reports) = (self.shared.clone(), self.shared.to_control.clone());
        let load = move || {
            native::init_backend()?;
            let engine = &shared.prepared;
            let params = LoadParams { use_mmap: engine.use_mmap(), use_mlock: engine.use_mlock() };
            Model::load(engine.model(), &params, |progress| shared.loading(progress))
        };
        let done = move |end| drop(reports.send(Report::Loaded(end)));
        match thread::spawn("llamapen-load".into(), load, done) {
            Ok(handle) => self.loader = Some(handle),
            Err(e) => self.give_up(Status::Internal, no_thread(e).to_string()),
        }
    }

    fn loaded(&mut self, result: Result<Result<Model, NativeError>, Death>) {
        join(self.loader.take());
        let model = self.shared.prepared.model().display().to_string();
        match result {
            Ok(Ok(loaded)) => {
                self.shared.loading(1.0);
                let (took, identity) = (self.load_began.elapsed(), &self.shared.telemetry.identity);
                self.shared.telemetry.loaded(took);
                let load_ms = took.as_secs_f64() * 1e3;
                tracing::info!(
                    pool_id = identity.pool_id,
                    model_id = identity.model_id,
                    model,
                    load_ms,
                    "model loaded"
                );
                self.model = Some(Arc::new(loaded));
                if self.stopping {
                    self.model = None;
                    return;
                }
                self.shared.set_stage(Stage::Running);
                (0..self.workers.len()).for_each(|i| self.start_worker(i));
            }
            Ok(Err(e)) => {
                let status = match e.status {
                    NativeStatus::Aborted => Status::Cancelled,
                    NativeStatus::OutOfMemory => Status::OutOfMemory,
                    _ => Status::LoadFailed,
                };
                self.give_up(status, format!("loading {model}: {e}"));
            }
            Err(death) => self.give_up(Status::LoadFailed, format!("loading {model}: {death}")),
        }
    }

    fn start_worker(&mut self, i: usize) {
        let Some(model) = self.model.clone() else { return };
        let state = self.shared.workers[i].clone();
        state.beat();
        let identity = &self.shared.telemetry.identity;
        log_worker!(
            info,
            self,
            i,
            model_id = identity.model_id,
            engine_version = identity.engine_version,
            device_mask = identity.device_mask,
            "worker starts"
        );
        let worker = Worker {
            index: u32::try_from(i).expect("few workers"),
            model,
            prepared: self.shared.prepared.clone(),
            queue: self.shared.queue.clone(),
            state,
            max_stall: Duration::from_millis(self.shared.config.max_stall_ms),
        };
        let (reports, done) = (self.shared.to_control.clone(), self.shared.to_control.clone());
        let body = move || worker.run(|| drop(reports.send(Report::Ready(i))));
        let done = move |end| drop(done.send(Report::Ended(i, end)));
        match thread::spawn(format!("llamapen-work-{i}"), body, done) {
            Ok(handle) => self.workers[i].thread = Some(handle),
            Err(e) => self.failed(i, WorkerFault { status: Status::OutOfMemory, message: no_thread(e).to_string() }),
        }
    }

    fn ready(&mut self, i: usize) {
        self.was_ready = true;
        self.workers[i].failures = 0;
        self.shared.workers[i].set_ready(true);
        self.shared.worker_changed();
        let (telemetry, state) = (&self.shared.telemetry, &self.shared.workers[i]);
        state.counters.set_backoff(Duration::ZERO);
        let (memory_bytes, vram_used_bytes) = (state.memory(), telemetry.vram_used_bytes());
        log_worker!(info, self, i, memory_bytes, vram_used_bytes, "worker ready");
    }

    fn ended(&mut self, i: usize, end: Result<Result<(), WorkerFault>, Death>) {
        // The threads of a dead domain may take time to go; its successor starts meanwhile.
        match (self.workers[i].thread.take(), &end) {
            (Some(dead), Err(_)) => self.dead.push(dead),
            (ended, _) => join(ended),
        }
        self.workers[i].condemned = false;
        let fault = match end {
            // In order, because the queue was closed: what was still running, or was taken just before, ends here.
            Ok(Ok(())) => {
                self.shared.workers[i].set_ready(false);
                log_worker!(info, self, i, "worker ended");
                let (status, message) = match self.stopping || self.shared.is_stopping() {
                    true => (Status::Draining, STOPPED),
                    false => (Status::PoolUnavailable, "the supervisor gave up; its health says why"),
                };
                return fail_all(self.shared.workers[i].take_jobs(), status, message);
            }
            Ok(Err(fault)) => fault,
            Err(death) => {
                let tainted = matches!(&death, Death::Fault(fault) if fault.kind == FaultKind::Signal);
                if tainted && self.taint(i, &death) {
                    return;
                }
                WorkerFault { status: Status::WorkerReset, message: death.to_string() }
            }
        };
        self.failed(i, fault);
    }

    /// After a memory fault nobody knows what was written to before. True: the policy is to stop.
    fn taint(&mut self, i: usize, death: &Death) -> bool {
        self.shared.set_tainted();
        let policy = self.shared.config.taint;
        log_worker!(error, self, i, last_error = %death, ?policy, "the process is tainted by a memory fault");
        if policy == TaintPolicy::Continue {
            return false;
        }
        let message = format!(
            "worker {i} failed: {death}. Memory of the process may be damaged, so this supervisor stopped; restart the process, or set taint to \"continue\""
        );
        self.shared.workers[i].set_ready(false);
        for worker in &self.shared.workers {
            fail_all(worker.take_jobs(), Status::WorkerReset, &message);
        }
        self.give_up(Status::WorkerReset, message);
        true
    }

    fn failed(&mut self, i: usize, fault: WorkerFault) {
        let state = &self.shared.workers[i];
        let was_ready = self.workers[i].failures == 0 && state.is_ready(Duration::MAX);
        state.set_ready(false);
        let message = format!("worker {i} failed: {fault}");
        log_worker!(error, self, i, last_error = %fault, "worker failed");
        fail_all(state.take_jobs(), Status::WorkerReset, &message);
        self.shared.set_last_error(fault.status, message.clone());
        self.shared.worker_changed();
        if self.stopping {
            return;
        }
        if !self.was_ready {
            let status = if fault.status == Status::WorkerReset { Status::LoadFailed } else { fault.status };
            return self.give_up(status, format!("no worker could be started: {message}"));
        }
        let now = Instant::now();
        if !self.limiter.allow(now) {
            let config = &self.shared.config;
            let message = format!(
                "gave up after {} restarts within {} ms; the last failure: {message}",
                config.max_restarts, config.restart_window_ms
            );
            return self.give_up(Status::PoolUnavailable, message);
        }
        let slot = &mut self.workers[i];
        slot.failures = if was_ready { 0 } else { slot.failures + 1 };
        let wait = backoff(slot.failures);
        slot.restart_at = Some(now + wait);
        self.shared.workers[i].counters.set_backoff(wait);
        let backoff_ms = self.shared.workers[i].counters.backoff_ms();
        log_worker!(info, self, i, backoff_ms, "worker will restart");
    }

    fn restart_due(&mut self) {
        for i in 0..self.workers.len() {
            if self.workers[i].restart_at.is_some_and(|at| at <= Instant::now()) {
                self.workers[i].restart_at = None;
                if !self.stopping {
                    self.shared.workers[i].count_restart();
                    self.start_worker(i);
                }
            }
        }
    }

    /// A worker whose loop does not turn, in an endless loop of the engine for one, is taken for dead.
    fn condemn_stalled(&mut self) {
        let limit = Duration::from_millis(self.shared.config.stall_limit_ms);
        for i in 0..self.workers.len() {
            let idle_for = self.shared.workers[i].idle_for();
            if idle_for > limit
                && !self.workers[i].condemned
                && let Some(thread) = &self.workers[i].thread
            {
                let why = format!("stall: its loop has not turned for {} ms", idle_for.as_millis());
                log_worker!(error, self, i, last_error = why, "worker stalled");
                thread.condemn(&CString::new(why).expect("no NUL in it"));
                self.workers[i].condemned = true;
            }
        }
    }

    /// Ends everything for good; the reason stays in the health.
    fn give_up(&mut self, status: Status, message: String) {
        let pool_id = &self.shared.telemetry.identity.pool_id;
        tracing::error!(pool_id, %status, last_error = message, "supervisor failed");
        self.workers.iter_mut().for_each(|w| w.restart_at = None);
        self.shared.close_queue(status, &message);
        self.shared.set_stage(Stage::Failed(status, message));
        self.model = None;
    }
}

fn join(handle: Option<thread::Handle>) {
    if let Some(handle) = handle {
        // It has reported its end, so this is short.
        handle.join();
    }
}
