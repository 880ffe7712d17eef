//! The supervisor's own thread: starts the loader and the workers, hears how they end, restarts them.

use super::deadline::Deadlines;
use super::policy::{Action, BreakerState, RestartPolicy, Verdict};
use super::self_test::{self, Seen};
use super::shared::{Circuit, STOPPED, Shared, Stage, fail_all};
use super::starts::{Body, no_thread};
use super::unload::Unload;
use crate::config::TaintPolicy;
use crate::crash::Crash;
use crate::error::Result;
use crate::isolation::thread::{self, Death};
use crate::job::{Job, draw_seed};
use crate::native::{self, Model};
use crate::prepare::HOST;
use crate::remote::{self, Heard};
use crate::status::Status;
use crate::worker::WorkerFault;
use crossbeam_channel::{RecvTimeoutError, Sender};
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
pub(super) use log_worker;

/// What the control thread hears.
pub(super) enum Report {
    /// The loader ended: with a model, an error, or dead.
    Loaded(Result<Result<Model>, Death>),
    /// Something happened to a worker's process, or to the spare's.
    Child(Option<usize>, Heard),
    /// A worker decoded its first token.
    Ready(usize),
    /// A worker ended: in order (because the queue closed), with a fault, or dead.
    Ended(usize, Result<Result<(), WorkerFault>, Death>),
    /// A request has deadlines, or a nearer one than before.
    Watch(Weak<Job>),
    /// The owner wants all breakers closed.
    ResetBreaker,
    /// The owner wants memory back, if nothing runs.
    Unload,
    /// There is a request, or the owner wants it loaded: the stage says so.
    Load,
    /// It is to fail for good, for a reason that it does not know itself.
    GiveUp(Status, String),
    /// A line is to be logged, as a self-test.
    Log(Sender<Seen>),
    /// A worker has measured something, or could not.
    Measured(u64, Option<u64>),
    Stop,
}

/// When the model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Now,
    /// When it is asked for: `Report::Load`.
    Later,
}

pub(super) fn start(shared: &Arc<Shared>, load: Load) -> Result<()> {
    let control = {
        let shared = shared.clone();
        move || Control::new(shared, load).run()
    };
    let done = {
        let shared = shared.clone();
        move |end: Result<(), Death>| match end {
            Ok(()) => shared.set_stage(Stage::Stopped),
            Err(death) => {
                let message = format!("the supervisor's own thread died (please report it): {death}");
                shared.fail(Status::Internal, &message);
                shared.workers.iter().for_each(|w| fail_all(w.take_jobs(), Status::Internal, &message));
            }
        }
    };
    let handle = thread::spawn("llamapen-control".into(), control, done).map_err(no_thread)?;
    *shared.control.lock() = Some(handle);
    Ok(())
}

pub(super) fn new_policy(shared: &Shared) -> RestartPolicy {
    RestartPolicy::new((&shared.config).into(), shared.workers.len())
}

pub(super) struct Control {
    pub shared: Arc<Shared>,
    pub model: Option<Model>,
    pub loader: Option<Body>,
    pub workers: Vec<Option<Body>>,
    pub spare: Option<remote::Handle>,
    /// When it is to be started again, and how often it failed since it was ready.
    pub spare_due: Option<Instant>,
    pub spare_failures: u32,
    /// How many were started.
    pub spares: u64,
    /// Workers that stalled, and were told to die.
    pub condemned: Vec<bool>,
    pub load_condemned: bool,
    /// Those that died, and whose threads or processes may not all be gone.
    pub dead: Vec<Body>,
    pub policy: RestartPolicy,
    /// Of the breaker that opened last.
    why_open: String,
    deadlines: Deadlines<Job>,
    pub load_began: Instant,
    /// Weights are in memory, of this process or of workers'.
    pub loaded: bool,
    pub stopping: bool,
    /// Whether any worker was ready since it was loaded: a first start that fails is not tried again.
    pub was_ready: bool,
    pub unload: Unload,
}

impl Control {
    fn new(shared: Arc<Shared>, load: Load) -> Self {
        let policy = new_policy(&shared);
        let workers: Vec<_> = shared.workers.iter().map(|_| None).collect();
        let condemned = vec![false; workers.len()];
        let now = Instant::now();
        Self {
            shared,
            model: None,
            loader: None,
            workers,
            spare: None,
            spare_due: None,
            spare_failures: 0,
            spares: 0,
            condemned,
            load_condemned: false,
            dead: vec![],
            policy,
            why_open: String::new(),
            deadlines: Deadlines::new(now),
            load_began: now,
            loaded: false,
            stopping: false,
            was_ready: false,
            unload: Unload::new(now, load),
        }
    }

    fn run(mut self) {
        if !self.unload.is_under_way() {
            self.load();
        }
        loop {
            self.shared.control_turned();
            if self.stopping && self.loader.is_none() && self.workers.iter().all(Option::is_none) {
                self.spare.take().map(Body::Child).into_iter().chain(self.dead.drain(..)).for_each(Body::join);
                return;
            }
            self.bury();
            self.act();
            // What was taken by a worker that turned out to be dead comes back to the queue when it likes.
            self.shared.fail_if_open();
            self.leave_tainted();
            self.start_spare();
            self.condemn_stalled();
            self.deadlines.turn(Instant::now());
            self.unload_if_idle();
            self.finish_unload();
            self.calibrate();
            // Nothing is started any more once it stops: what was due would stay due.
            let restart = self.policy.next().filter(|_| !self.stopping && !self.unload.is_under_way());
            let next = restart
                .into_iter()
                .chain(self.deadlines.next())
                .chain(self.unload_at())
                .chain(self.spare_at())
                .chain(self.calibrate_at())
                .min();
            let wait = next.map_or(TURN, |at| at.saturating_duration_since(Instant::now()).min(TURN));
            match self.shared.reports.recv_timeout(wait) {
                Ok(Report::Loaded(result)) => self.loaded(result),
                Ok(Report::Child(i, heard)) => self.heard(i, heard),
                Ok(Report::Ready(i)) => self.ready(i),
                Ok(Report::Ended(i, end)) => self.ended(i, end),
                Ok(Report::Watch(job)) => {
                    if let Some(job) = job.upgrade() {
                        self.deadlines.watch(job.id, &job);
                    }
                }
                Ok(Report::ResetBreaker) => self.reset_breaker(),
                Ok(Report::Unload) => self.begin_unload(),
                Ok(Report::Load) => self.load_again(),
                Ok(Report::GiveUp(status, message)) => {
                    self.shared.workers.iter().for_each(|w| fail_all(w.take_jobs(), status, &message));
                    self.give_up(status, message);
                }
                Ok(Report::Log(answer)) => {
                    let _ = answer.send(self_test::emit(&self.shared.telemetry.identity.pool_id));
                }
                Ok(Report::Measured(id, micros)) => self.measured(id, micros),
                Ok(Report::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.stopping = true;
                    self.spare.iter().for_each(remote::Handle::look);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    pub(super) fn ready(&mut self, i: usize) {
        self.was_ready = true;
        self.policy.ready(i, Instant::now());
        self.shared.hand_off(i);
        // Before it shows as ready: who waited for that may submit.
        self.publish();
        self.shared.workers[i].set_ready(true);
        self.shared.worker_changed();
        let state = &self.shared.workers[i];
        state.counters.set_backoff(Duration::ZERO);
        let memory = state.memory();
        let bytes = |on_gpu: bool| -> u64 {
            memory.iter().filter(|place| (place.place != HOST) == on_gpu).map(|place| place.allocated_bytes).sum()
        };
        let (memory_bytes, vram_used_bytes) = (bytes(false), bytes(true));
        let start = state.start_phases();
        let (context_ms, warm_up_ms) = (start.map(|start| start.context_ms), start.map(|start| start.warm_up_ms));
        log_worker!(info, self, i, memory_bytes, vram_used_bytes, context_ms, warm_up_ms, "worker ready");
    }

    pub(super) fn ended(&mut self, i: usize, end: Result<Result<(), WorkerFault>, Death>) {
        let body = self.workers[i].take();
        let is_process = matches!(body, Some(Body::Child(_)));
        self.over(body, end.is_err() || is_process);
        self.condemned[i] = false;
        let fault = match end {
            // In order, because the queue was closed: what was still running, or was taken just before, ends here.
            Ok(Ok(())) => {
                self.shared.workers[i].set_ready(false);
                self.shared.queue.forget(u32::try_from(i).expect("few workers"));
                log_worker!(info, self, i, "worker ended");
                if self.is_replaced(i) {
                    return;
                }
                let (status, message) = match self.stopping || self.shared.is_stopping() {
                    true => (Status::Draining, STOPPED),
                    false => (Status::PoolUnavailable, "the supervisor gave up; its health says why"),
                };
                return fail_all(self.shared.workers[i].take_jobs(), status, message);
            }
            Ok(Err(fault)) => fault,
            Err(death) => {
                self.lose_gpus();
                WorkerFault::from(death)
            }
        };
        self.failed(i, fault, is_process);
    }

    /// After the death of a thread of this process that may have used a GPU.
    pub(super) fn lose_gpus(&self) {
        if !self.shared.prepared.devices().is_empty() {
            native::gpus_lost();
        }
    }

    /// A worker or a loader has told its end.
    pub(super) fn over(&mut self, body: Option<Body>, died: bool) {
        // The threads of a dead one may take time to go; its successor starts meanwhile.
        match body {
            Some(dead) if died => self.dead.push(dead),
            Some(ended) => ended.join(),
            None => {}
        }
    }

    /// Until it is joined, a thread keeps its stack, and a process's stand-in its descriptors.
    fn bury(&mut self) {
        self.dead.extract_if(.., |dead| dead.is_over()).for_each(Body::join);
    }

    /// For health, metrics and the log.
    pub(super) fn note_crash(&self, i: usize, fault: WorkerFault) {
        let reason = fault.reason.name();
        log_worker!(error, self, i, reason, last_error = %fault, "worker failed");
        self.shared.workers[i].crashed(Crash {
            reason: fault.reason,
            message: fault.message,
            at_ms: self.shared.common.counts.uptime_ms(),
            exit: fault.exit,
        });
    }

    pub(super) fn failed(&mut self, i: usize, fault: WorkerFault, is_process: bool) {
        let state = &self.shared.workers[i];
        state.set_ready(false);
        self.shared.queue.forget(u32::try_from(i).expect("few workers"));
        self.calibration_died();
        let (status, message) = (fault.status(), format!("worker {i} failed: {fault}"));
        // After a memory fault nobody knows what was written to before, in the process that had it; after an error of CUDA, what
        // still works there.
        let taints = fault.taints && !is_process;
        if taints {
            self.shared.common.set_tainted();
        }
        self.note_crash(i, fault);
        let stops = taints && self.shared.common.taint == TaintPolicy::Stop;
        match self.stopping || stops || !self.was_ready {
            true => fail_all(state.take_jobs(), Status::WorkerReset, &message),
            false => self.shared.retry(state.take_jobs(), &message),
        }
        self.shared.set_last_error(status, message.clone());
        self.shared.worker_changed();
        if self.stopping {
            return;
        }
        if stops {
            let message = format!(
                "{message}. Memory of the process may be damaged, so this supervisor stopped; restart the process, or set taint to \"escalate_to_process\" or \"continue\""
            );
            self.shared.workers.iter().for_each(|w| fail_all(w.take_jobs(), Status::WorkerReset, &message));
            return self.give_up(Status::WorkerReset, message);
        }
        // When it is loaded again, all is new.
        if self.unload.is_under_way() {
            return;
        }
        if !self.was_ready {
            let status = if status == Status::WorkerReset { Status::LoadFailed } else { status };
            return self.give_up(status, format!("no worker could be started: {message}"));
        }
        let on_trial = self.policy.breaker(i) == BreakerState::HalfOpen;
        match self.policy.failed(i, Instant::now(), status == Status::DeviceError, draw_seed()) {
            Verdict::Restart(wait) => {
                self.shared.workers[i].counters.set_backoff(wait);
                let backoff_ms = self.shared.workers[i].counters.backoff_ms();
                log_worker!(info, self, i, backoff_ms, "worker will restart");
            }
            Verdict::Open(until) if on_trial => self.opened(i, until, "it failed again when it was tried"),
            Verdict::Open(until) => {
                let failures = self.shared.config.breaker_failures;
                self.opened(i, until, &format!("failures in a row: {failures}"));
            }
        }
    }

    /// A worker's breaker opened.
    fn opened(&mut self, i: usize, until: Instant, why: &str) {
        let state = &self.shared.workers[i];
        state.counters.set_backoff(until.saturating_duration_since(Instant::now()));
        let backoff_ms = state.counters.backoff_ms();
        log_worker!(error, self, i, backoff_ms, "breaker of the worker opens: {why}");
        let last = state.last_crash().map(|crash| crash.message).unwrap_or_default();
        self.why_open = format!("worker {i} is not restarted for now: {why}; its last failure: {last}");
        if self.policy.all_open().is_some() {
            self.shared.set_last_error(Status::PoolUnavailable, self.why_open.clone());
        }
        self.publish();
    }

    /// Tells others what the policy has come to.
    pub(super) fn publish(&self) {
        for (i, worker) in self.shared.workers.iter().enumerate() {
            worker.set_breaker(self.policy.breaker(i));
        }
        let circuit = |probe_at| Circuit { message: self.why_open.clone(), probe_at };
        self.shared.set_circuit(self.policy.all_open().map(circuit));
    }

    /// Does what is due.
    fn act(&mut self) {
        if self.stopping || self.unload.is_under_way() {
            return;
        }
        for (i, action) in self.policy.due(Instant::now()) {
            match action {
                Action::Restart | Action::Probe => {
                    self.publish();
                    self.shared.workers[i].count_restart();
                    self.start_worker(i);
                }
                Action::Open(until) => {
                    let config = &self.shared.config;
                    let (max, window) = (config.max_restarts, config.restart_window_ms);
                    self.opened(i, until, &format!("{max} restarts within {window} ms"));
                }
                Action::Closed => {
                    self.publish();
                    log_worker!(info, self, i, "breaker of the worker closes");
                }
            }
        }
    }

    fn reset_breaker(&mut self) {
        let pool_id = &self.shared.telemetry.identity.pool_id;
        tracing::info!(pool_id, "breakers are reset");
        self.policy.reset(Instant::now());
        self.shared.circuit_was_reset();
        self.publish();
    }

    /// A worker whose loop does not turn, in an endless loop of the engine for one, is taken for dead. So is a load.
    fn condemn_stalled(&mut self) {
        let limit = Duration::from_millis(self.shared.config.stall_limit_ms);
        let idle_for = self.shared.load_idle_for();
        if let Some(loader) = &self.loader
            && !self.load_condemned
            && idle_for > self.shared.load_stall_limit()
        {
            let why = format!("stall: no progress for {} ms", idle_for.as_millis());
            tracing::error!(pool_id = self.shared.telemetry.identity.pool_id, last_error = why, "load stalled");
            loader.condemn(why);
            self.load_condemned = true;
        }
        for i in 0..self.workers.len() {
            let state = &self.shared.workers[i];
            let idle_for = state.idle_for();
            let (limit, what) = match state.is_loading() {
                true => (self.shared.load_stall_limit(), "no progress"),
                false => (limit, "its loop has not turned"),
            };
            if idle_for > limit
                && !self.condemned[i]
                && let Some(body) = &self.workers[i]
            {
                let why = format!("stall: {what} for {} ms", idle_for.as_millis());
                log_worker!(error, self, i, last_error = why, "worker stalled");
                body.condemn(why);
                self.condemned[i] = true;
            }
        }
    }

    /// Ends everything for good; the reason stays in the health.
    pub(super) fn give_up(&mut self, status: Status, message: String) {
        let pool_id = &self.shared.telemetry.identity.pool_id;
        tracing::error!(pool_id, %status, last_error = message, "supervisor failed");
        self.shared.fail(status, &message);
        (self.model, self.loaded) = (None, false);
    }
}
