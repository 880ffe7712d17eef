//! What outlasts an engine: a reload puts another one in its place, and all of this stays.

use super::gate::Gate;
use crate::config::{Isolation, Sandbox, SupervisorConfig, TaintPolicy};
use crate::error::{Error, Result};
use crate::isolation::child::{self, Located};
use crate::prepare::PreparedEngine;
use crate::process::Process;
use crate::telemetry::Counts;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(super) struct Common {
    pub gate: Gate,
    pub counts: Arc<Counts>,
    last_id: AtomicU64,
    tainted: AtomicBool,
    /// What follows a memory fault of a worker that is a thread.
    pub taint: TaintPolicy,
    /// How worker processes are started; or why they cannot be.
    worker: Result<Arc<Located>, String>,
    sandbox: Sandbox,
    process: Process,
}

impl Common {
    pub(super) fn new(config: &SupervisorConfig) -> Result<Self> {
        let worker = child::locate(config.child.worker.as_deref()).map(Arc::new).map_err(|e| e.in_full());
        let taint = match (config.taint, &worker) {
            (Some(TaintPolicy::EscalateToProcess), Err(why)) => {
                let problem = format!("taint: \"escalate_to_process\" needs a worker process: {why}");
                return Err(Error::Unsupported(problem));
            }
            (Some(policy), _) => policy,
            (None, Ok(_)) => TaintPolicy::EscalateToProcess,
            (None, Err(_)) => TaintPolicy::Stop,
        };
        Ok(Self {
            gate: Gate::new(),
            counts: Arc::default(),
            last_id: AtomicU64::new(0),
            tainted: AtomicBool::new(false),
            taint,
            worker,
            sandbox: config.child.sandbox,
            process: Process::current(),
        })
    }

    /// Refuses an engine whose workers cannot be started.
    pub(super) fn check_isolation(&self, engine: &PreparedEngine) -> Result<()> {
        match (&self.worker, engine.isolation()) {
            // Silently confining nothing would be the worst answer.
            (_, Isolation::Thread) if self.sandbox == Sandbox::Strict => Err(Error::invalid(
                "child.sandbox",
                "\"strict\" confines worker processes, and this engine's workers are threads; prepare it with isolation \"process\"",
            )),
            // The driver opens device nodes, sends them its own commands and maps what it likes: what that takes is not known well
            // enough to allow just that.
            (_, Isolation::Process) if self.sandbox == Sandbox::Strict && !engine.devices().is_empty() => {
                Err(Error::invalid(
                    "child.sandbox",
                    "\"strict\" is for workers that compute on the CPU: what NVIDIA's driver does is refused there; use \"off\", or prepare \
                 the engine with devices \"none\"",
                ))
            }
            (Err(why), Isolation::Process) => {
                Err(Error::Unsupported(format!("isolation: \"process\" needs a worker process: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// Where a worker of an engine with this isolation starts now, and how.
    pub(super) fn place(&self, isolation: Isolation) -> Option<&Arc<Located>> {
        let escalated = self.taint == TaintPolicy::EscalateToProcess && self.is_tainted();
        self.worker.as_ref().ok().filter(|_| escalated || isolation == Isolation::Process)
    }

    pub(super) fn check_process(&self) -> Result<()> {
        self.process.check()
    }

    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn set_tainted(&self) {
        self.tainted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_tainted(&self) -> bool {
        self.tainted.load(Ordering::Relaxed)
    }
}
