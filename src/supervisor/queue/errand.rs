//! What a worker is asked to measure while it has nothing to do.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is measured: how long a decode of one token for each of so many streams takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measure {
    pub streams: u32,
    /// Most threads that compute.
    pub threads: u32,
}

/// Told the microseconds, or `None`: it was not done.
pub(crate) type Done = Box<dyn FnOnce(Option<u64>) + Send>;

/// A measurement on its way. Whatever becomes of it, whoever wants it is told once.
pub(crate) struct Errand {
    pub measure: Measure,
    wanted: Arc<AtomicBool>,
    done: Option<Done>,
}

impl Errand {
    /// `wanted` is taken back when something better is to be done.
    pub(crate) fn new(measure: Measure, wanted: Arc<AtomicBool>, done: Done) -> Self {
        Self { measure, wanted, done: Some(done) }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    pub(crate) fn answer(mut self, micros: Option<u64>) {
        if let Some(done) = self.done.take() {
            done(micros);
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(None);
        }
    }
}
