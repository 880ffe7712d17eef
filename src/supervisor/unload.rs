//! Giving memory back while nothing runs, and loading again. Requests that come meanwhile wait in the queue.

use super::control::{Control, Load, Report, new_policy};
use super::shared::{Role, Shared, Stage};
use super::starts::Body;
use crate::error::Result;
use crate::native;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often `unload` looks whether nothing runs: requests tell their end to nobody but their own events.
const LOOK: Duration = Duration::from_millis(5);

impl Shared {
    /// Waits for a moment at which no request waits or runs, and gives memory back then. False: there was none until
    /// `deadline`, and it stays loaded.
    pub(super) fn unload(&self, deadline: Option<Instant>) -> Result<bool> {
        let mut phase = self.phase.lock();
        let before = phase.unloads;
        loop {
            match phase.stage {
                Stage::Unloaded => return Ok(true),
                // A request has loaded it again.
                _ if phase.unloads != before => return Ok(true),
                Stage::Failed(..) | Stage::Stopped => {
                    drop(phase);
                    return Err(self.unavailable());
                }
                // On its way, and nothing stops it any more.
                Stage::Unloading => self.phase_changed.wait(&mut phase),
                Stage::Starting | Stage::Running => {
                    let now = Instant::now();
                    if deadline.is_some_and(|deadline| deadline <= now) {
                        return Ok(false);
                    }
                    let _ = self.to_control.send(Report::Unload);
                    let next = now + LOOK;
                    self.phase_changed.wait_until(&mut phase, deadline.map_or(next, |deadline| deadline.min(next)));
                }
            }
        }
    }

    /// Begins to load again. Does nothing if it is loaded.
    pub(super) fn wake(&self) -> Result<()> {
        match self.load_if_unloaded() {
            true => Ok(()),
            false => Err(self.unavailable()),
        }
    }

    /// Loads what was to be loaded later.
    pub(super) fn load_now(&self) {
        let _ = self.to_control.send(Report::Load);
    }

    /// False: it has stopped or failed. For who queued a request, too: workers are sent home only while none waits.
    pub(super) fn load_if_unloaded(&self) -> bool {
        let mut phase = self.phase.lock();
        match phase.stage {
            Stage::Unloaded => {
                // From now on there is a load to wait for, and to cancel.
                phase.stage = Stage::Starting;
                let _ = self.to_control.send(Report::Load);
            }
            Stage::Unloading => drop(self.to_control.send(Report::Load)),
            Stage::Starting | Stage::Running => {}
            Stage::Failed(..) | Stage::Stopped => return false,
        }
        true
    }
}

/// Where the control thread stands with it.
pub(super) struct Unload {
    /// Workers were sent home, or never started, and it is not loaded yet.
    under_way: bool,
    /// Somebody wants it loaded as soon as that is done.
    load: bool,
    /// Files are compared before the next load: it is not the first one, or comes late.
    again: bool,
    /// When a request was seen last, and how many had come by then.
    busy: (Instant, u64),
}

impl Unload {
    pub(super) fn new(now: Instant, load: Load) -> Self {
        let later = load == Load::Later;
        Self { under_way: later, load: false, again: later, busy: (now, 0) }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    pub(super) fn is_again(&self) -> bool {
        self.again
    }
}

impl Control {
    /// Unless a request waits or runs, sends the workers home.
    pub(super) fn begin_unload(&mut self) {
        if self.stopping || self.loader.is_some() {
            return;
        }
        // Together under its lock: who queues a request afterwards sees the new stage, and has it loaded again.
        let mut phase = self.shared.phase.lock();
        let idle = || self.shared.telemetry.running() == 0;
        // On trial it is to be seen ready first.
        let may = matches!(phase.stage, Stage::Running) && phase.role != Role::Trial;
        if !may || !self.shared.queue.hold_if(idle) {
            return;
        }
        phase.stage = Stage::Unloading;
        drop(phase);
        self.shared.interrupt_calibration();
        self.unload.under_way = true;
        self.spare.iter().for_each(crate::remote::Handle::look);
        self.dead.extend(self.spare.take().map(Body::Child));
        tracing::info!(pool_id = self.shared.telemetry.identity.pool_id, "unloading");
    }

    /// Once the last worker has ended, frees the model.
    pub(super) fn finish_unload(&mut self) {
        // Threads of dead workers may still stand in the middle of its weights.
        let over = self.workers.iter().all(Option::is_none) && self.dead.iter().all(Body::is_over);
        if !self.unload.under_way || !self.loaded || self.stopping || !over {
            return;
        }
        self.dead.drain(..).for_each(Body::join);
        (self.model, self.loaded) = (None, false);
        native::return_free_memory();
        for worker in &self.shared.workers {
            worker.unloaded();
        }
        self.was_ready = false;
        self.policy = new_policy(&self.shared);
        self.publish();
        self.unload.again = true;
        tracing::info!(pool_id = self.shared.telemetry.identity.pool_id, "unloaded");
        {
            let mut phase = self.shared.phase.lock();
            self.shared.load_cancelled.store(false, Ordering::Relaxed);
            self.shared.loading(0.0);
            phase.unloads += 1;
            phase.stage = if self.unload.load { Stage::Starting } else { Stage::Unloaded };
            self.shared.phase_changed.notify_all();
        }
        if std::mem::take(&mut self.unload.load) {
            self.load_again();
        }
    }

    /// Loads again, now or as soon as the workers have ended.
    pub(super) fn load_again(&mut self) {
        if !self.unload.under_way || self.stopping {
            return;
        }
        if self.loaded {
            self.unload.load = true;
            return;
        }
        self.unload.under_way = false;
        self.unload.busy.0 = Instant::now();
        self.shared.queue.release();
        self.load();
    }

    /// When it will have been without a request for long enough.
    pub(super) fn unload_at(&self) -> Option<Instant> {
        let after = Duration::from_millis(self.shared.config.idle_unload_ms);
        let may = self.was_ready && !after.is_zero() && !self.unload.under_way && !self.stopping;
        may.then(|| self.unload.busy.0.checked_add(after)).flatten()
    }

    pub(super) fn unload_if_idle(&mut self) {
        let telemetry = &self.shared.telemetry;
        let (accepted, now) = (telemetry.came(), Instant::now());
        // What came and went between two looks counts as if it had ended at the second: late, never early.
        if accepted != self.unload.busy.1 || telemetry.running() > 0 || !self.was_ready {
            self.unload.busy = (now, accepted);
        } else if self.unload_at().is_some_and(|at| at <= now) {
            self.begin_unload();
            // If it could not be, not at once again.
            self.unload.busy.0 = now;
        }
    }
}
