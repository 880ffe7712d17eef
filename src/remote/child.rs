//! The child: says who it is, is told what to run, and runs it until the host wants no more, or is gone.

use super::host::Host;
use super::log;
use super::message::{Build, Run, Start, ToChild, ToHost};
use crate::config::QueueFullPolicy;
use crate::crash::CrashReason;
use crate::isolation::ipc::{Blob, Outlet, Reader};
use crate::isolation::thread::{self, Death};
use crate::isolation::{confine, install_handlers};
use crate::job::Job;
use crate::prepare::PreparedEngine;
use crate::status::Status;
use crate::supervisor::{Errand, Queue};
use crate::telemetry::Telemetry;
use crate::worker::{Cores, Snapshot, SnapshotPolicy, Worker, WorkerFault, WorkerState, load};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Codes with which it ends; what it died of, it has said before.
const ENDED: i32 = 0;
const DIED: i32 = 3;
/// The host said nothing that could be understood.
const CONFUSED: i32 = 4;

/// Runs until the host is gone or wants no more. To be called on the process's first thread, while it has no other.
pub(crate) fn main(socket: OwnedFd) -> i32 {
    let socket = Arc::new(socket);
    let host = Arc::new(Host::new(Outlet::new(socket.clone())));
    let mut reader = Reader::new(socket);
    host.say_now(&ToHost::Hello(Build::of_this()));
    let (start, _) = match reader.next() {
        Ok(Some((ToChild::Start(start), blob))) => (start, blob),
        Ok(None) => return ENDED,
        Ok(Some(_)) | Err(_) => return CONFUSED,
    };
    log::tell(host.clone(), &start.log_level);
    let running = match begin(*start, &host) {
        Ok(running) => running,
        Err(fault) => {
            host.say_now(&died(&fault));
            return DIED;
        }
    };
    listen(reader, &running);
    // Its threads decode, and nobody wants to know. Destructors would run beside them.
    thread::exit_now(ENDED)
}

fn died(fault: &WorkerFault) -> ToHost {
    ToHost::Died { reason: fault.reason, status: fault.status(), message: fault.message.clone() }
}

/// What requests need.
struct Running {
    host: Arc<Host>,
    queue: Arc<Queue>,
    state: Arc<WorkerState>,
    snapshots: Arc<SnapshotPolicy>,
    telemetry: Arc<Telemetry>,
}

fn begin(start: Start, host: &Arc<Host>) -> Result<Running, WorkerFault> {
    let report = confine::apply(&start.confinement)
        .map_err(|e| WorkerFault::new(CrashReason::LoadFailed, format!("confining the worker: {e}")))?;
    // So that it says what it dies of. Where they cannot be installed, the system says it.
    let _ = install_handlers();
    let internal = |e: &dyn std::fmt::Display| {
        WorkerFault::new(CrashReason::EngineError, format!("starting the worker: {e}")).with_status(Status::Internal)
    };
    let prepared = Arc::new(PreparedEngine::from_json(&start.engine).map_err(|e| internal(&e))?);
    let telemetry = Arc::new(Telemetry::of(&prepared, &Arc::default()));
    let cores = Cores::new(prepared.threads(), prepared.share_threads());
    if prepared.share_threads() {
        // Until its host says more: all may be starting.
        cores.told(prepared.threads() / prepared.workers());
    }
    let state = Arc::new(WorkerState::in_child(telemetry.workers[0].clone(), Arc::new(cores), host.clone()));
    if let Some(measured) = start.measured {
        state.set_measured(measured);
    }
    let running = Running {
        host: host.clone(),
        queue: Arc::new(Queue::new(prepared.slots(), QueueFullPolicy::Reject)),
        state,
        snapshots: Arc::new(SnapshotPolicy::new(start.snapshot_tokens, start.snapshot_bytes)),
        telemetry,
    };
    let work = {
        let (host, queue, state) = (host.clone(), running.queue.clone(), running.state.clone());
        let (snapshots, max_stall) = (running.snapshots.clone(), Duration::from_millis(start.max_stall_ms));
        #[cfg(feature = "fault-injection")]
        let (fault, restarts) = (start.fault, start.restarts);
        move || {
            #[cfg(feature = "fault-injection")]
            crate::supervisor::arm_load(fault);
            let told = |progress| {
                host.say_now(&ToHost::Loading(progress));
                true
            };
            let model = Arc::new(load(&prepared, told).map_err(|e| WorkerFault::not_loaded(&e))?);
            host.say_now(&ToHost::Loaded(report));
            #[cfg(feature = "fault-injection")]
            crate::supervisor::arm_worker(fault, restarts);
            let (life, load) = (state.begin_life(), Some(model.times().into()));
            let worker = Worker { index: 0, model, prepared, queue, state, life, load, snapshots, max_stall };
            worker.run(|| host.say_now(&ToHost::Ready))
        }
    };
    let end = {
        let host = host.clone();
        move |end: Result<Result<(), WorkerFault>, Death>| {
            let fault = match end {
                Ok(Ok(())) => {
                    host.say_now(&ToHost::Done);
                    thread::exit_now(ENDED)
                }
                Ok(Err(fault)) => fault,
                Err(death) => WorkerFault::from(death),
            };
            host.say_now(&died(&fault));
            thread::exit_now(DIED)
        }
    };
    thread::spawn("llamapen-work".into(), work, end).map_err(|e| internal(&e))?;
    Ok(running)
}

/// Does what the host says, until it is gone.
fn listen(mut reader: Reader, running: &Running) {
    let mut jobs: HashMap<u64, Weak<Job>> = HashMap::new();
    let mut wanted = Arc::new(AtomicBool::new(false));
    while let Ok(Some((message, blob))) = reader.next() {
        match message {
            // Once is enough.
            ToChild::Start(_) => {}
            ToChild::Run(run) => {
                let job = running.job(*run, blob);
                jobs.retain(|_, job| job.strong_count() > 0);
                jobs.insert(job.id, Arc::downgrade(&job));
                running.queue.push_again(job);
            }
            // Where it waits it stays, and is freed when it is taken up.
            ToChild::Cancel { id } => drop(jobs.get(&id).and_then(Weak::upgrade).map(|job| job.cancel())),
            ToChild::Measure(measure) => {
                wanted.store(false, Ordering::Release);
                wanted = Arc::new(AtomicBool::new(true));
                let host = running.host.clone();
                let errand = Errand::new(measure, wanted.clone(), Box::new(move |micros| host.step(micros)));
                running.queue.measure([(0, errand)].into());
            }
            ToChild::StopMeasuring => {
                wanted.store(false, Ordering::Release);
                running.state.stop_measuring();
            }
            ToChild::Threads(threads) => running.state.cores().told(threads),
            ToChild::Stop => {
                running.queue.close();
                running.state.abort();
            }
        }
    }
}

impl Running {
    fn job(&self, run: Run, state: Option<Blob>) -> Arc<Job> {
        let Run { id, run, request, seed, given, snapshot } = run;
        let snapshot = snapshot.zip(state);
        let snapshot = snapshot.and_then(|(head, state)| Snapshot::of_parts(&self.snapshots, head, state, None));
        let job = Job::new(id, request, Some(seed), Weak::new(), self.telemetry.clone());
        Arc::new(job.in_child(run, given, snapshot, self.host.clone()))
    }
}
