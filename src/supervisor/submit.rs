//! The way of a request into the queue.

use super::admission;
use super::control::Report;
use super::lease::draining;
use super::queue::PushError;
use super::shared::Shared;
use crate::error::{Rejected, Result};
use crate::event::Failed;
use crate::job::Job;
use crate::request::Request;
use crate::status::Status;
use crate::stream::TokenStream;
use crate::telemetry::Trace;
use std::sync::Arc;

impl Shared {
    /// `leased`: who submits it has a lease, and is heard while the supervisor drains.
    pub(super) fn submit(&self, request: Request, leased: bool) -> Result<TokenStream> {
        self.check_process()?;
        let queued = self.enqueue(request, leased);
        if let Err(error) = &queued {
            let (telemetry, status) = (&self.telemetry, error.status());
            telemetry.rejected.add(status);
            tracing::debug!(pool_id = telemetry.identity.pool_id, %status, last_error = %error, "request rejected");
        }
        queued.map(TokenStream::new)
    }

    fn enqueue(&self, request: Request, leased: bool) -> Result<Arc<Job>> {
        request.validate()?;
        admission::check(&request, &self.prepared)?;
        self.check_circuit()?;
        self.check_quarantine(&request)?;
        let (id, seed) = (self.next_id(), self.prepared.seed());
        let (queue, telemetry) = (Arc::downgrade(&self.queue), self.telemetry.clone());
        let job = Arc::new(Job::new(id, request, seed, queue, telemetry));
        self.watch_later(&job);
        match self.queue.push(job.clone(), leased) {
            Ok(dropped) => {
                if let Some(dropped) = dropped {
                    self.drop_for_another(&dropped);
                }
                // It may have opened since it was checked: nobody else would end this request.
                self.fail_if_open();
                self.load_if_unloaded();
                if !job.limits().is_none() {
                    let _ = self.to_control.send(Report::Watch(Arc::downgrade(&job)));
                }
                let queue_depth = self.queue.depths().total();
                tracing::debug!(parent: job.events.trace(Trace::span), queue_depth, "request accepted");
                Ok(job)
            }
            Err(PushError::Closed) => Err(self.unavailable()),
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

    /// Has the control thread look at the deadlines again after the first token, if that can bring one nearer.
    fn watch_later(&self, job: &Arc<Job>) {
        if job.limits().tightens() {
            let (to_control, watched) = (self.to_control.clone(), Arc::downgrade(job));
            job.events.on_first_token(move || drop(to_control.send(Report::Watch(watched))));
        }
    }
}
