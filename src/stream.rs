//! [`TokenStream`]: the events of one request, for blocking and for asynchronous code.

use crate::error::{Error, Result};
use crate::event::{Event, Failed, Finished};
use crate::event_queue::Next;
use crate::supervisor::Job;
use crate::telemetry::RunRecord;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The events of one request, in order, ending with exactly one terminal event.
///
/// It is an [`Iterator`] that blocks and a [`futures_core::Stream`] that does not. Dropping it cancels the request, and
/// the slot becomes free. It may be moved to another thread; [`Canceller`] cancels from anywhere.
#[must_use = "dropping a stream cancels its request"]
pub struct TokenStream {
    job: Arc<Job>,
}

/// A complete answer, see [`TokenStream::text`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Completion {
    /// All text of the answer.
    pub text: String,
    /// How it ended, with usage and timings.
    pub finished: Finished,
}

/// Cancels a request from any thread. It does not keep the request alive or running.
#[derive(Clone)]
pub struct Canceller {
    job: std::sync::Weak<Job>,
}

impl TokenStream {
    pub(crate) fn new(job: Arc<Job>) -> Self {
        Self { job }
    }

    /// The number of its request.
    pub(crate) fn id(&self) -> u64 {
        self.job.id
    }

    /// `Forked` in a child process made by `fork`.
    pub(crate) fn check_process(&self) -> Result<()> {
        self.job.check_process()
    }

    /// Waits at most `timeout` for the next event; `None` waits without limit.
    ///
    /// # Errors
    /// `Forked` in a child process made by `fork`.
    pub fn next_event(&self, timeout: Option<Duration>) -> Result<Next> {
        self.check_process()?;
        // A timeout past the end of time is no timeout.
        self.job.events.next(timeout.and_then(|t| Instant::now().checked_add(t)))
    }

    /// Ends the request now: the next event is `Failed` with status `Cancelled`, unless it had ended before. Idempotent.
    ///
    /// # Errors
    /// `Forked` in a child process made by `fork`.
    pub fn cancel(&self) -> Result<()> {
        self.job.cancel()
    }

    /// A handle that cancels from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller { job: Arc::downgrade(&self.job) }
    }

    /// What ran, with which parameters, and how it ended: `None` until it has. Needs no event to be read.
    ///
    /// # Errors
    /// `Forked` in a child process made by `fork`.
    pub fn run_record(&self) -> Result<Option<RunRecord>> {
        self.check_process()?;
        Ok(self.job.record())
    }

    /// Reads to the end and puts the text together.
    ///
    /// # Errors
    /// The [`Failed`] event, with what it says.
    pub fn text(self) -> Result<Completion, Failed> {
        let mut text = String::new();
        for event in self {
            match event {
                Event::Token(token) => text.push_str(&token.text),
                Event::Finished(finished) => {
                    text.push_str(&finished.text);
                    return Ok(Completion { text, finished });
                }
                Event::Failed(failed) => return Err(failed),
                Event::Started(_) | Event::Restarted(_) => {}
            }
        }
        Err(Failed::new(Error::Forked.status(), "the stream was read to its end before, or belongs to another process"))
    }
}

impl Iterator for TokenStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        match self.next_event(None) {
            Ok(Next::Event(event)) => Some(event),
            Ok(_) | Err(_) => None,
        }
    }
}

impl futures_core::Stream for TokenStream {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        match self.job.check_process() {
            Ok(()) => self.job.events.poll_next(context),
            Err(_) => Poll::Ready(None),
        }
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        // The one error is being in a forked child, where there is nothing to cancel.
        let _ = self.job.cancel();
    }
}

impl Canceller {
    /// See [`TokenStream::cancel`].
    pub fn cancel(&self) -> Result<()> {
        self.job.upgrade().map_or(Ok(()), |job| job.cancel())
    }
}
