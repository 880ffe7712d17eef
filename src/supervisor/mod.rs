//! The supervisor: runs what was prepared, and decides nothing about the model.

mod admission;
mod control;
mod deadline;
mod exit;
mod health;
mod queue;
mod restart;
mod shared;

pub(crate) use crate::job::Job;
pub(crate) use deadline::{Due, Limits};
pub use health::{Health, State, WorkerHealth};
pub(crate) use queue::{Popped, Queue};

use crate::config::SupervisorConfig;
use crate::error::{Error, Rejected, Result};
use crate::isolation::install_handlers;
use crate::prepare::PreparedEngine;
use crate::request::Request;
use crate::status::Status;
use crate::stream::TokenStream;
use crate::telemetry::{Metrics, Trace};
use control::Report;
use queue::PushError;
use shared::Shared;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Owns the workers, their queue and their restarts. One per [`PreparedEngine`].
///
/// All methods may be called from any thread. Dropping it stops it: streams still running end with `Draining`.
pub struct Supervisor {
    shared: Arc<Shared>,
}

impl Supervisor {
    /// Starts to load and returns at once; the state is `Starting`. Requests may be submitted right away.
    ///
    /// # Errors
    /// `StaleEngine` if `engine` does not fit this build, this machine or its file any more; `InvalidParams` for a
    /// configuration out of range; `Internal` if the system gives no thread.
    pub fn start(engine: PreparedEngine, config: SupervisorConfig) -> Result<Self> {
        config.validate()?;
        engine.verify()?;
        if config.contain_faults
            && let Err(why) = install_handlers()
        {
            tracing::warn!(pool_id = engine.pool_id(), why, "faults of the engine are not contained");
        }
        let shared = Arc::new(Shared::new(engine, config));
        exit::watch(&shared);
        control::start(&shared)?;
        Ok(Self { shared })
    }

    /// Waits until a worker is ready: true, or false when `timeout` passed first. `None` waits without limit.
    ///
    /// # Errors
    /// What made the start fail (`LoadFailed`, `OutOfMemory`, `Cancelled`), or `PoolUnavailable` once stopped.
    pub fn wait_ready(&self, timeout: Option<Duration>) -> Result<bool> {
        self.shared.check_process()?;
        self.shared.wait_ready(timeout.and_then(|t| Instant::now().checked_add(t)))
    }

    /// Ends a load that is in progress; the supervisor then is `Failed` with `Cancelled`. Without one, does nothing.
    pub fn cancel_load(&self) -> Result<()> {
        self.shared.check_process()?;
        self.shared.cancel_load();
        Ok(())
    }

    /// A look at state, progress, queue and workers. Waits for no decode.
    pub fn health(&self) -> Result<Health> {
        self.shared.check_process()?;
        Ok(self.shared.health())
    }

    /// What was counted since the start: requests, tokens, times. Waits for no decode.
    pub fn metrics(&self) -> Result<Metrics> {
        self.shared.check_process()?;
        Ok(Metrics::new(&self.shared.telemetry, self.shared.health()))
    }

    /// Queues a request. What is known to be wrong with it is an error here; after `Ok` its stream ends with exactly
    /// one terminal event.
    ///
    /// # Errors
    /// `InvalidParams`, or a [`Rejected`]: `ContextOverflow`, `QueueFull`, `PoolUnavailable`.
    pub fn submit(&self, request: Request) -> Result<TokenStream> {
        self.shared.check_process()?;
        let queued = self.enqueue(request);
        if let Err(error) = &queued {
            let (telemetry, status) = (&self.shared.telemetry, error.status());
            telemetry.rejected.add(status);
            tracing::debug!(pool_id = telemetry.identity.pool_id, %status, last_error = %error, "request rejected");
        }
        queued.map(TokenStream::new)
    }

    fn enqueue(&self, request: Request) -> Result<Arc<Job>> {
        request.validate()?;
        admission::check(&request, &self.shared.prepared)?;
        let (id, seed) = (self.shared.next_id(), self.shared.prepared.seed());
        let (queue, telemetry) = (Arc::downgrade(&self.shared.queue), self.shared.telemetry.clone());
        let job = Arc::new(Job::new(id, request, seed, queue, telemetry));
        self.watch_later(&job);
        match self.shared.queue.push(job.clone()) {
            Ok(()) => {
                if !job.limits().is_none() {
                    let _ = self.shared.to_control.send(Report::Watch(Arc::downgrade(&job)));
                }
                let queue_depth = self.shared.queue.len();
                tracing::debug!(parent: job.events.trace(Trace::span), queue_depth, "request accepted");
                Ok(job)
            }
            Err(PushError::Closed) => Err(self.shared.unavailable()),
            Err(PushError::Full(capacity)) => {
                let message = format!(
                    "the queue is full: {capacity} requests are waiting; try again later, or start with a larger queue_capacity"
                );
                Err(Error::Rejected(Rejected::new(Status::QueueFull, "queue", message)))
            }
        }
    }

    /// Has the control thread look at the deadlines again after the first token, if that can bring one nearer.
    fn watch_later(&self, job: &Arc<Job>) {
        if job.limits().tightens() {
            let (to_control, watched) = (self.shared.to_control.clone(), Arc::downgrade(job));
            job.events.on_first_token(move || drop(to_control.send(Report::Watch(watched))));
        }
    }

    /// The engine it runs.
    #[must_use]
    pub fn engine(&self) -> &PreparedEngine {
        &self.shared.prepared
    }

    /// Ends all requests with `Draining`, stops all threads and frees the model. Returns when that is done. Idempotent.
    pub fn stop(&self) -> Result<()> {
        self.shared.check_process()?;
        self.shared.stop();
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // In a forked child there are no threads to stop, and locks may be held for ever.
        let _ = self.stop();
    }
}
