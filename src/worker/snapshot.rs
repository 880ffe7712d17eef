//! What a request was a while ago, in the host's memory: another worker goes on from there when this one has died, and
//! decodes again only what came since.

use super::prefix::Held;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot copies everything that the sequence holds; taken after each 16th of that at the most often, it costs a long
/// context at most 16 times its bytes per token, which is 1 % of a decode or less.
const LEAST_PART: usize = 16;

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
    held: Held,
    /// Tokens that had been given, and those taken out of the context.
    generated: u32,
    shifted: u32,
    state: Vec<u8>,
    checksum: u32,
    reserved: Reserved,
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
        let bytes = state.len() + size_of_val(held.tokens.as_slice());
        let reserved = policy.reserve(bytes as u64, old.map_or(0, |old| old.reserved.bytes))?;
        let (state, held) = (std::mem::take(state), held.clone());
        let checksum = checksum(&held, generated, shifted, &state);
        Some(Self { held, generated, shifted, state, checksum, reserved })
    }

    /// Nobody has written to it since: a worker that damages memory may have, before it died.
    pub(super) fn is_sound(&self) -> bool {
        checksum(&self.held, self.generated, self.shifted, &self.state) == self.checksum
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    pub(super) fn state(&self) -> &[u8] {
        &self.state
    }

    pub(super) fn generated(&self) -> u32 {
        self.generated
    }

    pub(super) fn shifted(&self) -> u32 {
        self.shifted
    }

    /// Its memory, for the next one.
    pub(super) fn into_state(self) -> Vec<u8> {
        self.state
    }

    /// As a stray write would.
    #[cfg(feature = "fault-injection")]
    pub(super) fn damage(&mut self) {
        let middle = self.state.len() / 2;
        self.state[middle] ^= 1;
    }
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
        let mut snapshot = Snapshot::take(&policy, &held(3), (2, 1), &mut vec![9; 100], None).unwrap();
        assert!(snapshot.is_sound());
        for damage in [
            |s: &mut Snapshot| s.state[57] ^= 4,
            |s: &mut Snapshot| s.held.tokens[1] += 1,
            |s: &mut Snapshot| s.held.gap = Some(2),
            |s: &mut Snapshot| s.generated += 1,
            |s: &mut Snapshot| s.shifted += 1,
        ] {
            damage(&mut snapshot);
            assert!(!snapshot.is_sound());
            snapshot.checksum = checksum(&snapshot.held, snapshot.generated, snapshot.shifted, &snapshot.state);
        }
    }
}
