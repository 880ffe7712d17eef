//! One request on its way: shared by the consumer's stream, the queue and the worker that runs it.

use crate::error::Result;
use crate::event::{Event, Failed};
use crate::event_queue::EventQueue;
use crate::process::Process;
use crate::request::Request;
use crate::status::Status;
use crate::supervisor::{Due, Limits, Queue};
use crate::telemetry::{RunRecord, Telemetry, Trace};
use std::sync::{Arc, Weak};
use std::time::Instant;

pub(crate) struct Job {
    pub id: u64,
    pub request: Request,
    /// The request's seed, the engine's, or the one drawn for it.
    pub seed: u64,
    pub submitted: Instant,
    pub events: EventQueue,
    limits: Limits,
    queue: Weak<Queue>,
    process: Process,
}

impl Job {
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
        Self { id, request, seed, submitted, events, limits, queue, process }
    }

    /// Ends it at the caller's wish, and gives its place in the queue back.
    pub(crate) fn cancel(&self) -> Result<()> {
        self.check_process()?;
        if self.events.cancel() {
            self.leave_queue();
        }
        Ok(())
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

    fn leave_queue(&self) {
        if let Some(queue) = self.queue.upgrade() {
            queue.remove(self.id);
        }
    }

    /// What ran and how it ended; `None` while it has not.
    pub(crate) fn record(&self) -> Option<RunRecord> {
        self.events.trace(|trace| RunRecord::of(trace, self.id, self.seed, &self.request))
    }

    pub(crate) fn fail(&self, failed: Failed) {
        self.events.push(Event::Failed(failed));
    }

    /// Refuses to work in a child made by `fork`: no thread of the parent is there.
    pub(crate) fn check_process(&self) -> Result<()> {
        self.process.check()
    }
}

/// The standard library keys each hasher from the system's generator: enough for a seed that is only meant to differ.
fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
