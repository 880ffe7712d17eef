//! Which beginning of a prompt is known already, and in which slot the request goes. Pure.

use serde::{Deserialize, Serialize};

/// Copying a shorter beginning from elsewhere is not worth it.
const SHORTEST_COPY: usize = 32;

/// The tokens whose keys and values (or states) a sequence holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Held {
    pub tokens: Vec<i32>,
    /// Of them, those computed from the first on in whole pieces of one size.
    pub in_pieces: usize,
    /// From where on they were computed after tokens that are not there any more.
    pub gap: Option<usize>,
}

impl Held {
    pub(super) fn with_capacity(n_ctx: u32) -> Self {
        Self { tokens: Vec::with_capacity(n_ctx as usize), in_pieces: 0, gap: None }
    }

    pub(super) fn cut(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        self.in_pieces = self.in_pieces.min(tokens);
        self.gap = self.gap.filter(|gap| *gap < tokens);
    }

    /// Takes out `n` tokens from `from` on; what is behind them stays.
    pub(super) fn shift(&mut self, from: usize, n: usize) {
        self.tokens.drain(from..from + n);
        self.in_pieces = self.in_pieces.min(from);
        self.gap = Some(self.gap.unwrap_or(from).min(from));
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.tokens.clone_from(&other.tokens);
        (self.in_pieces, self.gap) = (other.in_pieces, other.gap);
    }

    /// How many tokens of `prompt` need no decoding. Its last one always does, for its logits.
    ///
    /// `whole`: the memory can be cut anywhere; else it serves as it is or not at all. `exact`: only what has the bits
    /// that decoding the prompt in pieces of this size would give.
    pub(super) fn usable(&self, prompt: &[i32], whole: bool, exact: Option<usize>) -> usize {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let most = common.min(prompt.len().saturating_sub(1)).min(self.gap.unwrap_or(usize::MAX));
        let usable = match exact {
            Some(piece) => most.min(self.in_pieces) / piece * piece,
            None => most,
        };
        if whole || usable == self.tokens.len() { usable } else { 0 }
    }
}

/// A slot, as far as the choice depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub free: bool,
    /// Tokens it holds.
    pub held: usize,
    /// Of which these are the prompt's beginning.
    pub usable: usize,
    /// When it was last used, in requests.
    pub used_at: u64,
}

/// Where the beginning of the prompt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The slot itself; the number of tokens may be 0.
    Here(usize),
    /// A copy of another slot's sequence, cut to so many tokens.
    Slot(usize, usize),
    /// The store's best, cut to so many tokens.
    Store(usize),
}

/// The free slot for a request and where its beginning comes from; `stored`: what the store's best would save.
///
/// A slot is continued where that loses little of what it holds; else the beginning is copied into the slot that was
/// not used for the longest time, so that one short common beginning does not cost a long conversation.
pub(super) fn choose(slots: &[Candidate], stored: usize) -> Option<(usize, From)> {
    let free = || slots.iter().enumerate().filter(|(_, slot)| slot.free);
    let (oldest, oldest_slot) = free().min_by_key(|(_, slot)| (slot.held > 0, slot.used_at))?;
    let continued = free().filter(|(_, slot)| slot.usable * 2 >= slot.held).max_by_key(|(_, slot)| slot.usable);
    let (source, most) =
        slots.iter().enumerate().map(|(i, slot)| (i, slot.usable)).max_by_key(|(_, usable)| *usable)?;
    let elsewhere = most.max(stored);
    if let Some((i, slot)) = continued
        && slot.usable > 0
        && slot.usable + SHORTEST_COPY > elsewhere
    {
        return Some((i, From::Here(slot.usable)));
    }
    if elsewhere < SHORTEST_COPY || oldest_slot.usable >= elsewhere {
        return Some((oldest, From::Here(oldest_slot.usable)));
    }
    Some((oldest, if most >= stored { From::Slot(source, most) } else { From::Store(stored) }))
}

/// A running slot and the free one to move it to, so that the running ones form fewer rows without a gap: llama.cpp
/// computes sequences together only if their numbers follow each other. `None`: there is no such move.
pub(super) fn close_ranks(runs: &[bool]) -> Option<(usize, usize)> {
    let slots = || 0..runs.len();
    // How many rows more there are with a slot than without it; `gone` does not run.
    let rows = |slot: usize, gone: usize| {
        let beside = [slot.checked_sub(1), Some(slot + 1)].into_iter().flatten();
        1 - beside.filter(|&other| other != gone && runs.get(other) == Some(&true)).count() as i32
    };
    let moves =
        slots().filter(|&from| runs[from]).flat_map(|from| slots().filter(|&to| !runs[to]).map(move |to| (from, to)));
    let gains = moves.map(|(from, to)| (rows(to, from) - rows(from, from), from, to));
    gains.filter(|(more, ..)| *more < 0).min().map(|(_, from, to)| (from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(tokens: &[i32], in_pieces: usize) -> Held {
        Held { tokens: tokens.into(), in_pieces, gap: None }
    }

    #[test]
    fn the_last_token_is_always_decoded() {
        let held = held(&[1, 2, 3, 4], 4);
        assert_eq!(held.usable(&[1, 2, 3, 4, 5], true, None), 4);
        assert_eq!(held.usable(&[1, 2, 3, 4], true, None), 3);
        assert_eq!(held.usable(&[1, 2, 9, 4], true, None), 2);
        assert_eq!(held.usable(&[1], true, None), 0);
        assert_eq!(held.usable(&[9, 2], true, None), 0);
    }

    #[test]
    fn a_memory_that_cannot_be_cut_serves_whole_or_not_at_all() {
        let held = held(&[1, 2, 3, 4], 0);
        assert_eq!(held.usable(&[1, 2, 3, 4, 5], false, None), 4);
        assert_eq!(held.usable(&[1, 2, 3, 4], false, None), 0);
        assert_eq!(held.usable(&[1, 2, 3, 9, 5], false, None), 0);
    }

    #[test]
    fn exactness_keeps_whole_pieces_only() {
        let held = held(&[1, 2, 3, 4, 5, 6, 7, 8], 6);
        let next = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(held.usable(&next, true, Some(3)), 6);
        assert_eq!(held.usable(&next[..6], true, Some(3)), 3);
        assert_eq!(held.usable(&next[..3], true, Some(3)), 0);
        assert_eq!(held.usable(&next, false, Some(3)), 0, "the rest could not be cut off");
        let mut cut = held;
        cut.cut(4);
        assert_eq!((cut.tokens.len(), cut.in_pieces), (4, 4));
    }

    #[test]
    fn what_was_shifted_is_no_beginning() {
        let mut held = held(&[1, 2, 3, 4, 5, 6, 7, 8], 8);
        held.shift(2, 3);
        assert_eq!((held.tokens.as_slice(), held.in_pieces, held.gap), ([1, 2, 6, 7, 8].as_slice(), 2, Some(2)));
        assert_eq!(held.usable(&[1, 2, 6, 7, 8, 9], true, None), 2);
        assert_eq!(held.usable(&[1, 2, 6, 7, 8, 9], false, None), 0);
        held.tokens.push(9);
        held.shift(1, 1);
        assert_eq!((held.tokens.as_slice(), held.gap), ([1, 6, 7, 8, 9].as_slice(), Some(1)));
        held.cut(2);
        assert_eq!(held.gap, Some(1));
        held.cut(1);
        assert_eq!(held.gap, None);
    }

    #[test]
    fn ranks_are_closed() {
        for (before, after) in [
            ("....", "...."),
            ("####", "####"),
            (".##.", ".##."),
            ("#..#", ".###"),
            ("#.#.#.#.", "..####.."),
            ("#", "#"),
        ] {
            let mut runs: Vec<bool> = before.chars().map(|slot| slot == '#').collect();
            let mut moves = 0;
            while let Some((from, to)) = close_ranks(&runs) {
                assert!(runs[from] && !runs[to]);
                runs.swap(from, to);
                moves += 1;
                assert!(moves < 8, "{before}: no end");
            }
            let rows = |runs: &[bool]| runs.chunk_by(|a, b| a == b).filter(|row| row[0]).count();
            assert!(rows(&runs) <= 1, "{before}: {runs:?}");
            assert_eq!(moves == 0, before == after, "{before}: {runs:?}");
        }
    }

    fn slot(free: bool, held: usize, usable: usize, used_at: u64) -> Candidate {
        Candidate { free, held, usable, used_at }
    }

    #[test]
    fn the_longest_beginning_in_a_free_slot_is_continued() {
        let slots = [slot(true, 0, 0, 0), slot(true, 100, 60, 1), slot(true, 100, 90, 2), slot(false, 100, 95, 3)];
        assert_eq!(choose(&slots, 0), Some((2, From::Here(90))));
        assert_eq!(choose(&slots[3..], 0), None);
    }

    #[test]
    fn nothing_known_goes_where_nothing_is_lost_then_to_the_least_recently_used() {
        assert_eq!(choose(&[slot(true, 5, 0, 9), slot(true, 0, 0, 20)], 0), Some((1, From::Here(0))));
        let slots = [slot(true, 500, 0, 9), slot(false, 5, 0, 1), slot(true, 500, 3, 4)];
        assert_eq!(choose(&slots, 0), Some((2, From::Here(3))));
    }

    #[test]
    fn a_beginning_elsewhere_is_copied() {
        // From a busy slot; from a free one that holds much more; from the store, where that has most.
        let slots = [slot(true, 0, 0, 0), slot(false, 400, 300, 1)];
        assert_eq!(choose(&slots, 0), Some((0, From::Slot(1, 300))));
        let slots = [slot(true, 0, 0, 0), slot(true, 1000, 300, 1)];
        assert_eq!(choose(&slots, 0), Some((0, From::Slot(1, 300))));
        assert_eq!(choose(&slots, 400), Some((0, From::Store(400))));
        // The only free slot is the source itself.
        assert_eq!(choose(&[slot(true, 1000, 300, 1)], 0), Some((0, From::Here(300))));
        // Not for a few tokens.
        let slots = [slot(true, 0, 0, 0), slot(false, 400, 31, 1)];
        assert_eq!(choose(&slots, 31), Some((0, From::Here(0))));
        let slots = [slot(true, 100, 100, 0), slot(false, 400, 131, 1)];
        assert_eq!(choose(&slots, 0), Some((0, From::Here(100))));
    }
}
