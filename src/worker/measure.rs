//! Errands: how long a decode of some streams takes, tried out in places of the cache that nobody uses.

use super::batching::Loop;
use super::{Ended, WorkerState};
use crate::native::{Kernels, NativeStatus};
use crate::remote::Link;
use crate::supervisor::Errand;
use crate::sync::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long decodes are timed.
const WINDOW: Duration = Duration::from_millis(40);
/// Positions that a stream is given at most.
const STEPS: u32 = 64;

/// Who measures, for whom it is to end.
#[derive(Default)]
pub(super) enum Measuring {
    #[default]
    Nobody,
    /// This process' worker.
    Here,
    /// A child, which is told.
    Child(Arc<Link>),
}

impl WorkerState {
    /// A measurement begins: [`stop_measuring`](Self::stop_measuring) ends its decode.
    fn measures_here(&self) {
        *self.measuring().lock() = Measuring::Here;
    }

    /// The same in a child.
    pub(crate) fn measures_in(&self, child: Arc<Link>) {
        *self.measuring().lock() = Measuring::Child(child);
    }

    /// It is over, and no decode is ended for it any more.
    pub(crate) fn has_measured(&self) {
        let mut measuring = self.measuring().lock();
        if matches!(std::mem::take(&mut *measuring), Measuring::Here) {
            self.piece_is_over();
        }
    }

    /// Ends a measurement that is under way, in the middle of a decode.
    pub(crate) fn stop_measuring(&self) {
        let measuring: &Mutex<Measuring> = self.measuring();
        match &*measuring.lock() {
            Measuring::Nobody => {}
            Measuring::Here => self.abort_piece(),
            Measuring::Child(child) => child.stop_measuring(),
        }
    }
}

impl Loop<'_> {
    /// Does an errand. Called while no slot runs.
    pub(super) fn measure(&mut self, errand: Errand) -> Result<(), Ended> {
        let state = self.worker.state.clone();
        state.tries(self.worker.life, true);
        state.measures_here();
        let measured = self.time(&errand);
        state.has_measured();
        state.tries(self.worker.life, false);
        errand.answer(measured?);
        Ok(())
    }

    /// Microseconds of a decode; `None`: something better is to be done, or there is no room.
    fn time(&mut self, errand: &Errand) -> Result<Option<u64>, Ended> {
        let slots = 0..errand.measure.streams;
        // After what they hold, which is there afterwards.
        let mut first = vec![];
        for slot in slots.clone() {
            let held = self.cache.tokens(slot as usize).len() as u32;
            let fits = held + STEPS < self.worker.prepared.n_ctx() && slot < self.worker.prepared.slots();
            if !fits || held > 0 && !self.context.is_whole(slot)? {
                return Ok(None);
            }
            first.push(held);
        }
        let timed = self.time_decodes(errand, &first);
        for slot in slots {
            self.cache.rewind(&mut self.context, slot as usize)?;
        }
        match timed {
            Err(Ended::Aborted) if !self.worker.state.is_aborted() => Ok(None),
            timed => timed,
        }
    }

    fn time_decodes(&mut self, errand: &Errand, first: &[u32]) -> Result<Option<u64>, Ended> {
        #[cfg(feature = "fault-injection")]
        super::fault::before_measuring();
        let token = self.worker.some_token();
        let (began, mut took) = (Instant::now(), vec![]);
        for step in 0..STEPS {
            if !errand.is_wanted() {
                return Ok(None);
            }
            self.batch.clear();
            for (slot, first) in first.iter().enumerate() {
                self.batch.push(token, first + step, slot as u32, true);
            }
            self.context.compute_with(self.worker.state.cores().share().min(errand.measure.threads));
            let start = Instant::now();
            match self.context.decode(&self.batch, Kernels::PerToken) {
                Ok(()) => self.worker.state.beat(),
                Err(e) if matches!(e.status, NativeStatus::NoKvSlot | NativeStatus::Failed) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
            took.push(start.elapsed());
            if began.elapsed() >= WINDOW {
                break;
            }
        }
        // The first one of a shape builds its graph, and others may have met a busy machine.
        took.sort_unstable();
        Ok(u64::try_from(took[took.len() / 2].as_micros()).ok())
    }
}
