//! Over how many workers requests are spread before they share one's batches, as a calibration found best.

use std::collections::HashMap;

#[derive(Default)]
pub(super) struct Spread {
    /// For 1, 2, 3 and more requests that run; empty: workers that have nothing to do always come first.
    workers_for: Vec<u32>,
    /// Of each worker.
    slots: u32,
    /// Requests that each worker had when it last looked for one, and what it took then.
    running: HashMap<u32, u32>,
}

impl Spread {
    pub(super) fn set(&mut self, workers_for: Vec<u32>, slots: u32) {
        (self.workers_for, self.slots) = (workers_for, slots);
    }

    /// A worker says how many it has.
    pub(super) fn has(&mut self, worker: u32, running: u32) {
        // Looked at before each token: nothing is noted for nobody.
        match running {
            _ if self.workers_for.is_empty() => return,
            0 => self.running.remove(&worker),
            _ => self.running.insert(worker, running),
        };
    }

    pub(super) fn takes(&mut self, worker: u32) {
        if !self.workers_for.is_empty() {
            *self.running.entry(worker).or_default() += 1;
        }
    }

    /// Whether one more request belongs to a worker that has some, and such a one has room.
    pub(super) fn is_for_busy(&self) -> bool {
        let Some(last) = self.workers_for.len().checked_sub(1) else { return false };
        let running: u32 = self.running.values().sum();
        let workers = self.workers_for[last.min(running as usize)];
        self.running.len() as u32 >= workers && self.running.values().any(|running| *running < self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_goes_to_who_has_some_once_there_are_enough_workers() {
        let mut spread = Spread::default();
        assert!(!spread.is_for_busy(), "nothing was measured");
        // Two apart, three and four together in one, more over both.
        spread.set(vec![1, 2, 1, 1, 2, 2], 4);
        assert!(!spread.is_for_busy(), "nobody has any");
        spread.takes(0);
        assert!(!spread.is_for_busy(), "the second has a worker of its own");
        spread.has(0, 2);
        assert!(spread.is_for_busy(), "the third is better beside the others");
        spread.has(0, 4);
        assert!(!spread.is_for_busy(), "there is no room");
        spread.takes(1);
        assert!(spread.is_for_busy());
        spread.has(1, 0);
        spread.has(0, 9);
        assert!(!spread.is_for_busy(), "more than were foreseen");
    }
}
