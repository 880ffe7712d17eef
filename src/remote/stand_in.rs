//! A child's stand-in in the host: the thread that owns it. It starts the child, hands it requests for its free slots, and sees
//! that it ends. Another thread (`hearing`) does what the child says.

use super::ending::{Ending, Memory};
use super::hearing::Hearing;
use super::link::{Handed, Link, Phase};
use super::message::{Run, Start, ToChild};
use crate::config::SupervisorConfig;
use crate::crash::CrashReason;
use crate::event::Failed;
use crate::isolation::child::{LaunchOptions, Located, launch};
use crate::isolation::confine::{Confinement, kernel_oom_kills, limit_memory};
use crate::isolation::ipc::{self, IpcError, Outbox, Reader};
use crate::isolation::thread;
use crate::job::Job;
use crate::prepare::PreparedEngine;
use crate::status::Status;
use crate::supervisor::{Errand, Popped, Queue, Taker};
use crate::sync::Mutex;
use crate::worker::{Snapshot, SnapshotPolicy, WorkerFault, WorkerState};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;

/// How often a stand-in that has nothing to do looks whether it is to end.
const IDLE: Duration = Duration::from_millis(500);
/// The same while its child loads, or some of its slots are free: other things than a change of the queue matter then.
const SOON: Duration = Duration::from_millis(20);
/// How long a program may take to say that it is a worker: it has done nothing by then but start.
const GREETS: Duration = Duration::from_secs(30);
/// Bytes that may wait for a child that does not read.
const BACKLOG: u64 = 64 << 20;
/// How much sooner than its host a child is killed when memory runs out: it can be started again.
const OOM_SCORE_ADJ: i32 = 500;
/// What remains to be heard of a child that was killed takes moments.
const HEARS_SOON: Duration = Duration::from_secs(1);
/// How long the host's code, called with an event, may take to return once the child is gone.
const HOST_RETURNS: Duration = Duration::from_secs(10);
/// Between SIGTERM and SIGKILL, for a child that did not end as it was told to.
const AFTER_TERM: Duration = Duration::from_secs(1);

/// Whose work a child does.
#[derive(Clone)]
pub(crate) struct Seat {
    /// Of its worker; `None`: it is a spare.
    pub index: Option<u32>,
    pub state: Arc<WorkerState>,
    /// See [`WorkerState::begin_life`].
    pub life: u64,
}

/// What happens to a child.
pub(crate) enum Heard {
    Loaded,
    Ready,
    Ended(Result<(), WorkerFault>),
}

/// Told what happens, and to which worker; `None`: to a spare.
pub(crate) type Tell = Box<dyn Fn(Option<u32>, Heard) + Send + Sync>;

/// A child that is to be started.
pub(crate) struct Remote {
    /// In the names of its files. A spare keeps its own.
    pub name: String,
    pub prepared: Arc<PreparedEngine>,
    pub queue: Arc<Queue>,
    pub snapshots: Arc<SnapshotPolicy>,
    pub config: SupervisorConfig,
    pub located: Arc<Located>,
    /// Whether files are to be compared with what was prepared.
    pub verify: bool,
    /// Told how far the load is, where that has changed; false ends it.
    pub loading: Box<dyn Fn(Option<f32>) -> bool + Send + Sync>,
    pub tell: Tell,
}

/// A child that runs, or did.
pub(crate) struct Handle {
    owner: JoinHandle<()>,
    link: Arc<Link>,
    seat: Arc<Mutex<Seat>>,
}

impl Handle {
    /// Waits until its process and its threads are gone.
    pub(crate) fn join(self) {
        let _ = self.owner.join();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.owner.is_finished()
    }

    /// Kills it, because its loop does not turn.
    pub(crate) fn condemn(&self, why: String) {
        self.link.condemn(WorkerFault::new(CrashReason::Stall, why));
    }

    /// It may be time to go home.
    pub(crate) fn look(&self) {
        self.link.tell_change();
    }

    /// Gives a spare that is ready a seat. False: it is not, or not any more.
    pub(crate) fn takes(&self, seat: Seat) -> bool {
        let standing = self.link.standing();
        if standing.phase != Phase::Ready || standing.why.is_some() {
            return false;
        }
        let spare = std::mem::replace(&mut *self.seat.lock(), seat.clone());
        seat.state.follows(&spare.state);
        drop(standing);
        self.link.tell_change();
        true
    }
}

impl Remote {
    /// Starts it, for a worker or as a spare.
    pub(crate) fn start(self, name: String, seat: Seat) -> std::io::Result<Handle> {
        seat.state.set_loading(true);
        let link = Arc::new(Link::new());
        let seat = Arc::new(Mutex::new(seat));
        let stand_in = StandIn { remote: Arc::new(self), link: link.clone(), seat: seat.clone() };
        // It lives as long as the child, which would be killed with the thread that started it.
        let owner = thread::spawn_plain(name, move || stand_in.run())?;
        Ok(Handle { owner, link, seat })
    }
}

struct StandIn {
    remote: Arc<Remote>,
    link: Arc<Link>,
    seat: Arc<Mutex<Seat>>,
}

impl StandIn {
    fn run(self) {
        let fault = match self.connect() {
            Ok((hearing, ending)) => match thread::spawn_plain("llamapen-hear".into(), move || hearing.run()) {
                Ok(hearer) => {
                    self.feed();
                    ending.tell();
                    // One that the host's code holds up for longer is left alone: it does nothing more when it is back.
                    if self.link.is_heard_out_within(HOST_RETURNS) {
                        let _ = hearer.join();
                    }
                    return;
                }
                Err(e) => WorkerFault::new(CrashReason::HostOutOfMemory, format!("the system gives no thread: {e}")),
            },
            Err(fault) => fault,
        };
        self.link.set_phase(Phase::Over);
        let index = self.seat.lock().index;
        (self.remote.tell)(index, Heard::Ended(Err(fault)));
    }

    /// Starts the child.
    fn connect(&self) -> Result<(Hearing, Arc<Ending>), WorkerFault> {
        let remote = &self.remote;
        let Remote { prepared, config, .. } = &**remote;
        let child = &config.child;
        let not_started =
            |why: String| WorkerFault::new(CrashReason::LoadFailed, format!("starting a worker process: {why}"));
        if remote.verify {
            prepared.verify().map_err(|e| WorkerFault::not_loaded(&e))?;
        }
        let seat = self.seat.lock().clone();
        let name = format!("llamapen-{}-{}-{}", prepared.pool_id(), prepared.replica_id(), remote.name);
        let file = |dir: &Option<PathBuf>, ending| dir.as_ref().map(|dir| dir.join(format!("{name}.{ending}")));
        let options = LaunchOptions {
            log: file(&child.log_dir, "log"),
            pid_file: file(&child.pid_dir, "pid"),
            ..LaunchOptions::default()
        };
        let kills_before = kernel_oom_kills();
        let (ours, theirs) = ipc::pair().map_err(|e| not_started(e.to_string()))?;
        let launched = launch(&remote.located, theirs, &options).map_err(|e| not_started(e.to_string()))?;
        let (launched, ours) = (Arc::new(launched), Arc::new(ours));
        self.link.connect(Outbox::new(ours.clone(), BACKLOG), launched.clone());
        let pid = launched.child.pid();
        let group = format!("{}-{pid}", std::process::id());
        let (group, memory) = limit_memory(&group, child.memory_limit_bytes);
        if let Some(group) = &group {
            group.add(pid).map_err(|e| not_started(format!("its memory cannot be limited: {e}")))?;
        }
        let start = Start {
            engine: prepared.to_json(),
            max_stall_ms: config.max_stall_ms,
            snapshot_tokens: config.snapshot_tokens,
            snapshot_bytes: config.snapshot_bytes,
            log_level: LevelFilter::current().to_string(),
            measured: seat.state.measured(),
            confinement: Confinement {
                sandbox: child.sandbox,
                readable: prepared.files().iter().map(|file| file.path.clone().into()).collect(),
                memory,
                cpus: child.cpus.clone(),
                nice: child.nice,
                oom_score_adj: OOM_SCORE_ADJ,
            },
            fault: config.fault,
            restarts: seat.state.restarts(),
        };
        let memory = Memory { group, kills_before };
        let (link, seat) = (self.link.clone(), self.seat.clone());
        let ending = Arc::new(Ending { remote: remote.clone(), link, seat, launched, memory });
        Ok((Hearing::new(Reader::new(ours), start, ending.clone()), ending))
    }

    /// Until it is over.
    fn feed(&self) {
        let began = Instant::now();
        loop {
            let standing = self.link.standing();
            if standing.phase == Phase::Over {
                return;
            }
            if standing.why.is_some() {
                drop(standing);
                // Who hears it may be held up by the host's code.
                self.link.is_over_within(HEARS_SOON);
                return;
            }
            let (phase, greeted) = (standing.phase, standing.greeted || began.elapsed() < GREETS);
            let seat = self.seat.lock().clone();
            if self.remote.queue.sends_home() {
                drop(standing);
                return self.send_home(phase);
            }
            match (phase, seat.index) {
                (Phase::Ready, Some(_)) => {
                    drop(standing);
                    self.hand_out(&seat);
                }
                (Phase::Ready, None) => self.link.wait(standing, IDLE),
                _ => {
                    self.link.wait(standing, SOON);
                    if !greeted {
                        let why = "it does not say who it is: is it a llamapen-worker?";
                        self.link.condemn(WorkerFault::new(CrashReason::Protocol, why));
                    } else if !(self.remote.loading)(None) {
                        self.link.condemn(self.cancelled());
                    }
                }
            }
        }
    }

    /// Hands one request to a free slot, or waits for either.
    fn hand_out(&self, seat: &Seat) {
        let flushed = self.link.flush();
        let running = seat.state.jobs();
        if running.len() >= self.remote.prepared.slots() as usize {
            let standing = self.link.standing();
            if standing.phase == Phase::Ready && seat.state.active() >= running.len() {
                self.link.wait(standing, if flushed { IDLE } else { SOON });
            }
            return;
        }
        let wait = if running.is_empty() && flushed { IDLE } else { SOON };
        let suspects = !running.iter().any(|job| job.part().is_suspect());
        let by = Taker { worker: seat.index.unwrap_or_default(), suspects, running: running.len() as u32 };
        match self.remote.queue.pop(wait, by) {
            Popped::Job(job, position) => self.hand_over(seat, job, position),
            Popped::Errand(errand) => self.send_on(seat, errand),
            Popped::Empty | Popped::Closed => {}
        }
    }

    /// Has the child measure something.
    fn send_on(&self, seat: &Seat, errand: Errand) {
        let measure = errand.measure;
        // Before it is sent: the child learns its share first.
        seat.state.tries(seat.life, true);
        seat.state.measures_in(self.link.clone());
        let before = self.link.standing().errand.replace(errand);
        drop(before);
        let _ = self.link.send(&ToChild::Measure(measure), None);
        // Whoever took it back before found nobody to tell.
        let is_wanted = self.link.standing().errand.as_ref().is_some_and(Errand::is_wanted);
        if !is_wanted {
            self.link.stop_measuring();
        }
    }

    fn hand_over(&self, seat: &Seat, job: Arc<Job>, position: u32) {
        let (run, given) = (job.events.run(), job.events.given(<[i32]>::to_vec));
        // Taken out: should the child die of it, the next run begins with the prompt.
        let lent = job.snapshot().take();
        job.runs_in(Some(self.link.clone()));
        // From then on it may be another worker's at any time.
        if !seat.state.add(seat.life, job.clone()) {
            // The child died meanwhile; its successor may have it, if there will be one.
            job.runs_in(None);
            *job.snapshot() = lent;
            if !self.remote.queue.push_again(job.clone()) {
                job.fail(Failed::new(Status::Draining, "the supervisor was stopped"));
            }
            return;
        }
        let (head, state) = lent.as_ref().and_then(Snapshot::parts).unzip();
        let message = Run { id: job.id, run, request: job.request.clone(), seed: job.seed, given, snapshot: head };
        self.link.standing().handed.insert(job.id, Handed { position, lent });
        if let Err(error) = self.link.send(&ToChild::Run(Box::new(message)), state.as_ref()) {
            return self.take_back(seat, &job, &error);
        }
        // Whoever ended it before found nobody to tell.
        if job.events.is_closed() {
            self.link.cancel(job.id);
        }
    }

    /// What cannot be said to this child cannot be said to another one.
    fn take_back(&self, seat: &Seat, job: &Arc<Job>, error: &IpcError) {
        self.link.standing().handed.remove(&job.id);
        job.runs_in(None);
        seat.state.remove(seat.life, job.id);
        let status = match error {
            IpcError::NoMemory(_) => Status::OutOfMemory,
            _ => Status::InvalidParams,
        };
        job.fail(Failed::new(status, format!("handing it to a worker process: {error}")));
    }

    /// Has it end in order, and sees that it does.
    fn send_home(&self, phase: Phase) {
        self.link.standing().sent_home = true;
        if phase < Phase::Ready {
            // It would hear of it when it has loaded.
            self.link.kill();
        }
        let _ = self.link.send(&ToChild::Stop, None);
        let grace = Duration::from_millis(self.remote.config.child.stop_grace_ms);
        if !self.link.is_over_within(grace) {
            self.link.terminate(AFTER_TERM);
            self.link.is_over_within(HEARS_SOON);
        }
    }

    fn cancelled(&self) -> WorkerFault {
        let message = format!("loading {}: cancelled", self.remote.prepared.model().display());
        WorkerFault::new(CrashReason::LoadFailed, message).with_status(Status::Cancelled)
    }
}
