//! What outlasts an engine: a reload puts another one in its place, and all of this stays.

use super::gate::Gate;
use crate::error::Result;
use crate::process::Process;
use crate::telemetry::Counts;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(super) struct Common {
    pub gate: Gate,
    pub counts: Arc<Counts>,
    last_id: AtomicU64,
    tainted: AtomicBool,
    process: Process,
}

impl Common {
    pub(super) fn new() -> Self {
        Self {
            gate: Gate::new(),
            counts: Arc::default(),
            last_id: AtomicU64::new(0),
            tainted: AtomicBool::new(false),
            process: Process::current(),
        }
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
