//! The host's end of a child: the way to it, where it stands, and why it is over. Shared by the threads of its stand-in and by
//! who cancels requests that it runs.

use super::message::ToChild;
use crate::crash::CrashReason;
use crate::isolation::child::Launched;
use crate::isolation::ipc::{Blob, IpcError, Outbox};
use crate::supervisor::Errand;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::worker::{Snapshot, WorkerFault};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It is being started, or loads.
    Starting,
    /// It has loaded the model, and makes its context.
    Loaded,
    Ready,
    /// Its process is gone.
    Over,
}

pub(crate) struct Link {
    connected: OnceLock<(Outbox, Arc<Launched>)>,
    standing: Mutex<Standing>,
    changed: Condvar,
}

pub(super) struct Standing {
    pub phase: Phase,
    /// It has said who it is.
    pub greeted: bool,
    /// Why it is ended by force.
    pub why: Option<WorkerFault>,
    /// What it said last: that it ends, in order or not.
    pub said: Option<Result<(), WorkerFault>>,
    /// Its end was told, or is about to be.
    pub told: bool,
    /// What it said was heard to the end.
    pub heard_out: bool,
    /// It was told to end.
    pub sent_home: bool,
    /// What it measures, for whoever wants to know.
    pub errand: Option<Errand>,
    /// Of the requests that it runs.
    pub handed: HashMap<u64, Handed>,
}

/// What is kept here of a request that was handed to it.
pub(super) struct Handed {
    /// Its place in the queue.
    pub position: u32,
    /// Its snapshot, until it is known to be good.
    pub lent: Option<Snapshot>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            connected: OnceLock::new(),
            standing: Mutex::new(Standing {
                phase: Phase::Starting,
                greeted: false,
                why: None,
                said: None,
                told: false,
                heard_out: false,
                sent_home: false,
                errand: None,
                handed: HashMap::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// It was started. Whoever has condemned it meanwhile found nothing to kill.
    pub(super) fn connect(&self, outbox: Outbox, launched: Arc<Launched>) {
        if self.connected.set((outbox, launched)).is_ok() && self.standing().why.is_some() {
            self.kill();
        }
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock()
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.standing().phase = phase;
        self.tell_change();
    }

    pub(super) fn tell_change(&self) {
        self.changed.notify_all();
    }

    /// Until something may have changed, or for so long.
    pub(super) fn wait(&self, mut standing: MutexGuard<'_, Standing>, at_most: Duration) {
        self.changed.wait_until(&mut standing, Instant::now() + at_most);
    }

    /// Waits for its end, at most so long.
    pub(super) fn is_over_within(&self, at_most: Duration) -> bool {
        self.is_within(at_most, |standing| standing.phase == Phase::Over)
    }

    /// The same for the end of what it said.
    pub(super) fn is_heard_out_within(&self, at_most: Duration) -> bool {
        self.is_within(at_most, |standing| standing.heard_out)
    }

    fn is_within(&self, at_most: Duration, is: impl Fn(&Standing) -> bool) -> bool {
        let deadline = Instant::now() + at_most;
        let mut standing = self.standing();
        while !is(&standing) && !self.changed.wait_until(&mut standing, deadline) {}
        is(&standing)
    }

    /// Never waits: what the socket does not take is sent by [`flush`](Self::flush). Of an error that comes of the child's end
    /// nothing is said here: the end of what it says tells it.
    ///
    /// # Errors
    /// Why such a message cannot be sent to any child.
    pub(super) fn send(&self, message: &ToChild, blob: Option<&Blob>) -> Result<(), IpcError> {
        let Some((outbox, _)) = self.connected.get() else { return Ok(()) };
        match outbox.send(message, blob) {
            Err(IpcError::Full { .. }) => {
                self.condemn(WorkerFault::new(CrashReason::Protocol, "it does not read what it is sent"));
                Ok(())
            }
            Err(error) if error.is_of_the_message() => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends what was left. False: something still is.
    pub(super) fn flush(&self) -> bool {
        self.connected.get().is_none_or(|(outbox, _)| outbox.flush().unwrap_or(true))
    }

    /// The request has ended. For any thread of the host's.
    pub(crate) fn cancel(&self, id: u64) {
        let _ = self.send(&ToChild::Cancel { id }, None);
    }

    /// What it measures is not wanted any more.
    pub(crate) fn stop_measuring(&self) {
        let _ = self.send(&ToChild::StopMeasuring, None);
    }

    /// How many threads it is to compute with from now on. Holds no lock: it is called under others.
    pub(crate) fn tell_share(&self, threads: u32) {
        if let Some((outbox, _)) = self.connected.get() {
            // One that does not read is found by what matters more.
            let _ = outbox.send(&ToChild::Threads(threads), None);
        }
    }

    /// Ends it by force, because of this.
    pub(super) fn condemn(&self, why: WorkerFault) {
        self.standing().why.get_or_insert(why);
        self.kill();
        self.tell_change();
    }

    pub(super) fn kill(&self) {
        if let Some((_, launched)) = self.connected.get() {
            launched.child.kill();
        }
    }

    /// SIGTERM, and after so long SIGKILL.
    pub(super) fn terminate(&self, grace: Duration) {
        if let Some((_, launched)) = self.connected.get() {
            launched.child.terminate(grace);
        }
    }
}
