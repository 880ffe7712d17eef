//! A door for benchmarks to what is not public: each is a thing that is made before the measuring, and a call that is measured.

use crate::config::QueueFullPolicy;
use crate::event::{Event, Token};
use crate::event_queue::{EventQueue, Next};
use crate::job::Job;
use crate::request::Request;
use crate::supervisor::{Popped, Queue, Taker};
use crate::telemetry::{Telemetry, Trace};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::isolation::ipc::bench::{Sockets, Stream};
pub use crate::remote::bench::{Message, request_message, token_message};
pub use crate::worker::bench::{Prefixes, Stops, utf8};

const TAKER: Taker = Taker { worker: 0, suspects: true, running: 0 };

fn telemetry() -> Arc<Telemetry> {
    Arc::new(Telemetry::new(Default::default(), 1, Arc::default()))
}

/// The queue between a worker and the consumer of one request.
pub struct Events(EventQueue);

impl Default for Events {
    fn default() -> Self {
        Self(EventQueue::new(Trace::new(telemetry(), 1, 0, Instant::now())))
    }
}

impl Events {
    /// A worker gives a token; false if the request has ended.
    pub fn push(&self) -> bool {
        self.0.push(Event::Token(Token { index: 0, token: 1, text: "a".into(), logprobs: None, logits: None }))
    }

    /// The consumer takes it, waiting at most a minute; false if there is none.
    pub fn take(&self) -> bool {
        matches!(self.0.next(Some(Instant::now() + Duration::from_secs(60))), Ok(Next::Event(_)))
    }
}

/// The queue of requests that wait, with some in it.
pub struct Waiting {
    queue: Arc<Queue>,
    telemetry: Arc<Telemetry>,
}

impl Waiting {
    /// So many wait.
    pub fn new(waiting: u32) -> Self {
        let queue = Arc::new(Queue::new(waiting + 1, QueueFullPolicy::Reject));
        let this = Self { queue, telemetry: telemetry() };
        (0..waiting).for_each(|_| this.push());
        this
    }

    /// One more comes, with a prompt of 64 tokens.
    pub fn push(&self) {
        let request = Request::tokens((1000..1064).collect::<Vec<i32>>());
        let job = Job::new(1, request, Some(0), Arc::downgrade(&self.queue), self.telemetry.clone());
        let _ = self.queue.push(Arc::new(job), false);
    }

    /// A worker takes one; false if there is none.
    pub fn pop(&self) -> bool {
        matches!(self.queue.pop(Duration::ZERO, TAKER), Popped::Job(..))
    }
}
