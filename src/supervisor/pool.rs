//! What a supervisor's owner and its leases hold: the engine that runs, and during a reload another one beside it.

use super::common::Common;
use super::control::{self, Load};
use super::drain::{Began, DrainReport};
use super::gate::Entry;
use super::health::Health;
use super::lease::draining;
use super::shared::{Role, Shared, Stop};
use super::submit::Refused;
use crate::config::SupervisorConfig;
use crate::error::Result;
use crate::prepare::PreparedEngine;
use crate::request::Request;
use crate::stream::TokenStream;
use crate::sync::{Condvar, Mutex};
use crate::telemetry::Metrics;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

pub(super) struct Pool {
    pub common: Arc<Common>,
    pub config: SupervisorConfig,
    /// Held for moments only: nothing is waited for, and nothing of the host's runs under it.
    pub runs: Mutex<Runs>,
    /// Who runs has changed, or is decided.
    pub runs_changed: Condvar,
    pub reloading: AtomicBool,
    pub drain_began: OnceLock<Began>,
    pub drained: OnceLock<DrainReport>,
}

/// What runs.
pub(super) struct Runs {
    /// Where requests go.
    pub current: Arc<Shared>,
    /// During a reload: the one that is to be the current one, or the one that was.
    pub other: Option<Arc<Shared>>,
}

impl Pool {
    pub(super) fn start(engine: PreparedEngine, config: SupervisorConfig) -> Result<Arc<Self>> {
        let common = Arc::new(Common::new(&config)?);
        common.check_isolation(&engine)?;
        let current = Arc::new(Shared::new(engine, config.clone(), &common, Role::Current)?);
        let pool = Arc::new(Self {
            common,
            config,
            runs: Mutex::new(Runs { current: current.clone(), other: None }),
            runs_changed: Condvar::new(),
            reloading: AtomicBool::new(false),
            drain_began: OnceLock::new(),
            drained: OnceLock::new(),
        });
        super::exit::watch(&pool);
        control::start(&current, Load::Now)?;
        Ok(pool)
    }

    pub(super) fn check_process(&self) -> Result<()> {
        self.common.check_process()
    }

    pub(super) fn current(&self) -> Arc<Shared> {
        self.runs.lock().current.clone()
    }

    /// The engines that there are, the current one first.
    fn all(&self) -> Vec<Arc<Shared>> {
        let runs = self.runs.lock();
        std::iter::once(&runs.current).chain(&runs.other).cloned().collect()
    }

    /// Asks the current engine, and the one that comes after it where it is replaced meanwhile.
    pub(super) fn ask<T>(&self, mut question: impl FnMut(&Arc<Shared>) -> Result<T>) -> Result<T> {
        loop {
            let run = self.current();
            match question(&run) {
                Err(_) if self.was_replaced(&run) => {}
                answer => return answer,
            }
        }
    }

    /// Of one that failed on trial, only the reload knows what becomes of it, and soon will.
    fn was_replaced(&self, run: &Arc<Shared>) -> bool {
        let mut runs = self.runs.lock();
        while Arc::ptr_eq(&runs.current, run) && run.role() == Role::Trial {
            self.runs_changed.wait(&mut runs);
        }
        !Arc::ptr_eq(&runs.current, run)
    }

    /// Refuses while it drains, and once it is stopped or gave up.
    pub(super) fn check_open(&self) -> Result<()> {
        match self.common.gate.look().0 {
            Entry::Open => Ok(()),
            Entry::Draining => Err(draining().into()),
            Entry::Closed => Err(self.current().unavailable()),
        }
    }

    /// `leased`: who submits it has a lease, and is heard while the supervisor drains.
    pub(super) fn submit(&self, mut request: Request, leased: bool) -> Result<TokenStream> {
        self.check_process()?;
        loop {
            let run = self.current();
            match run.enqueue(request, leased) {
                Ok(job) => return Ok(TokenStream::new(job)),
                // Another engine has taken its place: that one is asked.
                Err(Refused::Moved(back)) => request = *back,
                Err(Refused::For(error)) => {
                    let status = error.status();
                    self.common.counts.rejected.add(status);
                    let pool_id = &run.telemetry.identity.pool_id;
                    tracing::debug!(pool_id, %status, last_error = %error, "request rejected");
                    return Err(error);
                }
            }
        }
    }

    pub(super) fn wait_ready(&self, deadline: Option<Instant>) -> Result<bool> {
        self.ask(|run| run.wait_ready(deadline))
    }

    pub(super) fn cancel_load(&self) {
        self.all().iter().for_each(|run| run.cancel_load());
    }

    pub(super) fn health(&self) -> Health {
        Health { reloading: self.reloading.load(Ordering::Relaxed), ..self.current().health() }
    }

    pub(super) fn metrics(&self) -> Metrics {
        Metrics::new(&self.current().telemetry, self.health())
    }

    pub(super) fn stop(&self, why: Stop) {
        // First: a reload puts no other engine in place from now on.
        self.common.gate.narrow(Entry::Closed);
        self.all().iter().for_each(|run| run.stop(why));
    }
}
