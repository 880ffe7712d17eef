//! The supervisor: runs what was prepared, and decides nothing about the model.

mod admission;
mod blame;
mod control;
mod deadline;
mod drain;
mod exit;
#[cfg(feature = "fault-injection")]
mod fault;
mod gate;
mod handoff;
mod health;
mod lease;
mod policy;
mod quarantine;
mod queue;
mod retry;
mod self_test;
mod shared;
mod submit;

pub(crate) use crate::job::Job;
pub(crate) use blame::Part;
pub(crate) use deadline::{Due, Limits};
pub use drain::DrainReport;
pub use handoff::HandoffRecord;
pub use health::{Health, QueueDepths, State, WorkerHealth};
pub use lease::Lease;
pub use policy::BreakerState;
pub(crate) use queue::{Popped, Queue};
pub use self_test::{SelfTestReport, SelfTestStatus, SelfTestStep};

use crate::config::SupervisorConfig;
use crate::error::Result;
use crate::isolation::install_handlers;
use crate::prepare::PreparedEngine;
use crate::request::Request;
use crate::stream::TokenStream;
use crate::telemetry::Metrics;
use shared::{Shared, Stop};
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
    /// configuration out of range or a `handoff_dir` that is no directory; `Internal` if the system gives no thread.
    pub fn start(engine: PreparedEngine, config: SupervisorConfig) -> Result<Self> {
        config.validate()?;
        engine.verify()?;
        if config.contain_faults
            && let Err(why) = install_handlers()
        {
            tracing::warn!(pool_id = engine.pool_id(), why, "faults of the engine are not contained");
        }
        let shared = Arc::new(Shared::new(engine, config)?);
        exit::watch(&shared);
        control::start(&shared)?;
        Ok(Self { shared })
    }

    /// Waits until a worker is ready: true, or false when `timeout` passed first. `None` waits without limit. A state that
    /// passes, `Backoff` or `CircuitOpen`, is waited for as well.
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

    /// Closes all circuit breakers and forgets the failures and restarts that were counted. Workers that wait for a restart
    /// are started at once, and requests are accepted when this returns.
    ///
    /// # Errors
    /// `PoolUnavailable` if it was stopped, or failed for good.
    pub fn reset_breaker(&self) -> Result<()> {
        self.shared.check_process()?;
        self.shared.reset_circuit()
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

    /// Tries out what a host relies on, each as a step with what was seen: a worker is ready (`load`), a real decode gives a
    /// token whose logits are finite (`decode`), a cancel ends a request and frees its slot (`cancel`), a line that
    /// llamapen logs comes to the `tracing` subscriber, if there is one (`log`), and the metrics have counted all that
    /// (`metrics`): exactly, where nobody else has requests.
    ///
    /// It runs two short requests of class `interactive`, which wait for a slot like any other. `timeout` is for all of it
    /// together; `None` waits without limit.
    ///
    /// # Errors
    /// What fails is in the report. `Unsupported` on one of llamapen's own threads, where a waker or a log subscriber is
    /// called: it would wait for itself.
    pub fn self_test(&self, timeout: Option<Duration>) -> Result<SelfTestReport> {
        self.shared.self_test(timeout)
    }

    /// Queues a request. What is known to be wrong with it is an error here; after `Ok` its stream ends with exactly
    /// one terminal event.
    ///
    /// # Errors
    /// `InvalidParams`, or a [`Rejected`](crate::Rejected): `ContextOverflow`, `QueueFull`, `Draining`, `PoolUnavailable`
    /// (with policy `breaker` and retriable while the circuit is open).
    pub fn submit(&self, request: Request) -> Result<TokenStream> {
        self.shared.check_process()?;
        self.shared.submit(request, false)
    }

    /// A lease: until it is given back, a drain waits for it. For a session or a connection that will submit several
    /// requests; others need none.
    ///
    /// # Errors
    /// A [`Rejected`](crate::Rejected) with `Draining` while the supervisor drains; `PoolUnavailable` once it is stopped or
    /// gave up.
    pub fn lease(&self) -> Result<Lease> {
        Lease::new(&self.shared)
    }

    /// Ends in order: from now on neither leases nor requests are taken, except requests of those who have a lease; what
    /// is waiting or running finishes, leases are given back, and then the supervisor stops. What is left after `timeout`
    /// is ended with `Draining`, and the supervisor stops then; `None` waits without limit.
    ///
    /// Returns when it is stopped, in every call the same; of several calls the earliest deadline counts. While it
    /// waits, the state is `Draining`.
    ///
    /// # Errors
    /// `Unsupported` on one of llamapen's own threads, where a waker or a log subscriber is called: it would wait for itself.
    pub fn drain(&self, timeout: Option<Duration>) -> Result<DrainReport> {
        self.shared.drain(timeout)
    }

    /// What is ready, for those who are to bind to it: made when a worker becomes ready, before [`wait_ready`](Self::wait_ready)
    /// returns. `None` until then, and once it was stopped or gave up.
    pub fn handoff(&self) -> Result<Option<HandoffRecord>> {
        self.shared.check_process()?;
        Ok(self.shared.handoff.record())
    }

    /// The engine it runs.
    #[must_use]
    pub fn engine(&self) -> &PreparedEngine {
        &self.shared.prepared
    }

    /// Ends all requests with `Draining`, stops all threads and frees the model. Returns when that is done. Idempotent.
    pub fn stop(&self) -> Result<()> {
        self.shared.check_process()?;
        self.shared.stop(Stop::Asked);
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // In a forked child there are no threads to stop, and locks may be held for ever.
        let _ = self.stop();
    }
}
