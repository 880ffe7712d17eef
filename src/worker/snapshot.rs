//! What a request was a while ago, in the host's memory: another worker goes on from there when this one has died, and
//! decodes again only what came since.

use super::prefix::Held;
use crate::isolation::ipc::Blob;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot copies everything that the sequence holds; taken after each 16th of that at the most often, it costs a long
/// context at most 16 times its bytes per token, which is 1 % of a decode or less.
const LEAST_PART: usize = 16;

/// After a snapshot there is none for so many times as long as it took: they cost 2 % of a worker's time at most, also where
/// the state comes from a GPU, or is in many small pieces.
pub(super) const LEAST_PAUSE: u32 = 49;

/// How snapshots are taken, and how many bytes all of a supervisor's take at most.
pub(crate) struct SnapshotPolicy {
    /// Tokens between two; 0: none are taken.
    every: u32,
    budget: u64,
    used: AtomicU64,
}

impl SnapshotPolicy {
    pub(crate) fn new(every: u32, budget: u64) -> Self {
        Self { every, budget, used: AtomicU64::new(0) }
    }

    /// Bytes of all snapshots.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether one is due for a sequence that holds so many tokens, of which so many are in the last one.
    pub(super) fn is_due(&self, held: usize, last: usize) -> bool {
        // Fewer than the last one had: they were shifted.
        self.every > 0 && held.abs_diff(last) >= (self.every as usize).max(held / LEAST_PART)
    }

    /// Whether the budget has room for one of `bytes` in the place of `old`. It may be gone when it is needed.
    pub(super) fn has_room(&self, bytes: usize, old: Option<&Snapshot>) -> bool {
        let replaced = old.map_or(0, |old| old.reserved.bytes);
        self.used().saturating_sub(replaced).saturating_add(bytes as u64) <= self.budget
    }

    /// Bytes of the budget, given back when the result is dropped. `None`: there are not so many left, those of the snapshot
    /// that is replaced counted in.
    fn reserve(self: &Arc<Self>, bytes: u64, replaced: u64) -> Option<Reserved> {
        let fits = |used: u64| (used - replaced + bytes <= self.budget).then_some(used + bytes);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Reserved { policy: self.clone(), bytes })
    }
}

struct Reserved {
    policy: Arc<SnapshotPolicy>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.policy.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Of one request, between two of its tokens.
pub(crate) struct Snapshot {
    head: SnapshotHead,
    state: State,
    reserved: Reserved,
}

/// The sequence's state.
enum State {
    /// Of a worker that is a thread; its memory is used again.
    Memory(Vec<u8>),
    /// Of a child process, which cannot write to it any more.
    Sealed(Blob),
}

impl State {
    fn read(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Memory(bytes) => Some(bytes.into()),
            Self::Sealed(blob) => Some(blob.read().ok()?.into()),
        }
    }

    fn into_memory(self) -> Vec<u8> {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Sealed(blob) => blob.into_bytes().unwrap_or_default(),
        }
    }
}

/// A snapshot without the sequence's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotHead {
    held: Held,
    /// Tokens that had been given, and those taken out of the context.
    generated: u32,
    shifted: u32,
    /// Over all of it, and the state.
    checksum: u32,
}

impl Snapshot {
    /// Of what a slot holds and its `state`, which is taken out if there is room in the budget; `old` is what it replaces.
    pub(super) fn take(
        policy: &Arc<SnapshotPolicy>,
        held: &Held,
        (generated, shifted): (u32, u32),
        state: &mut Vec<u8>,
        old: Option<&Snapshot>,
    ) -> Option<Self> {
        let reserved = policy.reserve(bytes(held, state.len() as u64), old.map_or(0, |old| old.reserved.bytes))?;
        let (state, held) = (std::mem::take(state), held.clone());
        let checksum = checksum(&held, generated, shifted, &state);
        Some(Self { head: SnapshotHead { held, generated, shifted, checksum }, state: State::Memory(state), reserved })
    }

    /// The same of parts that a child process took or has received.
    pub(crate) fn of_parts(
        policy: &Arc<SnapshotPolicy>,
        head: SnapshotHead,
        state: Blob,
        old: Option<&Snapshot>,
    ) -> Option<Self> {
        let reserved = policy.reserve(bytes(&head.held, state.len()), old.map_or(0, |old| old.reserved.bytes))?;
        Some(Self { head, state: State::Sealed(state), reserved })
    }

    /// For another process. `None`: the system gives no file for the state.
    pub(crate) fn parts(&self) -> Option<(SnapshotHead, Blob)> {
        let state = match &self.state {
            State::Memory(bytes) => Blob::from_slice(bytes).ok()?,
            State::Sealed(blob) => blob.clone(),
        };
        Some((self.head.clone(), state))
    }

    /// What it consists of.
    pub(crate) fn into_parts(self) -> (SnapshotHead, Vec<u8>) {
        (self.head, self.state.into_memory())
    }

    /// The sequence's state; `None` if somebody has written to it since: a worker that damages memory may have, before it
    /// died.
    pub(super) fn sound_state(&self) -> Option<Cow<'_, [u8]>> {
        let state = self.state.read()?;
        let SnapshotHead { held, generated, shifted, checksum } = &self.head;
        (self::checksum(held, *generated, *shifted, &state) == *checksum).then_some(state)
    }

    pub(super) fn held(&self) -> &Held {
        &self.head.held
    }

    pub(super) fn generated(&self) -> u32 {
        self.head.generated
    }

    pub(super) fn shifted(&self) -> u32 {
        self.head.shifted
    }

    /// As a stray write would.
    #[cfg(feature = "fault-injection")]
    pub(super) fn damage(self) -> Self {
        let mut state = self.state.into_memory();
        let middle = state.len() / 2;
        state[middle] ^= 1;
        Self { head: self.head, state: State::Memory(state), reserved: self.reserved }
    }
}

fn bytes(held: &Held, state: u64) -> u64 {
    state.saturating_add(size_of_val(held.tokens.as_slice()) as u64)
}

fn checksum(held: &Held, generated: u32, shifted: u32, state: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(state);
    for token in &held.tokens {
        hasher.update(&token.to_ne_bytes());
    }
    for n in [held.in_pieces, held.gap.map_or(usize::MAX, |gap| gap), generated as usize, shifted as usize] {
        hasher.update(&n.to_ne_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(tokens: usize) -> Held {
        Held { tokens: vec![7; tokens], in_pieces: 0, gap: None }
    }

    #[test]
    fn due_after_so_many_tokens_and_less_often_in_a_long_context() {
        let policy = SnapshotPolicy::new(32, 0);
        assert!(!policy.is_due(31, 0) && policy.is_due(32, 0) && !policy.is_due(63, 32) && policy.is_due(64, 32));
        assert!(!policy.is_due(1600, 1510) && policy.is_due(1600, 1500));
        assert!(policy.is_due(500, 1000), "a shifted context");
        assert!(!SnapshotPolicy::new(0, 1000).is_due(1000, 0));
    }

    #[test]
    fn the_budget_is_kept_and_given_back() {
        let policy = Arc::new(SnapshotPolicy::new(1, 1000));
        let take =
            |state: usize, old: Option<&Snapshot>| Snapshot::take(&policy, &held(25), (0, 0), &mut vec![0; state], old);
        let first = take(500, None).unwrap();
        assert_eq!(policy.used(), 600);
        assert!(policy.has_room(400, None) && !policy.has_room(401, None) && policy.has_room(1000, Some(&first)));
        assert!(take(301, None).is_none());
        // In the place of the first one there is room for more.
        let second = take(900, Some(&first)).unwrap();
        drop(first);
        assert_eq!(policy.used(), 1000);
        drop(second);
        assert_eq!(policy.used(), 0);
    }

    #[test]
    fn damage_is_noticed() {
        let policy = Arc::new(SnapshotPolicy::new(1, 1000));
        for damage in [
            |_: &mut SnapshotHead, state: &mut Vec<u8>| state[57] ^= 4,
            |head: &mut SnapshotHead, _: &mut Vec<u8>| head.held.tokens[1] += 1,
            |head: &mut SnapshotHead, _: &mut Vec<u8>| head.held.gap = Some(2),
            |head: &mut SnapshotHead, _: &mut Vec<u8>| head.generated += 1,
            |head: &mut SnapshotHead, _: &mut Vec<u8>| head.shifted += 1,
        ] {
            let snapshot = Snapshot::take(&policy, &held(3), (2, 1), &mut vec![9; 100], None).unwrap();
            assert!(snapshot.sound_state().is_some());
            let (mut head, mut state) = snapshot.into_parts();
            damage(&mut head, &mut state);
            let damaged = Snapshot::of_parts(&policy, head, Blob::new(state).unwrap(), None).unwrap();
            assert!(damaged.sound_state().is_none());
        }
    }
}
