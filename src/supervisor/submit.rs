//! The way of a request into the queue.

use super::admission;
use super::control::Report;
use super::lease::draining;
use super::queue::PushError;
use super::shared::Shared;
use crate::error::{Error, Rejected};
use crate::event::Failed;
use crate::job::Job;
use crate::request::Request;
use crate::status::Status;
use crate::telemetry::Trace;
use std::sync::Arc;

/// Why a request was not queued.
pub(super) enum Refused {
    /// Another engine has taken the place of this one.
    Moved(Box<Request>),
    For(Error),
}

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::For(error.into())
    }
}

impl Shared {
    pub(super) fn enqueue(&self, request: Request, leased: bool) -> Result<Arc<Job>, Refused> {
        request.validate()?;
        admission::check(&request, &self.prepared)?;
        // Whoever comes up has to run it.
        let rival = self.rival.lock().clone();
        if let Some(rival) = rival {
            admission::check(&request, &rival)?;
        }
        self.check_circuit()?;
        self.check_quarantine(&request)?;
        let (id, seed) = (self.common.next_id(), self.prepared.seed());
        let (queue, telemetry) = (Arc::downgrade(&self.queue), self.telemetry.clone());
        let job = Arc::new(Job::new(id, request, seed, queue, telemetry));
        self.watch_later(&job);
        match self.queue.push(job.clone(), leased) {
            Ok(dropped) => {
                self.interrupt_calibration();
                if let Some(dropped) = dropped {
                    self.drop_for_another(&dropped);
                }
                // It may have opened since it was checked: nobody else would end this request.
                self.fail_if_open();
                self.load_if_unloaded();
                self.watch(&job);
                let queue_depth = self.queue.depths().total();
                tracing::debug!(parent: job.events.trace(Trace::span), queue_depth, "request accepted");
                Ok(job)
            }
            Err(PushError::Moved) => match Arc::into_inner(job) {
                Some(job) => Err(Refused::Moved(Box::new(job.request))),
                None => Err(Error::Internal("a refused request is somebody's".into()).into()),
            },
            Err(PushError::Closed) => Err(self.unavailable().into()),
            Err(PushError::Draining) => Err(draining().into()),
            Err(PushError::Full(capacity)) => {
                let message = format!(
                    "the queue is full: {capacity} requests are waiting; try again later, or start with a larger queue_capacity"
                );
                let mut rejected = Rejected::new(Status::QueueFull, "queue", message);
                rejected.retry_after_ms = self.telemetry.retry_after_ms(1);
                Err(rejected.into())
            }
        }
    }

    /// Ends a batch request that gave its place to a newer one. To be tried again when those before it were taken up: its
    /// place is at the end of them.
    fn drop_for_another(&self, job: &Job) {
        let message = "dropped from the full queue, as the batch request that had waited longest, for a newer request; submit it again later, or start with a larger queue_capacity";
        let mut failed = Failed::new(Status::QueueFullDropLru, message);
        failed.retry_after_ms = self.telemetry.retry_after_ms(self.queue.depths().total());
        job.fail(failed);
    }

    /// Has the control thread look at the deadlines of a request that has some.
    fn watch(&self, job: &Arc<Job>) {
        if !job.limits().is_none() {
            let _ = self.to_control.send(Report::Watch(Arc::downgrade(job)));
        }
    }

    /// Takes requests that waited for another engine.
    pub(super) fn adopt(&self, jobs: Vec<Arc<Job>>) {
        self.interrupt_calibration();
        for job in &jobs {
            job.moves(Arc::downgrade(&self.queue), self.telemetry.clone());
            self.watch_later(job);
            self.watch(job);
        }
        self.queue.move_in(jobs);
    }

    /// Has the control thread look at the deadlines again after the first token, if that can bring one nearer.
    fn watch_later(&self, job: &Arc<Job>) {
        if job.limits().tightens() {
            let (to_control, watched) = (self.to_control.clone(), Arc::downgrade(job));
            job.events.on_first_token(move || drop(to_control.send(Report::Watch(watched))));
        }
    }
}
