//! Whether a line that llamapen logs comes to whoever is to read it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::subscriber::NoSubscriber;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// There is no subscriber for llamapen's threads.
    NoSubscriber,
    /// It wants no lines of this level.
    Filtered,
    /// It took the line.
    Taken,
    /// And wrote what is in it.
    Read,
    Panicked,
}

/// A field that knows whether it was written.
struct Probe(AtomicBool);

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.store(true, Ordering::Relaxed);
        f.write_str("self-test")
    }
}

/// Logs a line as any other of llamapen's.
pub(crate) fn emit(pool_id: &str) -> Seen {
    if tracing::dispatcher::get_default(|subscriber| subscriber.is::<NoSubscriber>()) {
        return Seen::NoSubscriber;
    }
    let probe = Probe(AtomicBool::new(false));
    let logged = || {
        tracing::info!(pool_id, ?probe, "a line of the self-test");
        tracing::event_enabled!(tracing::Level::INFO)
    };
    match catch_unwind(AssertUnwindSafe(logged)) {
        _ if probe.0.load(Ordering::Relaxed) => Seen::Read,
        Ok(true) => Seen::Taken,
        Ok(false) => Seen::Filtered,
        Err(_) => Seen::Panicked,
    }
}

impl Seen {
    pub(super) fn judge(self) -> Result<String, String> {
        match self {
            Self::NoSubscriber => Ok("no subscriber".into()),
            Self::Filtered => Ok("a subscriber, which takes no lines of level INFO of llamapen".into()),
            Self::Taken => Ok("a subscriber took a line, and did not read its fields".into()),
            Self::Read => Ok("a subscriber read a line".into()),
            Self::Panicked => Err("the subscriber panicked when it was given a line".into()),
        }
    }
}
