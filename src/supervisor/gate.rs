//! Who may still come in. Leases are counted here, and a drain waits here until nobody is left.

use crate::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// How often a drain looks whether the requests have ended. Their ends are told to their own events only; a lock that
/// all of them share would be in the way of every token.
const LOOK: Duration = Duration::from_millis(5);

/// Whether leases and requests may come in. Goes one way only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    Open,
    /// Who has a lease goes on, nobody else comes in.
    Draining,
    Closed,
}

pub(super) struct Gate {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    entry: Entry,
    leases: usize,
    left: Option<Left>,
}

/// What was left when a drain ended its wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub leases: usize,
    pub requests: u64,
}

impl Gate {
    pub(super) fn new() -> Self {
        let inner = Inner { entry: Entry::Open, leases: 0, left: None };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// One more lease, or why not.
    pub(super) fn enter(&self) -> Result<(), Entry> {
        let mut inner = self.inner.lock();
        match inner.entry {
            Entry::Open => inner.leases += 1,
            refused => return Err(refused),
        }
        Ok(())
    }

    /// A lease that had entered ends.
    pub(super) fn leave(&self) {
        let mut inner = self.inner.lock();
        debug_assert!(inner.leases > 0, "nobody leaves twice");
        inner.leases = inner.leases.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Closes it further, never less. True if that changed anything.
    pub(super) fn narrow(&self, to: Entry) -> bool {
        let mut inner = self.inner.lock();
        let narrower = to > inner.entry;
        if narrower {
            inner.entry = to;
            self.changed.notify_all();
        }
        narrower
    }

    /// How far it is open, and how many leases there are.
    pub(super) fn look(&self) -> (Entry, usize) {
        let inner = self.inner.lock();
        (inner.entry, inner.leases)
    }

    /// Waits until there is no lease and none of the `requests`, or `deadline` has passed, or it was closed. The first one
    /// to see that decides what was left, for all.
    pub(super) fn wait_empty(&self, deadline: Option<Instant>, requests: impl Fn() -> u64) -> Left {
        let mut inner = self.inner.lock();
        loop {
            if let Some(left) = inner.left {
                return left;
            }
            // Leases first: once there is none, no request can come in.
            let left = Left { leases: inner.leases, requests: requests() };
            let now = Instant::now();
            let over = inner.entry == Entry::Closed || deadline.is_some_and(|deadline| deadline <= now);
            if over || left == Left::default() {
                return *inner.left.insert(left);
            }
            let next = now + LOOK;
            self.changed.wait_until(&mut inner, deadline.map_or(next, |deadline| deadline.min(next)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Enter,
        Leave,
        Narrow(Entry),
    }

    fn step() -> impl Strategy<Value = Step> {
        let narrow = prop_oneof![Just(Entry::Open), Just(Entry::Draining), Just(Entry::Closed)];
        prop_oneof![20 => Just(Step::Enter), 15 => Just(Step::Leave), 1 => narrow.prop_map(Step::Narrow)]
    }

    proptest! {
        #[test]
        fn leases_are_those_that_entered_and_nobody_enters_once_it_drains(steps in prop::collection::vec(step(), 0..200)) {
            let (gate, mut inside, mut entry) = (Gate::new(), 0usize, Entry::Open);
            for step in steps {
                match step {
                    Step::Enter => {
                        prop_assert_eq!(gate.enter(), if entry == Entry::Open { Ok(()) } else { Err(entry) });
                        inside += usize::from(entry == Entry::Open);
                    }
                    Step::Leave if inside > 0 => {
                        gate.leave();
                        inside -= 1;
                    }
                    Step::Leave => {}
                    Step::Narrow(to) => {
                        prop_assert_eq!(gate.narrow(to), to > entry);
                        entry = entry.max(to);
                    }
                }
                prop_assert_eq!(gate.look(), (entry, inside));
            }
        }
    }

    #[test]
    fn a_wait_ends_when_the_last_one_leaves_and_all_waits_see_the_same() {
        let (gate, requests) = (Gate::new(), AtomicU64::new(1));
        gate.enter().unwrap();
        gate.narrow(Entry::Draining);
        std::thread::scope(|scope| {
            let wait = || gate.wait_empty(None, || requests.load(Ordering::SeqCst));
            let waits = [scope.spawn(wait), scope.spawn(wait)];
            std::thread::sleep(Duration::from_millis(20));
            gate.leave();
            std::thread::sleep(Duration::from_millis(20));
            assert!(waits.iter().all(|wait| !wait.is_finished()), "a request still runs");
            requests.store(0, Ordering::SeqCst);
            waits.into_iter().for_each(|wait| assert_eq!(wait.join().unwrap(), Left::default()));
        });
    }

    #[test]
    fn a_deadline_ends_the_wait_with_what_is_left() {
        let gate = Gate::new();
        gate.enter().unwrap();
        let left = gate.wait_empty(Some(Instant::now() + Duration::from_millis(10)), || 3);
        assert_eq!(left, Left { leases: 1, requests: 3 });
        gate.leave();
        assert_eq!(gate.wait_empty(None, || 0), left, "decided once");
    }
}
