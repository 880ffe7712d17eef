//! The supervisor: runs what was prepared, and decides nothing about the model.

mod admission;
mod blame;
mod calibration;
mod common;
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
mod pool;
mod quarantine;
mod queue;
mod reload;
mod retry;
mod self_test;
mod shared;
mod starts;
mod submit;
mod unload;
mod watcher;

pub(crate) use crate::job::Job;
pub(crate) use blame::Part;
pub use calibration::{Calibration, CalibrationState};
pub(crate) use deadline::{Due, Limits};
pub use drain::DrainReport;
#[cfg(feature = "fault-injection")]
pub(crate) use fault::{arm_load, arm_worker, dies_measuring};
pub use handoff::HandoffRecord;
pub use health::{Health, QueueDepths, State, WorkerHealth};
pub use lease::Lease;
pub use policy::BreakerState;
pub(crate) use queue::{Errand, Measure, Popped, Queue, Taker};
pub use reload::ReloadReport;
pub use self_test::{SelfTestReport, SelfTestStatus, SelfTestStep};
pub use watcher::{HandoffChange, HandoffWatcher};

use crate::config::{Isolation, SupervisorConfig};
use crate::error::Result;
use crate::isolation::install_handlers;
use crate::prepare::PreparedEngine;
use crate::request::Request;
use crate::stream::TokenStream;
use crate::telemetry::Metrics;
use drain::check_may_wait;
use pool::Pool;
use shared::Stop;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where workers are threads: their faults are to stay theirs.
fn contain_faults(engine: &PreparedEngine, config: &SupervisorConfig) {
    if config.contain_faults
        && engine.isolation() == Isolation::Thread
        && let Err(why) = install_handlers()
    {
        tracing::warn!(pool_id = engine.pool_id(), why, "faults of the engine are not contained");
    }
}

/// Owns the workers, their queue and their restarts. It runs one [`PreparedEngine`], until it is given another one.
///
/// All methods may be called from any thread. Dropping it stops it: streams still running end with `Draining`.
pub struct Supervisor {
    pool: Arc<Pool>,
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
        contain_faults(&engine, &config);
        Ok(Self { pool: Pool::start(engine, config)? })
    }

    /// Waits until a worker is ready: true, or false when `timeout` passed first. `None` waits without limit. A state that
    /// passes, `Backoff` or `CircuitOpen`, is waited for as well, and so is one that somebody has to end, `Unloaded`.
    ///
    /// # Errors
    /// What made the load fail (`LoadFailed`, `OutOfMemory`, `Cancelled`; of a later load `StaleEngine`), or `PoolUnavailable` once
    /// stopped.
    pub fn wait_ready(&self, timeout: Option<Duration>) -> Result<bool> {
        self.pool.check_process()?;
        self.pool.wait_ready(timeout.and_then(|t| Instant::now().checked_add(t)))
    }

    /// Ends a load that is in progress; the supervisor then is `Failed` with `Cancelled`. Without one, does nothing.
    pub fn cancel_load(&self) -> Result<()> {
        self.pool.check_process()?;
        self.pool.cancel_load();
        Ok(())
    }

    /// Closes all circuit breakers and forgets the failures and restarts that were counted. Workers that wait for a restart
    /// are started at once, and requests are accepted when this returns.
    ///
    /// # Errors
    /// `PoolUnavailable` if it was stopped, or failed for good.
    pub fn reset_breaker(&self) -> Result<()> {
        self.pool.check_process()?;
        self.pool.ask(|run| run.reset_circuit())
    }

    /// A look at state, progress, queue and workers. Waits for no decode.
    pub fn health(&self) -> Result<Health> {
        self.pool.check_process()?;
        Ok(self.pool.health())
    }

    /// What was counted since the start: requests, tokens, times. Waits for no decode.
    pub fn metrics(&self) -> Result<Metrics> {
        self.pool.check_process()?;
        Ok(self.pool.metrics())
    }

    /// Tries out what a host relies on, each as a step with what was seen: a worker is ready (`load`), a real decode gives a
    /// token whose logits are finite (`decode`), a cancel ends a request and frees its slot (`cancel`), a line that
    /// llamapen logs comes to the `tracing` subscriber, if there is one (`log`), and the metrics have counted all that
    /// (`metrics`): exactly, where nobody else has requests.
    ///
    /// It runs two short requests of class `interactive`, which wait for a slot like any other. `timeout` is for all of it
    /// together, but for a tenth of a second that `log` has in any case; `None` waits without limit.
    ///
    /// # Errors
    /// What fails is in the report. `Unsupported` on one of llamapen's own threads, where a waker or a log subscriber is
    /// called: it would wait for itself.
    pub fn self_test(&self, timeout: Option<Duration>) -> Result<SelfTestReport> {
        self.pool.self_test(timeout)
    }

    /// Queues a request. What is known to be wrong with it is an error here; after `Ok` its stream ends with exactly
    /// one terminal event.
    ///
    /// # Errors
    /// `InvalidParams`, or a [`Rejected`](crate::Rejected): `ContextOverflow`, `QueueFull`, `Draining`, `PoolUnavailable`
    /// (with policy `breaker` and retriable while the circuit is open).
    pub fn submit(&self, request: Request) -> Result<TokenStream> {
        self.pool.check_process()?;
        self.pool.submit(request, false)
    }

    /// A lease: until it is given back, a drain waits for it. For a session or a connection that will submit several
    /// requests; others need none.
    ///
    /// # Errors
    /// A [`Rejected`](crate::Rejected) with `Draining` while the supervisor drains; `PoolUnavailable` once it is stopped or
    /// gave up.
    pub fn lease(&self) -> Result<Lease> {
        Lease::new(&self.pool)
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
        self.pool.drain(timeout)
    }

    /// Puts another engine in the place of the one that runs. Returns when it runs, and the old one is gone; nobody's request
    /// is lost on the way. One that would run the same files in the same way changes nothing.
    ///
    /// Where memory allows, the new engine is loaded beside the old one, which serves until the new one has decoded a token.
    /// Then requests go to the new one, and the old one finishes what it has accepted. Does the new one fail, or is it
    /// not ready in time, the old one goes on as if nothing had happened.
    ///
    /// Where it does not, the old one finishes first and gives its memory back. Requests that come meanwhile must be such as
    /// both engines would accept, and wait, with their limits, for whichever comes up: if the new one does not, the old one is
    /// loaded again, and is ready when this returns with the error.
    ///
    /// `timeout` (`None`: no limit) is for each of two steps: for the new engine to become ready, and for the old one to finish;
    /// what it still has then ends with `Draining`.
    ///
    /// Leases stay, and so do the counts of requests in the [`metrics`](Self::metrics); those of workers begin anew. The
    /// [handoff record](Self::handoff) is the new engine's as soon as requests go to it. [`drain`](Self::drain) and
    /// [`stop`](Self::stop) end a reload: the old engine is not replaced any more, unless its memory was given back already.
    ///
    /// # Errors
    /// `StaleEngine` as for [`start`](Self::start), and `InvalidParams` if the `handoff_dir` is gone: nothing was done. `Busy`
    /// while another reload is in progress; a [`Rejected`](crate::Rejected) with `Draining` while it drains; `PoolUnavailable` if it
    /// was stopped, or failed for good; `Unsupported` on one of llamapen's own threads. What made the new engine fail
    /// (`LoadFailed`, `OutOfMemory`, `Cancelled` by [`cancel_load`](Self::cancel_load)), or `PoolUnready` if it was not ready in
    /// time: the message says that the old one runs, or why it does not.
    pub fn reload(&self, engine: PreparedEngine, timeout: Option<Duration>) -> Result<ReloadReport> {
        self.pool.reload(engine, timeout)
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
        self.pool.check_process()?;
        check_may_wait("unload")?;
        self.pool.check_open()?;
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        self.pool.ask(|run| run.unload(deadline))
    }

    /// Begins to load again what was unloaded, and returns at once; [`wait_ready`](Self::wait_ready) waits. Does nothing if it
    /// is loaded. Files are compared with what was prepared. If it cannot be loaded, the state is `Failed`, as after a first
    /// start, and what waits ends with why.
    ///
    /// # Errors
    /// A [`Rejected`](crate::Rejected) with `Draining` while it drains; `PoolUnavailable` if it was stopped, or failed for good.
    pub fn wake(&self) -> Result<()> {
        self.pool.check_process()?;
        self.pool.check_open()?;
        self.pool.ask(|run| run.wake())
    }

    /// What is ready, for those who are to bind to it: made when a worker becomes ready, before [`wait_ready`](Self::wait_ready)
    /// returns. `None` until then, and once it was stopped or gave up.
    pub fn handoff(&self) -> Result<Option<HandoffRecord>> {
        self.pool.check_process()?;
        Ok(self.pool.current().handoff.record())
    }

    /// The engine it runs; during a [`reload`](Self::reload) the one that requests go to.
    #[must_use]
    pub fn engine(&self) -> Arc<PreparedEngine> {
        self.pool.current().prepared.clone()
    }

    /// Ends all requests with `Draining`, stops all threads and frees the model. Returns when that is done. Idempotent.
    pub fn stop(&self) -> Result<()> {
        self.pool.check_process()?;
        self.pool.stop(Stop::Asked);
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // In a forked child there are no threads to stop, and locks may be held for ever.
        let _ = self.stop();
    }
}
