//! Another engine in the place of the one that runs: beside it where memory allows, else after it. Whatever goes wrong, one
//! of the two runs afterwards.

use super::control::{self, Load, Report};
use super::drain::check_may_wait;
use super::gate::Entry;
use super::pool::Pool;
use super::shared::{REPLACED, Role, Shared, Stop, fail_all};
use crate::config::TaintPolicy;
use crate::error::{Error, Result};
use crate::event::Failed;
use crate::job::Job;
use crate::machine::MemoryReading;
use crate::prepare::PreparedEngine;
use crate::status::Status;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often it looks whether the requests of the old engine have ended.
const LOOK: Duration = Duration::from_millis(5);

/// How a [`reload`](super::Supervisor::reload) went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReloadReport {
    /// Another engine runs now. False: it was given the one that runs, and nothing was done.
    pub changed: bool,
    /// The old engine went on until the new one was ready. False: there was no memory for both, or nothing was done.
    pub beside: bool,
    /// Milliseconds from the call until the old engine was gone.
    pub duration_ms: u64,
    /// Requests of the old engine that were left at the deadline, and ended with `Failed` and `DRAINING`.
    pub requests_failed: u64,
}

/// One reload at a time.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(reloading: &'a AtomicBool) -> Result<Self> {
        match reloading.swap(true, Ordering::AcqRel) {
            false => Ok(Self(reloading)),
            true => Err(Error::Busy("another thread reloads this supervisor; wait until its call returns")),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Pool {
    pub(super) fn reload(&self, engine: PreparedEngine, timeout: Option<Duration>) -> Result<ReloadReport> {
        self.check_process()?;
        check_may_wait("reload")?;
        self.check_open()?;
        let _turn = Turn::take(&self.reloading)?;
        let began = Instant::now();
        self.common.check_isolation(&engine)?;
        engine.verify()?;
        let old = self.current();
        if old.prepared.is_same_plan(&engine) {
            return Ok(ReloadReport { changed: false, beside: false, duration_ms: 0, requests_failed: 0 });
        }
        // The old one's workers may be processes, which need no handlers here.
        super::contain_faults(&engine, &self.config);
        let beside = engine.memory().fits_beside(old.prepared.memory(), MemoryReading::now().free_bytes());
        let new = Arc::new(Shared::new(engine, self.config.clone(), &self.common, Role::Trial)?);
        let (from, to) = (&old.telemetry.identity, &new.telemetry.identity);
        tracing::info!(
            pool_id = from.pool_id,
            model_id = from.model_id,
            to_model_id = to.model_id,
            beside,
            "reload begins"
        );
        let done = match beside {
            true => self.reload_beside(&old, &new, timeout),
            false => self.reload_after(&old, &new, timeout),
        };
        // It was not before, or the supervisor would not have been open.
        let done = match self.common.taint == TaintPolicy::Stop && self.common.is_tainted() {
            true => Err(self.give_up_tainted()),
            false => done,
        };
        let current = self.current();
        let pool_id = &current.telemetry.identity.pool_id;
        match done {
            Ok(requests_failed) => {
                let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let report = ReloadReport { changed: true, beside, duration_ms, requests_failed };
                tracing::info!(pool_id, ?report, "reloaded");
                Ok(report)
            }
            Err(error) => {
                tracing::warn!(pool_id, status = %error.status(), last_error = %error, "reload failed");
                Err(error)
            }
        }
    }

    /// The old engine serves until the new one is ready. Gives how many requests were left at the end.
    fn reload_beside(&self, old: &Arc<Shared>, new: &Arc<Shared>, timeout: Option<Duration>) -> Result<u64> {
        {
            let mut runs = self.runs.lock();
            self.check_gate()?;
            runs.other = Some(new.clone());
        }
        let ready = control::start(new, Load::Now).and_then(|()| is_ready(new, timeout));
        let ready = ready.and_then(|()| {
            let mut runs = self.runs.lock();
            self.check_gate()?;
            if !new.passes_trial() {
                return Err(not_ready(new, None));
            }
            old.set_role(Role::Retired);
            old.queue.move_on();
            runs.current = new.clone();
            runs.other = Some(old.clone());
            self.runs_changed.notify_all();
            Ok(())
        });
        match ready {
            Ok(()) => {
                new.show_handoff();
                // Of the same name, it is the new one's by now.
                old.handoff.end();
                let left = old.finish(deadline(timeout));
                self.part_with(old);
                Ok(left)
            }
            Err(error) => {
                self.part_with(new);
                Err(explain(error, "the old engine goes on as before"))
            }
        }
    }

    /// The old engine's memory is needed for the new one. What comes meanwhile waits for whichever comes up.
    fn reload_after(&self, old: &Arc<Shared>, new: &Arc<Shared>, timeout: Option<Duration>) -> Result<u64> {
        // Its control thread sees to the limits of what waits.
        control::start(new, Load::Later)?;
        *new.rival.lock() = Some(old.prepared.clone());
        let open = {
            let mut runs = self.runs.lock();
            self.check_gate().map(|()| {
                old.set_role(Role::Retired);
                old.queue.move_on();
                runs.current = new.clone();
                runs.other = Some(old.clone());
                self.runs_changed.notify_all();
            })
        };
        if let Err(error) = open {
            new.stop(Stop::Replaced);
            return Err(error);
        }
        old.handoff.withdraw();
        let left = old.finish(deadline(timeout));
        // It keeps what it is, but for its memory. An error: it has failed on the way, or was stopped.
        let _ = old.unload(None);
        new.load_now();
        let ready = is_ready(new, timeout).and_then(|()| match new.passes_trial() {
            true => Ok(()),
            false => Err(not_ready(new, None)),
        });
        match ready {
            Ok(()) => {
                self.tell_change();
                new.show_handoff();
                self.part_with(old);
                Ok(left)
            }
            Err(error) => Err(self.go_back(old, new, error)),
        }
    }

    /// Brings the old engine back, with what has waited for the new one.
    fn go_back(&self, old: &Arc<Shared>, new: &Arc<Shared>, error: Error) -> Error {
        if old.is_over() || self.common.gate.look().0 == Entry::Closed {
            // If it is only late, it goes on and becomes ready yet.
            new.fails_trial();
            self.tell_change();
            new.show_handoff();
            self.part_with(old);
            return explain(error, "the old engine has failed meanwhile, too");
        }
        // Its memory first. On trial, it keeps what waits.
        new.stop(Stop::Replaced);
        let begun = {
            let mut runs = self.runs.lock();
            old.set_role(Role::Current);
            // A worker of the new engine died of some before that was decided: no other engine can go on with them.
            let (begun, waiting) =
                new.queue.move_out().into_iter().partition(|job| job.events.progress().started.is_some());
            old.adopt(waiting);
            if self.common.gate.look().0 != Entry::Open {
                old.queue.drain();
            }
            runs.current = old.clone();
            runs.other = None;
            self.runs_changed.notify_all();
            begun
        };
        fail_all(
            begun,
            Status::WorkerReset,
            "its worker failed, and the engine is another one again: the reload failed",
        );
        old.handoff.withdraw();
        old.show_handoff();
        let back = old.wake().and_then(|()| old.wait_ready(None));
        match back {
            Ok(_) => explain(error, "the old engine runs again"),
            Err(then) => explain(error, &format!("the old engine did not come back: {then}")),
        }
    }

    /// Nobody knows what a memory fault of one engine has written to in the other.
    fn give_up_tainted(&self) -> Error {
        let message = "an engine had a memory fault during the reload. Memory of the process may be damaged, so this supervisor stopped; restart the process, or set taint to \"continue\"";
        self.current().give_up(Status::WorkerReset, message);
        Error::Load { status: Status::WorkerReset, message: message.into() }
    }

    /// Ends an engine that is not the current one.
    fn part_with(&self, run: &Arc<Shared>) {
        run.stop(Stop::Replaced);
        self.runs.lock().other = None;
    }

    /// That a trial was decided. With the lock: who has just looked is waiting by now.
    fn tell_change(&self) {
        let _runs = self.runs.lock();
        self.runs_changed.notify_all();
    }

    /// As `check_open`, under the lock of what runs.
    fn check_gate(&self) -> Result<()> {
        match self.common.gate.look().0 {
            Entry::Open => Ok(()),
            Entry::Draining => Err(super::lease::draining().into()),
            Entry::Closed => Err(Error::Unavailable("it was stopped, or gave up, during the reload".into())),
        }
    }
}

/// Why there is no new engine, and what there is. That the supervisor drains or stops says enough.
fn explain(error: Error, now: &str) -> Error {
    if let Error::Rejected(_) | Error::Unavailable(_) = error {
        return error;
    }
    let (status, problem) = (error.status(), error.to_string());
    Error::Load { status, message: format!("the reload failed, and {now}. The new engine: {problem}") }
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

fn is_ready(new: &Shared, timeout: Option<Duration>) -> Result<()> {
    match new.wait_ready(deadline(timeout))? {
        true => Ok(()),
        false => Err(not_ready(new, timeout)),
    }
}

fn not_ready(new: &Shared, timeout: Option<Duration>) -> Error {
    match (new.wait_ready(Some(Instant::now())), timeout) {
        (Err(error), _) => error,
        (Ok(_), timeout) => {
            let ms = timeout.unwrap_or_default().as_millis();
            Error::Load { status: Status::PoolUnready, message: format!("it was not ready within {ms} ms") }
        }
    }
}

impl Shared {
    /// Has it fail for good. Returns when it has, or has stopped.
    fn give_up(&self, status: Status, message: &str) {
        let _ = self.to_control.send(Report::GiveUp(status, message.into()));
        while !self.is_over() {
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until all requests that came to it have ended, and ends them at the deadline. Gives how many those were.
    fn finish(&self, deadline: Option<Instant>) -> u64 {
        let mut left = 0;
        while self.telemetry.running() > 0 && !self.is_over() {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                // One on its way from the queue to a slot is found by the next look.
                let waiting = self.queue.take();
                let running = self.workers.iter().flat_map(|worker| worker.jobs());
                let ends = |job: &Arc<Job>| job.fail(Failed::new(Status::Draining, REPLACED));
                left += waiting.into_iter().chain(running).filter(ends).count();
            }
            std::thread::sleep(LOOK);
        }
        left as u64
    }
}
