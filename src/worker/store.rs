//! Saved states of sequences whose slots were needed: in RAM, within a budget, the least recently used goes first.

use super::prefix::Held;

/// A shorter beginning is decoded again faster than it would be looked after.
const SHORTEST: usize = 64;

pub(super) struct Stored {
    pub held: Held,
    /// As in [`Held::usable`].
    pub whole: bool,
    pub state: Vec<u8>,
}

impl Stored {
    fn bytes(&self) -> usize {
        self.state.len() + self.held.tokens.len() * size_of::<i32>()
    }

    /// Whether it serves every prompt that `other` serves.
    fn covers(&self, other: &Held, whole: bool) -> bool {
        let same = self.held.tokens.len() == other.tokens.len();
        (same || self.whole && whole)
            && self.held.in_pieces >= other.in_pieces
            && self.held.tokens.starts_with(&other.tokens)
    }
}

/// The least recently used first.
pub(super) struct Store {
    budget: usize,
    used: usize,
    entries: Vec<Stored>,
}

impl Store {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget: usize::try_from(budget).unwrap_or(usize::MAX), used: 0, entries: vec![] }
    }

    /// Whether saving what is held, whose state has `bytes`, is worth it.
    pub(super) fn wants(&self, held: &Held, whole: bool, bytes: usize) -> bool {
        bytes <= self.budget && !self.entries.iter().any(|entry| entry.covers(held, whole))
    }

    /// Whether what is lost, `tokens` of them, could be worth saving at all.
    pub(super) fn considers(&self, tokens: usize) -> bool {
        self.budget > 0 && tokens >= SHORTEST
    }

    /// Adds one as the most recently used, at the cost of those that are older.
    pub(super) fn put(&mut self, stored: Stored) {
        self.entries.retain(|entry| !stored.covers(&entry.held, entry.whole));
        self.entries.push(stored);
        self.used = self.entries.iter().map(Stored::bytes).sum();
        let mut dropped = 0;
        while self.used > self.budget {
            self.used -= self.entries[dropped].bytes();
            dropped += 1;
        }
        self.entries.drain(..dropped);
    }

    /// The entry that knows most of the prompt's beginning, and how much.
    pub(super) fn best(&self, prompt: &[i32], exact: Option<usize>) -> Option<(usize, usize)> {
        let usable = |(i, entry): (usize, &Stored)| (i, entry.held.usable(prompt, entry.whole, exact));
        self.entries.iter().enumerate().map(usable).filter(|(_, tokens)| *tokens > 0).max_by_key(|(_, tokens)| *tokens)
    }

    /// Takes an entry out.
    pub(super) fn take(&mut self, index: usize) -> Stored {
        let stored = self.entries.remove(index);
        self.used -= stored.bytes();
        stored
    }

    /// Bytes that it holds.
    pub(super) fn used(&self) -> u64 {
        self.used as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tokens` tokens, the first of them `first`; 400 bytes with a hundred tokens.
    fn stored(first: i32, tokens: usize, whole: bool) -> Stored {
        let tokens: Vec<i32> = std::iter::once(first).chain(1..).take(tokens).collect();
        Stored { held: Held { tokens, in_pieces: 0, gap: None }, whole, state: vec![0; 100] }
    }

    fn firsts(store: &Store) -> Vec<i32> {
        store.entries.iter().map(|entry| entry.held.tokens[0]).collect()
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut store = Store::new(1600);
        (10..13).for_each(|first| store.put(stored(first, 100, true)));
        assert_eq!((firsts(&store), store.used()), (vec![10, 11, 12], 1500));
        let (oldest, usable) = store.best(&stored(10, 200, true).held.tokens, None).unwrap();
        assert_eq!((oldest, usable), (0, 100));
        let used = store.take(oldest);
        store.put(used);
        store.put(stored(13, 100, true));
        assert_eq!((firsts(&store), store.used()), (vec![12, 10, 13], 1500));
        assert!(!store.wants(&stored(14, 500, true).held, true, 2100), "larger than the budget");
        assert!(!Store::new(0).considers(1000) && !store.considers(63) && store.considers(64));
    }

    #[test]
    fn what_another_entry_serves_is_not_kept_twice() {
        let mut store = Store::new(10_000);
        store.put(stored(1, 100, true));
        assert!(!store.wants(&stored(1, 80, true).held, true, 100));
        assert!(store.wants(&stored(1, 120, true).held, true, 100));
        store.put(stored(1, 120, true));
        assert_eq!(store.entries.len(), 1);
        // A state that cannot be cut serves one length only.
        store.put(stored(2, 100, false));
        assert!(store.wants(&stored(2, 80, false).held, false, 100));
        store.put(stored(2, 120, false));
        assert_eq!(store.entries.len(), 3);
        assert_eq!(store.best(&stored(2, 110, false).held.tokens, None).map(|(_, n)| n), Some(100));
    }
}
