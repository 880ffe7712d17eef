//! Calibration: what one worker with all threads does, and workers side by side with their shares, measured while nothing runs.
//!
//! It is in steps, each of some milliseconds, and takes half a second in all; a request that comes ends the step that is under way, and
//! the rest is measured later. What a step needs of a worker is an errand in the queue, taken where no request waits, so that it is
//! done on either tier by the loop itself, in places of the cache that nobody uses.

use super::control::{Control, Report};
use super::gate::Entry;
use super::queue::{Errand, Measure};
use super::shared::{Role, Shared, Stage};
use crate::prepare::{PreparedEngine, Rate, Rates, store_rates};
use crate::sync::Mutex;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What all steps may take together; the last one may take longer by a decode.
const BUDGET: Duration = Duration::from_millis(500);
/// How long nothing must have run before a step, once a request has been seen.
const QUIET: Duration = Duration::from_millis(500);
/// How often a step is begun that a worker cannot do.
const MISSES: u32 = 8;
/// Batches that are tried out.
const BATCHES: [u32; 4] = [1, 2, 4, 8];

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum CalibrationState {
    /// Something is still to be measured, when nothing runs.
    Pending,
    /// It is being measured.
    Running,
    /// Requests are spread by what was measured.
    Done,
    /// A worker died of it, or there was no time for the least of it: requests go to workers that have none.
    GivenUp,
}

/// What was measured of workers, with [`Tuning::Auto`](crate::Tuning::Auto).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Calibration {
    /// See [`CalibrationState`].
    pub state: CalibrationState,
    /// It was measured by an earlier supervisor, see [`EngineConfig::tuning_cache`](crate::EngineConfig::tuning_cache).
    pub from_cache: bool,
    /// What was measured so far.
    pub rates: Vec<Rate>,
    /// For 1, 2, 3 and more requests that run, over how many workers they are spread; empty until it is done.
    pub spread: Vec<u32>,
}

/// A step that is under way.
struct Step {
    id: u64,
    measure: Measure,
    workers: u32,
    began: Instant,
    wanted: Arc<AtomicBool>,
    /// The answers that there are.
    answers: Vec<u64>,
}

struct Inner {
    state: CalibrationState,
    from_cache: bool,
    /// Workers and streams of each that are still to be measured; the next one last.
    plan: Vec<(u32, u32)>,
    step: Option<Step>,
    steps: u64,
    spent: Duration,
    /// How often in a row the next one could not be done.
    misses: u32,
    /// When the next step may begin.
    due: Instant,
    rates: Vec<Rate>,
    spread: Vec<u32>,
}

pub(super) struct Calibrator {
    threads: u32,
    inner: Mutex<Inner>,
}

/// What follows an answer.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The step goes on, or it is none that is waited for.
    Wait,
    /// Another step may begin.
    Step,
    /// All was measured for which there was time.
    Done,
}

/// In the order of what tells most.
fn plan(workers: u32, slots: u32) -> Vec<(u32, u32)> {
    // One, doubled as long as there are more, and all.
    let several = std::iter::successors(Some(2), |k| Some(k * 2)).take_while(|k| *k < workers).chain([workers]);
    let several: Vec<u32> = several.collect();
    let alone = BATCHES.into_iter().map(|streams| (1, streams));
    let first = [(1, 1), (workers, 1)];
    let together = BATCHES.into_iter().flat_map(|streams| several.iter().map(move |workers| (*workers, streams)));
    let mut plan: Vec<(u32, u32)> = vec![];
    for point in first.into_iter().chain(alone).chain(together) {
        // More streams side by side than are batched together are the same, only longer.
        if point.1 <= slots && point.0 * point.1 <= 2 * BATCHES[3] && !plan.contains(&point) {
            plan.push(point);
        }
    }
    plan.reverse();
    plan
}

impl Inner {
    /// Ends the step that is under way, to be begun again later.
    fn give_back(&mut self, now: Instant) -> bool {
        let Some(step) = self.step.take() else { return false };
        step.wanted.store(false, Ordering::Release);
        self.spent += now.saturating_duration_since(step.began);
        self.state = CalibrationState::Pending;
        self.due = self.due.max(now + QUIET);
        true
    }

    /// A worker could not do it: a request came, or its places hold what has to stay.
    fn missed(&mut self, now: Instant) -> Next {
        self.give_back(now);
        self.misses += 1;
        if self.misses == MISSES {
            (self.misses, _) = (0, self.plan.pop());
        }
        if self.is_over() { Next::Done } else { Next::Wait }
    }

    fn is_over(&self) -> bool {
        self.plan.is_empty() || self.spent >= BUDGET
    }
}

impl Calibrator {
    /// `None`: there is nothing to choose.
    pub(super) fn new(engine: &PreparedEngine) -> Option<Self> {
        let known = engine.rates().map(|rates| (rates.all().to_vec(), rates.spread(engine.workers(), engine.slots())));
        let (from_cache, (rates, spread)) = (known.is_some(), known.unwrap_or_default());
        if !from_cache && !engine.is_to_be_measured() {
            return None;
        }
        let state = if from_cache { CalibrationState::Done } else { CalibrationState::Pending };
        let inner = Inner {
            state,
            from_cache,
            plan: plan(engine.workers(), engine.slots()),
            step: None,
            steps: 0,
            spent: Duration::ZERO,
            misses: 0,
            due: Instant::now(),
            rates,
            spread,
        };
        Some(Self { threads: engine.threads(), inner: Mutex::new(inner) })
    }

    pub(super) fn look(&self) -> Calibration {
        let inner = self.inner.lock();
        let Inner { state, from_cache, .. } = *inner;
        Calibration { state, from_cache, rates: inner.rates.clone(), spread: inner.spread.clone() }
    }

    /// Begins a step, if one is due.
    fn begin(&self, now: Instant) -> Option<(u64, u32, Measure, Arc<AtomicBool>)> {
        let mut inner = self.inner.lock();
        if inner.state != CalibrationState::Pending || inner.due > now {
            return None;
        }
        let (workers, streams) = *inner.plan.last()?;
        inner.steps += 1;
        let (id, wanted) = (inner.steps, Arc::new(AtomicBool::new(true)));
        let measure = Measure { streams, threads: (self.threads / workers).max(1) };
        inner.step = Some(Step { id, measure, workers, began: now, wanted: wanted.clone(), answers: vec![] });
        inner.state = CalibrationState::Running;
        Some((id, workers, measure, wanted))
    }

    /// Something better is to be done. Whether a step was under way.
    fn interrupt(&self, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        inner.due = inner.due.max(now + QUIET);
        inner.give_back(now)
    }

    /// A worker answers. `None`: it could not.
    fn answered(&self, id: u64, micros: Option<u64>, now: Instant) -> Next {
        let mut inner = self.inner.lock();
        let Some(step) = inner.step.as_mut().filter(|step| step.id == id) else { return Next::Wait };
        match micros {
            // Zero is no time.
            Some(micros) => step.answers.push(micros.max(1)),
            None => return inner.missed(now),
        }
        if (step.answers.len() as u32) < step.workers {
            return Next::Wait;
        }
        let step = inner.step.take().expect("seen above");
        inner.spent += now.saturating_duration_since(step.began);
        inner.plan.pop();
        // The slowest: then each stream has its token.
        if let Some(step_us) = step.answers.into_iter().max() {
            inner.rates.push(Rate::new(step.workers, step.measure.streams, step_us));
        }
        (inner.state, inner.misses) = (CalibrationState::Pending, 0);
        if inner.is_over() { Next::Done } else { Next::Step }
    }

    /// Ends with what there is.
    fn finish(&self, engine: &PreparedEngine) -> Option<Rates> {
        let mut inner = self.inner.lock();
        let rates = Rates::new(inner.rates.clone());
        inner.spread = rates.spread(engine.workers(), engine.slots());
        let known = !inner.spread.is_empty();
        inner.state = if known { CalibrationState::Done } else { CalibrationState::GivenUp };
        known.then_some(rates)
    }

    /// A worker died. Of that, if it was measuring.
    fn died(&self) {
        let mut inner = self.inner.lock();
        if let Some(step) = inner.step.take() {
            step.wanted.store(false, Ordering::Release);
            inner.state = CalibrationState::GivenUp;
        }
    }

    fn due(&self) -> Option<Instant> {
        let inner = self.inner.lock();
        (inner.state == CalibrationState::Pending).then_some(inner.due)
    }
}

impl Shared {
    /// Ends a measurement that is under way: at once, in the middle of a decode.
    pub(super) fn interrupt_calibration(&self) {
        if let Some(calibrator) = &self.calibrator
            && calibrator.interrupt(Instant::now())
        {
            self.workers.iter().for_each(|worker| worker.stop_measuring());
        }
    }
}

impl Control {
    /// When there may be something to measure.
    pub(super) fn calibrate_at(&self) -> Option<Instant> {
        self.shared.calibrator.as_ref().filter(|_| self.was_ready && !self.stopping)?.due()
    }

    /// Begins to measure, if nothing runs and all workers are there.
    pub(super) fn calibrate(&mut self) {
        let (shared, now) = (&self.shared, Instant::now());
        let Some(calibrator) = &shared.calibrator else { return };
        let Some(due) = calibrator.due().filter(|due| *due <= now) else { return };
        if !self.is_quiet() {
            calibrator.inner.lock().due = due.max(now + QUIET);
            return;
        }
        if calibrator.inner.lock().is_over() {
            return self.end_calibration();
        }
        let Some((id, workers, measure, wanted)) = calibrator.begin(now) else { return };
        let errand = |worker: u32| {
            let reports = shared.to_control.clone();
            let done = move |micros| drop(reports.send(Report::Measured(id, micros)));
            (worker, Errand::new(measure, wanted.clone(), Box::new(done)))
        };
        shared.queue.measure((0..workers).map(errand).collect());
    }

    fn is_quiet(&self) -> bool {
        let shared = &self.shared;
        let ready = shared.workers.iter().all(|worker| worker.is_settled()) && shared.role() == Role::Current;
        let stays = !self.stopping && !self.unload.is_under_way() && shared.common.gate.look().0 == Entry::Open;
        ready && stays && shared.telemetry.running() == 0 && matches!(shared.phase.lock().stage, Stage::Running)
    }

    pub(super) fn measured(&mut self, id: u64, micros: Option<u64>) {
        let Some(calibrator) = &self.shared.calibrator else { return };
        match calibrator.answered(id, micros, Instant::now()) {
            Next::Wait => {}
            Next::Step => self.calibrate(),
            Next::Done => self.end_calibration(),
        }
    }

    /// Requests are spread by what was measured from now on, and that is kept.
    fn end_calibration(&self) {
        let shared = &self.shared;
        let Some(calibrator) = &shared.calibrator else { return };
        let Some(rates) = calibrator.finish(&shared.prepared) else { return };
        let (spread, pool_id) = (calibrator.look().spread, &shared.telemetry.identity.pool_id);
        tracing::info!(pool_id, ?spread, rates = ?rates.all(), "calibrated");
        shared.queue.spread(spread, shared.prepared.slots());
        if let Err(error) = store_rates(&shared.prepared, &rates) {
            tracing::warn!(pool_id, %error, "what was measured could not be kept in tuning_cache");
        }
    }

    /// A worker died: nothing more is measured if it did of that.
    pub(super) fn calibration_died(&self) {
        if let Some(calibrator) = &self.shared.calibrator {
            calibrator.died();
            self.shared.workers.iter().for_each(|worker| worker.stop_measuring());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibrator(workers: u32, slots: u32) -> Calibrator {
        let inner = Inner {
            state: CalibrationState::Pending,
            from_cache: false,
            plan: plan(workers, slots),
            step: None,
            steps: 0,
            spent: Duration::ZERO,
            misses: 0,
            due: Instant::now(),
            rates: vec![],
            spread: vec![],
        };
        Calibrator { threads: 4, inner: Mutex::new(inner) }
    }

    #[test]
    fn what_tells_most_is_measured_first_and_no_more_than_there_are_slots() {
        let order = |workers, slots| plan(workers, slots).into_iter().rev().collect::<Vec<_>>();
        assert_eq!(order(2, 1), [(1, 1), (2, 1)]);
        assert_eq!(order(2, 4), [(1, 1), (2, 1), (1, 2), (1, 4), (2, 2), (2, 4)]);
        assert_eq!(order(3, 2), [(1, 1), (3, 1), (1, 2), (2, 1), (2, 2), (3, 2)]);
        assert_eq!(order(4, 8).len(), 4 + 4 + 3);
    }

    #[test]
    fn a_step_ends_when_all_have_answered_and_an_answer_that_is_late_counts_for_nothing() {
        let (calibrator, now) = (calibrator(2, 1), Instant::now());
        let (id, workers, measure, _) = calibrator.begin(now).unwrap();
        assert_eq!((workers, measure), (1, Measure { streams: 1, threads: 4 }));
        assert!(calibrator.begin(now).is_none(), "one at a time");
        assert_eq!(calibrator.answered(id, Some(10), now), Next::Step);
        let (id, workers, measure, _) = calibrator.begin(now).unwrap();
        assert_eq!((workers, measure.threads), (2, 2), "a share each");
        assert_eq!(calibrator.answered(id - 1, Some(1), now), Next::Wait);
        assert_eq!(calibrator.answered(id, Some(11), now), Next::Wait);
        assert_eq!(calibrator.answered(id, Some(12), now), Next::Done);
        assert_eq!(calibrator.look().rates, [Rate::new(1, 1, 10), Rate::new(2, 1, 12)]);
    }

    #[test]
    fn who_interrupts_takes_it_back_and_it_begins_again_after_a_while() {
        let (calibrator, now) = (calibrator(2, 1), Instant::now());
        assert!(!calibrator.interrupt(now), "nothing was under way");
        let now = now + QUIET;
        let (id, _, _, wanted) = calibrator.begin(now).unwrap();
        assert!(calibrator.interrupt(now) && !wanted.load(Ordering::Relaxed));
        assert_eq!(calibrator.answered(id, Some(9), now), Next::Wait);
        assert!(calibrator.begin(now).is_none() && calibrator.begin(now + QUIET).is_some());
        calibrator.died();
        assert_eq!(calibrator.look().state, CalibrationState::GivenUp);
        assert!(calibrator.begin(now + QUIET).is_none());
    }

    #[test]
    fn it_ends_when_its_time_is_used_up() {
        let (calibrator, now) = (calibrator(2, 8), Instant::now());
        let (id, ..) = calibrator.begin(now).unwrap();
        assert_eq!(calibrator.answered(id, Some(10), now + BUDGET), Next::Done);
    }
}
