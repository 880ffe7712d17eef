//! In which order waiting requests are taken, and which one gives way when there is no place. Pure.

use crate::config::QueueFullPolicy;
use crate::request::Priority;
use std::collections::VecDeque;

/// So many interactive ones are taken in a row while a batch one waits; the next one taken is of batch.
pub(super) const INTERACTIVE_IN_A_ROW: usize = 8;

/// Two classes, first in first out in each, interactive before batch.
pub(super) struct Order<T> {
    capacity: usize,
    interactive: VecDeque<T>,
    batch: VecDeque<T>,
    /// Interactive ones taken since the last of batch, while one of batch waited.
    in_a_row: usize,
}

/// There is no place, and nobody may be dropped for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<T> Order<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, interactive: VecDeque::new(), batch: VecDeque::new(), in_a_row: 0 }
    }

    /// Sees to a place for one more. Gives what was dropped for it.
    pub(super) fn make_room(&mut self, policy: QueueFullPolicy) -> Result<Option<T>, Full> {
        if self.len() < self.capacity {
            return Ok(None);
        }
        match policy {
            QueueFullPolicy::Reject => Err(Full),
            // `in_a_row` stays: a batch class that is dropped from all the time must not wait anew each time.
            QueueFullPolicy::DropOldestBatch => self.batch.pop_front().map(Some).ok_or(Full),
        }
    }

    /// How many would be taken before one that came now, if nothing came after it.
    pub(super) fn position(&self, priority: Priority) -> usize {
        let (interactive, batch) = (self.interactive.len(), self.batch.len());
        match priority {
            // One of batch goes first whenever the row is full.
            Priority::Interactive => interactive + batch.min((self.in_a_row + interactive) / INTERACTIVE_IN_A_ROW),
            // Its turn is the one after those of the batch before it; each turn lets a row pass.
            Priority::Batch => batch + interactive.min((batch + 1) * INTERACTIVE_IN_A_ROW - self.in_a_row),
        }
    }

    /// Puts one at the end of its class. The caller has made room.
    pub(super) fn push(&mut self, priority: Priority, item: T) {
        match priority {
            Priority::Interactive => self.interactive.push_back(item),
            Priority::Batch => self.batch.push_back(item),
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        if self.batch.is_empty() {
            self.in_a_row = 0;
            return self.interactive.pop_front();
        }
        if self.in_a_row < INTERACTIVE_IN_A_ROW
            && let Some(item) = self.interactive.pop_front()
        {
            self.in_a_row += 1;
            return Some(item);
        }
        self.in_a_row = 0;
        self.batch.pop_front()
    }

    /// What [`pop`](Self::pop) would give.
    pub(super) fn peek(&self) -> Option<&T> {
        let row_is_full = self.in_a_row >= INTERACTIVE_IN_A_ROW && !self.batch.is_empty();
        match self.interactive.front().filter(|_| !row_is_full) {
            None => self.batch.front(),
            first => first,
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.interactive.retain(&keep);
        self.batch.retain(&keep);
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.interactive.drain(..).chain(self.batch.drain(..))
    }

    pub(super) fn len(&self) -> usize {
        self.interactive.len() + self.batch.len()
    }

    /// Those of interactive, and those of batch.
    pub(super) fn lens(&self) -> (usize, usize) {
        (self.interactive.len(), self.batch.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Item {
        priority: Priority,
        id: usize,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Priority),
        Pop,
        /// Cancels one of those that were pushed so far.
        Cancel(prop::sample::Index),
    }

    fn priority() -> impl Strategy<Value = Priority> {
        prop_oneof![3 => Just(Priority::Interactive), 1 => Just(Priority::Batch)]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = priority().prop_map(Step::Push);
        let cancel = any::<prop::sample::Index>().prop_map(Step::Cancel);
        prop::collection::vec(prop_oneof![6 => push, 5 => Just(Step::Pop), 1 => cancel], 0..300)
    }

    fn policy() -> impl Strategy<Value = QueueFullPolicy> {
        prop_oneof![Just(QueueFullPolicy::Reject), Just(QueueFullPolicy::DropOldestBatch)]
    }

    /// Everything that left the queue, and how long the batch class has been passed over.
    #[derive(Default)]
    struct Seen {
        next: usize,
        popped: Vec<Item>,
        gone: Vec<usize>,
        passed_over: usize,
    }

    impl Seen {
        fn push(&mut self, order: &mut Order<Item>, policy: QueueFullPolicy, priority: Priority) {
            let (before, oldest) = (order.lens(), order.batch.front().copied());
            match order.make_room(policy) {
                Ok(None) => assert!(before.0 + before.1 < order.capacity),
                Ok(Some(dropped)) => {
                    assert_eq!((policy, Some(dropped)), (QueueFullPolicy::DropOldestBatch, oldest));
                    self.gone.push(dropped.id);
                }
                Err(Full) => {
                    assert_eq!(before.0 + before.1, order.capacity);
                    return assert!(policy == QueueFullPolicy::Reject || before.1 == 0);
                }
            }
            order.push(priority, Item { priority, id: self.next });
            self.next += 1;
            assert!(order.len() <= order.capacity);
        }

        fn pop(&mut self, order: &mut Order<Item>) {
            let (interactive, batch) = order.lens();
            let next = order.peek().copied();
            let popped = order.pop();
            assert_eq!(next, popped);
            if batch == 0 {
                // Nobody of it was passed over; who comes later begins anew.
                self.passed_over = 0;
            }
            let Some(item) = popped else { return assert_eq!((interactive, batch), (0, 0)) };
            if item.priority == Priority::Batch && interactive > 0 {
                let row = self.popped.iter().rev().take_while(|item| item.priority == Priority::Interactive);
                assert!(row.count() >= INTERACTIVE_IN_A_ROW, "batch goes first only after a whole row");
            }
            let passed = item.priority == Priority::Interactive && batch > 0;
            self.passed_over = if passed { self.passed_over + 1 } else { 0 };
            assert!(self.passed_over <= INTERACTIVE_IN_A_ROW, "batch starves");
            self.popped.push(item);
        }
    }

    proptest! {
        #[test]
        fn bounded_fair_and_first_in_first_out_in_each_class(capacity in 1..24usize, policy in policy(), steps in steps()) {
            let (mut order, mut seen) = (Order::new(capacity), Seen::default());
            for step in steps {
                match step {
                    Step::Push(priority) => seen.push(&mut order, policy, priority),
                    Step::Pop => seen.pop(&mut order),
                    Step::Cancel(index) if seen.next > 0 => {
                        let (id, before) = (index.index(seen.next), order.len());
                        order.retain(|item| item.id != id);
                        if order.len() < before {
                            seen.gone.push(id);
                        }
                    }
                    Step::Cancel(_) => {}
                }
            }
            while order.len() > 0 {
                seen.pop(&mut order);
            }
            for class in [Priority::Interactive, Priority::Batch] {
                let ids: Vec<_> = seen.popped.iter().filter(|i| i.priority == class).map(|i| i.id).collect();
                prop_assert!(ids.is_sorted(), "{class:?}: {ids:?}");
            }
            // Nothing is lost, nothing comes twice.
            let mut all: Vec<_> = seen.popped.iter().map(|item| item.id).chain(seen.gone).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..seen.next).collect::<Vec<_>>());
        }

        #[test]
        fn the_position_is_how_many_are_taken_before_it(steps in steps(), last in priority()) {
            let (mut order, mut seen) = (Order::new(usize::MAX), Seen::default());
            for step in steps {
                match step {
                    Step::Push(priority) => seen.push(&mut order, QueueFullPolicy::Reject, priority),
                    _ => seen.pop(&mut order),
                }
            }
            let position = order.position(last);
            order.push(last, Item { priority: last, id: usize::MAX });
            let before = std::iter::from_fn(|| order.pop()).take_while(|item| item.id != usize::MAX).count();
            prop_assert_eq!(position, before);
        }
    }

    #[test]
    fn a_batch_class_that_is_always_dropped_from_has_its_turn_all_the_same() {
        let mut order = Order::new(4);
        (0..4).for_each(|_| order.push(Priority::Batch, Priority::Batch));
        let mut taken = Vec::new();
        for _ in 0..30 {
            for priority in [Priority::Interactive, Priority::Batch] {
                if order.make_room(QueueFullPolicy::DropOldestBatch).is_ok() {
                    order.push(priority, priority);
                }
            }
            taken.extend(order.pop());
        }
        assert!(taken.contains(&Priority::Batch) && taken.contains(&Priority::Interactive), "{taken:?}");
    }
}
