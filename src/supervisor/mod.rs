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
mod shared;
mod submit;
mod unload;

pub(crate) use crate::job::Job;
pub(crate) use blame::Part;
pub(crate) use deadline::{Due, Limits};
pub use drain::DrainReport;
pub use handoff::HandoffRecord;
pub use health::{Health, QueueDepths, State, WorkerHealth};
pub use lease::Lease;
pub use policy::BreakerState;
pub(crate) use queue::{Popped, Queue};

use crate::config::SupervisorConfig;
use crate::error::Result;
use crate::isolation::install_handlers;
use crate::prepare::PreparedEngine;
use crate::request::Request;
use crate::stream::TokenStream;
use crate::telemetry::Metrics;
use drain::check_may_wait;
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

    /// Gives memory back: weights and contexts are freed as soon as no request waits or runs. Takes nothing from anybody:
    /// requests go on being accepted, what waits and runs finishes first, and a request that comes afterwards has it loaded
    /// again and waits in the queue, with its limits. The state is `Unloaded` until then. The handoff record stays: it can
    /// still be bound to.
    ///
    /// True when it is unloaded, or was already. False when there was no such moment within `timeout` (`None`: no limit):
    /// then all stays as it is.
    ///
    /// # Errors
    /// A [`Rejected`](crate::Rejected) with `Draining` while it drains; `PoolUnavailable` if it was stopped, or failed for good;
    /// `Unsupported` on one of llamapen's own threads: it would wait for itself.
    pub fn unload(&self, timeout: Option<Duration>) -> Result<bool> {
        self.shared.check_process()?;
        check_may_wait("unload")?;
        self.shared.check_open()?;
        self.shared.unload(timeout.and_then(|t| Instant::now().checked_add(t)))
    }

    /// Begins to load again what was unloaded, and returns at once; [`wait_ready`](Self::wait_ready) waits. Does nothing if it
    /// is loaded. Files are compared with what was prepared. If it cannot be loaded, the state is `Failed`, as after a first
    /// start, and what waits ends with why.
    ///
    /// # Errors
    /// A [`Rejected`](crate::Rejected) with `Draining` while it drains; `PoolUnavailable` if it was stopped, or failed for good.
    pub fn wake(&self) -> Result<()> {
        self.shared.check_process()?;
        self.shared.check_open()?;
        self.shared.wake()
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
