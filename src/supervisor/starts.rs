//! Loading the model and starting workers: in fault domains of this process, or in processes of their own.

use super::control::{Control, Report, log_worker};
use super::shared::Stage;
use crate::config::TaintPolicy;
use crate::crash::CrashReason;
use crate::error::{Error, Result};
use crate::isolation::FaultKind;
use crate::isolation::child::Located;
use crate::isolation::thread::{self, Death};
use crate::native::{self, Model};
use crate::remote::{self, Heard, Remote, Seat};
use crate::status::Status;
use crate::worker::{LoadPhases, Worker, WorkerFault, WorkerState, load};
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a worker is, or was.
pub(super) enum Body {
    Domain(thread::Handle),
    Child(remote::Handle),
}

impl Body {
    /// Waits until it is gone.
    pub(super) fn join(self) {
        match self {
            Self::Domain(handle) => handle.join(),
            Self::Child(handle) => handle.join(),
        }
    }

    /// Whether [`join`](Self::join) would not wait.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Domain(handle) => handle.is_over(),
            Self::Child(handle) => handle.is_over(),
        }
    }

    /// Has it die.
    pub(super) fn condemn(&self, why: String) {
        match self {
            Self::Domain(handle) => handle.condemn(&CString::new(why).expect("no NUL in it")),
            Self::Child(handle) => handle.condemn(why),
        }
    }
}

pub(super) fn no_thread(error: std::io::Error) -> Error {
    Error::Internal(format!("the system gives no thread: {error}"))
}

impl Control {
    /// How a worker's process is started now; `None`: workers are threads.
    fn place(&self) -> Option<Arc<Located>> {
        self.shared.common.place(self.shared.prepared.isolation()).cloned()
    }

    pub(super) fn load(&mut self) {
        self.load_began = Instant::now();
        self.shared.loading(0.0);
        match self.place() {
            // Each loads for itself.
            Some(_) => (0..self.workers.len()).for_each(|i| self.start_worker(i)),
            None => self.start_loader(),
        }
    }

    fn start_loader(&mut self) {
        let (shared, reports) = (self.shared.clone(), self.shared.to_control.clone());
        // The first time, `start` has looked.
        let again = self.unload.is_again();
        let body = move || {
            let engine = &shared.prepared;
            if again {
                engine.verify()?;
            }
            #[cfg(feature = "fault-injection")]
            super::fault::arm_load(shared.config.fault);
            load(engine, |progress| shared.loading(progress))
        };
        let done = move |end| drop(reports.send(Report::Loaded(end)));
        match thread::spawn("llamapen-load".into(), body, done) {
            Ok(handle) => self.loader = Some(Body::Domain(handle)),
            Err(e) => self.give_up(Status::Internal, no_thread(e).to_string()),
        }
    }

    /// The loader has ended.
    pub(super) fn loaded(&mut self, result: Result<Result<Model>, Death>) {
        self.load_condemned = false;
        let loader = self.loader.take();
        self.over(loader, result.is_err());
        match result {
            Ok(Ok(_)) if self.stopping => {}
            Ok(Ok(model)) => {
                self.model = Some(model);
                self.model_is_loaded();
                (0..self.workers.len()).for_each(|i| self.start_worker(i));
            }
            Ok(Err(e)) => self.give_up(e.status(), e.to_string()),
            Err(death) => {
                self.lose_gpus();
                if death.reason().taints() {
                    self.shared.common.set_tainted();
                }
                let status = match (&death, self.shared.load_is_cancelled()) {
                    (_, true) => Status::Cancelled,
                    (Death::Fault(fault), _) if fault.kind == FaultKind::OutOfMemory => Status::OutOfMemory,
                    _ => Status::LoadFailed,
                };
                let model = self.shared.prepared.model().display().to_string();
                self.give_up(status, format!("loading {model}: {death}"));
            }
        }
    }

    /// In this process, or in the first of workers'.
    fn model_is_loaded(&mut self) {
        self.loaded = true;
        self.shared.loading(1.0);
        let (took, identity) = (self.load_began.elapsed(), &self.shared.telemetry.identity);
        let phases = self.model.as_ref().map(|model| LoadPhases::from(model.times()));
        self.shared.telemetry.loaded(took, phases);
        let load_ms = took.as_secs_f64() * 1e3;
        let model = self.shared.prepared.model().display().to_string();
        tracing::info!(
            pool_id = identity.pool_id,
            model_id = identity.model_id,
            model,
            load_ms,
            header_ms = phases.map(|phases| phases.header_ms),
            mapping_ms = phases.map(|phases| phases.mapping_ms),
            weights_ms = phases.map(|phases| phases.weights_ms),
            "model loaded"
        );
        self.shared.set_stage(Stage::Running);
    }

    pub(super) fn start_worker(&mut self, i: usize) {
        let state = self.shared.workers[i].clone();
        state.beat();
        state.retire(false);
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
        match self.place() {
            Some(located) => self.start_child(i, located, state),
            None => self.start_domain(i, state),
        }
    }

    fn start_domain(&mut self, i: usize, state: Arc<WorkerState>) {
        let Some(model) = &self.model else { return };
        let model = Arc::new(model.share());
        let remains = Arc::downgrade(&model);
        let worker = Worker {
            index: u32::try_from(i).expect("few workers"),
            model,
            prepared: self.shared.prepared.clone(),
            queue: self.shared.queue.clone(),
            life: state.begin_life(),
            // For all of them.
            load: None,
            state,
            snapshots: self.shared.snapshots.clone(),
            max_stall: Duration::from_millis(self.shared.config.max_stall_ms),
        };
        let (reports, done) = (self.shared.to_control.clone(), self.shared.to_control.clone());
        #[cfg(feature = "fault-injection")]
        let (fault, restarts) = (self.shared.config.fault, self.shared.workers[i].restarts());
        let body = move || {
            #[cfg(feature = "fault-injection")]
            super::fault::arm_worker(fault, restarts);
            worker.run(|| drop(reports.send(Report::Ready(i))))
        };
        let done = move |end| drop(done.send(Report::Ended(i, end)));
        match thread::spawn_leaving(remains, format!("llamapen-work-{i}"), body, done) {
            Ok(handle) => self.workers[i] = Some(Body::Domain(handle)),
            Err(e) => self.not_started(i, &no_thread(e)),
        }
    }

    fn start_child(&mut self, i: usize, located: Arc<Located>, state: Arc<WorkerState>) {
        let index = u32::try_from(i).expect("few workers");
        let seat = Seat { index: Some(index), life: state.begin_life(), state };
        if let Some(spare) = self.spare.take_if(|spare| spare.takes(seat.clone())) {
            self.workers[i] = Some(Body::Child(spare));
            return self.ready(i);
        }
        let first = !self.loaded;
        match self.remote(format!("worker-{i}"), located, first).start(format!("llamapen-work-{i}"), seat) {
            Ok(handle) => self.workers[i] = Some(Body::Child(handle)),
            Err(e) => self.not_started(i, &no_thread(e)),
        }
    }

    fn not_started(&mut self, i: usize, error: &Error) {
        self.failed(i, WorkerFault::new(CrashReason::HostOutOfMemory, error.to_string()), true);
    }

    /// A child; the `first` ones say how far the load is.
    fn remote(&self, name: String, located: Arc<Located>, first: bool) -> Remote {
        let (shared, reports) = (self.shared.clone(), self.shared.to_control.clone());
        Remote {
            name,
            prepared: shared.prepared.clone(),
            queue: shared.queue.clone(),
            snapshots: shared.snapshots.clone(),
            config: shared.config.clone(),
            located,
            // The first time, `start` has looked.
            verify: !first || self.unload.is_again(),
            loading: Box::new(move |progress| match progress {
                Some(progress) if first => shared.loading(progress),
                _ => !shared.load_is_cancelled() && !shared.is_stopping(),
            }),
            tell: Box::new(move |index, heard| drop(reports.send(Report::Child(index.map(|i| i as usize), heard)))),
        }
    }

    /// A child tells what happened to it.
    pub(super) fn heard(&mut self, i: Option<usize>, heard: Heard) {
        match (i, heard) {
            (Some(_), Heard::Loaded) if self.shared.is_starting() => self.model_is_loaded(),
            (_, Heard::Loaded) => {}
            (Some(i), Heard::Ready) => self.ready(i),
            (Some(i), Heard::Ended(Err(fault))) if !self.loaded && !self.stopping && self.shared.is_starting() => {
                let child = self.workers[i].take();
                self.over(child, true);
                if fault.status() != Status::Cancelled {
                    self.note_crash(i, fault.clone());
                }
                match fault.status() {
                    // It died while it loaded, and does not say that itself.
                    Status::WorkerReset => {
                        let model = self.shared.prepared.model().display().to_string();
                        self.give_up(Status::LoadFailed, format!("loading {model}: {fault}"));
                    }
                    status => self.give_up(status, fault.message),
                }
            }
            (Some(i), Heard::Ended(end)) => self.ended(i, Ok(end)),
            (None, Heard::Ready) => {
                self.spare_failures = 0;
                tracing::info!(pool_id = self.shared.telemetry.identity.pool_id, "spare worker ready");
            }
            (None, Heard::Ended(end)) => self.spare_ended(end),
        }
    }

    /// Keeps a child in reserve, where the engine says so.
    pub(super) fn start_spare(&mut self) {
        let due = self.spare_due.is_none_or(|at| at <= Instant::now());
        if !self.shared.prepared.warm_spare() || self.spare.is_some() || !self.was_ready || self.stopping || !due {
            return;
        }
        let Some(located) = self.place().filter(|_| !self.unload.is_under_way()) else { return };
        let state = Arc::new(WorkerState::new(Arc::default(), self.shared.cores.clone()));
        if let Some(measured) = self.shared.workers.iter().find_map(|worker| worker.measured()) {
            state.set_measured(measured);
        }
        let seat = Seat { index: None, life: state.begin_life(), state };
        let name = format!("spare-{}", self.spares);
        self.spares += 1;
        match self.remote(name, located, false).start("llamapen-spare".into(), seat) {
            Ok(handle) => (self.spare, self.spare_due) = (Some(handle), None),
            Err(e) => self.spare_ended(Err(WorkerFault::new(CrashReason::HostOutOfMemory, no_thread(e).to_string()))),
        }
    }

    /// When a spare is to be started again.
    pub(super) fn spare_at(&self) -> Option<Instant> {
        self.spare_due
            .filter(|_| self.spare.is_none() && self.was_ready && !self.unload.is_under_way() && !self.stopping)
    }

    fn spare_ended(&mut self, end: Result<(), WorkerFault>) {
        let spare = self.spare.take().map(Body::Child);
        self.over(spare, true);
        let Err(fault) = end else { return };
        let config = &self.shared.config;
        let wait =
            config.backoff_initial_ms.saturating_mul(1 << self.spare_failures.min(20)).min(config.backoff_max_ms);
        self.spare_failures += 1;
        self.spare_due = Instant::now().checked_add(Duration::from_millis(wait));
        let reason = fault.reason.name();
        tracing::warn!(
            pool_id = self.shared.telemetry.identity.pool_id,
            reason,
            last_error = %fault,
            backoff_ms = wait,
            "spare worker failed"
        );
    }

    /// Once this process had a memory fault, workers are to be processes. Those that are threads end when what they run has.
    pub(super) fn leave_tainted(&mut self) {
        let common = &self.shared.common;
        if !common.is_tainted() || common.taint != TaintPolicy::EscalateToProcess {
            return;
        }
        let mut threads = false;
        for ((body, state), i) in self.workers.iter().zip(&self.shared.workers).zip(0..) {
            if let Some(Body::Domain(_)) = body {
                state.retire(true);
                // It looks for nothing more.
                self.shared.queue.forget(i);
                threads = true;
            }
        }
        let dead = self.dead.iter().any(|dead| matches!(dead, Body::Domain(_)) && !dead.is_over());
        if !threads && !dead && self.loader.is_none() && self.model.take().is_some() {
            native::return_free_memory();
        }
    }

    /// A worker has ended in order: whether it was to make room for a process, which was started.
    pub(super) fn is_replaced(&mut self, i: usize) -> bool {
        let retired = self.shared.workers[i].is_retired();
        if !retired || self.stopping || self.unload.is_under_way() || self.shared.queue.sends_home() {
            return false;
        }
        self.start_worker(i);
        true
    }
}
