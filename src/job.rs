//! One request on its way: shared by the consumer's stream, the queue and the worker that runs it.

use crate::error::Result;
use crate::event::{Event, Failed};
use crate::event_queue::EventQueue;
use crate::process::Process;
use crate::request::Request;
use crate::supervisor::Queue;
use std::sync::Weak;
use std::time::Instant;

pub(crate) struct Job {
    pub id: u64,
    pub request: Request,
    /// The request's seed, the engine's, or the one drawn for it.
    pub seed: u64,
    pub submitted: Instant,
    pub events: EventQueue,
    queue: Weak<Queue>,
    process: Process,
}

impl Job {
    /// `seed` is for a request that has none; without one, it is drawn.
    pub(crate) fn new(id: u64, request: Request, seed: Option<u64>, queue: Weak<Queue>) -> Self {
        let seed = request.seed.or(seed).unwrap_or_else(draw_seed);
        let (submitted, process) = (Instant::now(), Process::current());
        Self { id, request, seed, submitted, events: EventQueue::default(), queue, process }
    }

    /// Ends it at the caller's wish, and gives its place in the queue back.
    pub(crate) fn cancel(&self) -> Result<()> {
        self.check_process()?;
        if self.events.cancel()
            && let Some(queue) = self.queue.upgrade()
        {
            queue.remove(self.id);
        }
        Ok(())
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
