//! One request on its way: shared by the consumer's stream, the queue and the worker that runs it.

use crate::error::Result;
use crate::event::{Event, Failed};
use crate::event_queue::EventQueue;
use crate::process::Process;
use crate::remote::{Host, Link};
use crate::request::Request;
use crate::status::Status;
use crate::supervisor::{Due, Limits, Part, Queue};
use crate::sync::{Mutex, MutexGuard};
use crate::telemetry::{RunRecord, Telemetry, Trace};
use crate::worker::{Snapshot, WorkerState};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Instant;

pub(crate) struct Job {
    pub id: u64,
    pub request: Request,
    /// The request's seed, the engine's, or the one drawn for it.
    pub seed: u64,
    pub events: EventQueue,
    limits: Limits,
    /// Its part in crashes of workers that ran it.
    part: Mutex<Part>,
    snapshot: Mutex<Option<Snapshot>>,
    /// Who is to be told when it ends while a worker runs it.
    runner: Mutex<Option<Runner>>,
    /// In a child process.
    host: Option<Arc<Host>>,
    /// Where it waits, or did.
    queue: Mutex<Weak<Queue>>,
    process: Process,
    beginning: u64,
}

/// Who runs a request.
enum Runner {
    /// This worker decodes a piece of its prompt right now, and of nothing else.
    Piece(Arc<WorkerState>),
    Child(Arc<Link>),
}

/// While it lives, a cancel ends the worker's decode.
pub(crate) struct Prefilling<'a>(&'a Job);

impl Drop for Prefilling<'_> {
    fn drop(&mut self) {
        // Under the lock: whoever cancels afterwards finds nobody, and cannot end a decode of others.
        let mut runner = self.0.runner.lock();
        if let Some(Runner::Piece(worker)) = runner.take() {
            worker.piece_is_over();
        }
    }
}

/// Bytes of a text, or tokens, that say whether two requests begin alike.
const BEGINNING: usize = 512;

/// A number for how the request's text begins.
fn beginning(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    match (&request.tokens, &request.prompt, &request.messages) {
        (Some(tokens), ..) => tokens[..tokens.len().min(BEGINNING / 4)].hash(&mut hasher),
        (_, Some(text), _) => text.as_bytes()[..text.len().min(BEGINNING)].hash(&mut hasher),
        (.., Some(messages)) => {
            let bytes = messages.iter().flat_map(|message| message.content.bytes()).take(BEGINNING);
            bytes.for_each(|byte| byte.hash(&mut hasher));
        }
        _ => {}
    }
    hasher.finish()
}

impl Job {
    /// How its text begins: who has decoded one that began alike may know some of it.
    pub(crate) fn beginning(&self) -> u64 {
        self.beginning
    }

    /// `seed` is for a request that has none; without one, it is drawn.
    pub(crate) fn new(
        id: u64,
        request: Request,
        seed: Option<u64>,
        queue: Weak<Queue>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let seed = request.seed.or(seed).unwrap_or_else(draw_seed);
        let (submitted, process) = (Instant::now(), Process::current());
        let events = EventQueue::new(Trace::new(telemetry, id, seed, submitted));
        let limits = Limits::from(&request);
        Self {
            beginning: beginning(&request),
            id,
            request,
            seed,
            events,
            limits,
            part: Mutex::default(),
            snapshot: Mutex::default(),
            runner: Mutex::default(),
            host: None,
            queue: Mutex::new(queue),
            process,
        }
    }

    /// One that a host has sent to this child process: its run, with the tokens that earlier ones gave.
    pub(crate) fn in_child(self, run: u32, given: Vec<i32>, snapshot: Option<Snapshot>, host: Arc<Host>) -> Self {
        self.events.tells(self.id, host.clone(), run, given);
        Self { snapshot: Mutex::new(snapshot), host: Some(host), ..self }
    }

    /// Ends it at the caller's wish, and gives its place in the queue back.
    pub(crate) fn cancel(&self) -> Result<()> {
        self.check_process()?;
        if self.events.cancel() {
            // It may wait between two workers.
            self.ended();
            self.leave_queue();
            self.interrupt();
        }
        Ok(())
    }

    /// Its part in crashes.
    pub(crate) fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock()
    }

    /// Its state as it was a while ago, for another worker to go on from.
    pub(crate) fn snapshot(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.snapshot.lock()
    }

    /// Keeps a new one, here or in the host; gives memory that is not needed any more.
    pub(crate) fn save(&self, new: Snapshot) -> Vec<u8> {
        match &self.host {
            Some(host) => host.saved(self.id, self.events.run(), new),
            None => self.snapshot().replace(new).map(|old| old.into_parts().1).unwrap_or_default(),
        }
    }

    /// It goes on from its snapshot, which may serve again.
    pub(crate) fn resumed(&self, snapshot: Snapshot) {
        match &self.host {
            Some(host) => host.resumed(self.id, self.events.run()),
            None => *self.snapshot() = Some(snapshot),
        }
    }

    /// When a limit ends it, if it gets no further until then. `None`: it has ended, or has no limit.
    pub(crate) fn due(&self) -> Option<Due> {
        self.limits.due(&self.events.progress())
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Ends it because of a limit, and gives its place in the queue back.
    pub(crate) fn expire(&self, due: &Due) {
        // First: who hears of the end may count on the place.
        self.leave_queue();
        let (limit, ms) = (due.limit, due.after.as_millis());
        let failed = match self.events.progress().started {
            Some(_) => Failed::new(Status::DecodeTimeout, format!("{limit}: {ms} ms are over while it ran")),
            None => {
                let message = format!("{limit}: {ms} ms are over and no worker was free; allow more, or submit less");
                Failed::new(Status::DeadlineUnmet, message)
            }
        };
        self.fail(failed);
    }

    /// It goes to the queue of another engine.
    pub(crate) fn moves(&self, queue: Weak<Queue>, telemetry: Arc<Telemetry>) {
        *self.queue.lock() = queue;
        self.events.moves(telemetry);
    }

    fn leave_queue(&self) {
        let queue = self.queue.lock().upgrade();
        if let Some(queue) = queue {
            queue.remove(self.id);
        }
    }

    /// What ran and how it ended; `None` while it has not.
    pub(crate) fn record(&self) -> Option<RunRecord> {
        self.events.trace(|trace| RunRecord::of(trace, self.id, self.seed, &self.request))
    }

    /// `worker` decodes a piece of its prompt, alone, until the result is dropped. `None` if the request has ended.
    pub(crate) fn prefilling(&self, worker: &Arc<WorkerState>) -> Option<Prefilling<'_>> {
        *self.runner.lock() = Some(Runner::Piece(worker.clone()));
        let prefilling = Prefilling(self);
        // Looked at after it can be interrupted, so that no cancel is lost in between.
        (!self.events.is_closed()).then_some(prefilling)
    }

    /// A child process runs it from now on, or none does any more.
    pub(crate) fn runs_in(&self, child: Option<Arc<Link>>) {
        *self.runner.lock() = child.map(Runner::Child);
    }

    /// Tells who runs it that it has ended.
    fn interrupt(&self) {
        match &*self.runner.lock() {
            Some(Runner::Piece(worker)) => worker.abort_piece(),
            Some(Runner::Child(link)) => link.cancel(self.id),
            None => {}
        }
    }

    /// Ends it. False: it has ended before.
    pub(crate) fn fail(&self, failed: Failed) -> bool {
        let failed = self.events.push(Event::Failed(failed));
        self.ended();
        self.interrupt();
        failed
    }

    /// It has ended: no other worker will go on with it.
    pub(crate) fn ended(&self) {
        *self.snapshot() = None;
    }

    /// Refuses to work in a child made by `fork`: no thread of the parent is there.
    pub(crate) fn check_process(&self) -> Result<()> {
        self.process.check()
    }
}

/// The standard library keys each hasher from the system's generator: enough for a seed that is only meant to differ.
pub(crate) fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
