//! How many tokens of a prompt are decoded at a time, so that streams beside it do not stall.
//!
//! The size is chosen once, from what this machine was measured to do, and holds for every prompt, also for one that is
//! alone: a request's batch shapes, and with them its bits, must not depend on its neighbours.

use crate::native::{Batch, Context, Kernels, NativeError};
use std::time::{Duration, Instant};

/// Smaller pieces gain little: each costs about as much as a plain decode by then.
const SMALLEST: u32 = 16;
/// So many pieces in a row must be too slow before they get smaller: one may have met a busy machine.
const OVERRUNS: u32 = 4;

pub(super) struct Pace {
    piece: u32,
    limit: Duration,
    /// How long the last decode without a prompt took.
    plain: Duration,
    overruns: u32,
}

impl Pace {
    /// Pieces that are never judged: where nobody waits for them, or their size must not depend on time.
    pub(super) fn fixed(piece: u32) -> Self {
        Self { piece, limit: Duration::MAX, plain: Duration::ZERO, overruns: 0 }
    }

    /// Measures on an empty context, which is empty again afterwards.
    pub(super) fn measure(
        context: &mut Context,
        n_seq: u32,
        largest: u32,
        token: i32,
        limit: Duration,
    ) -> Result<Self, NativeError> {
        let mut batch = Batch::default();
        let time = |context: &mut Context, batch: &Batch, kernels| {
            let start = Instant::now();
            context.decode(batch, kernels)?;
            let took = start.elapsed();
            (0..n_seq).try_for_each(|sequence| context.clear(sequence))?;
            Ok(took)
        };
        for sequence in 0..n_seq {
            batch.push(token, 0, sequence, true);
        }
        // The first decode of a shape also builds its graph.
        time(context, &batch, Kernels::PerToken)?;
        let plain = time(context, &batch, Kernels::PerToken)?;
        let piece = largest_within(largest, limit.saturating_sub(plain), |size| {
            batch.clear();
            for position in 0..size {
                batch.push(token, position, 0, position + 1 == size);
            }
            time(context, &batch, Kernels::Fast)
        })?;
        Ok(Self { piece, limit, plain, overruns: 0 })
    }

    /// For prompts that start now.
    pub(super) fn piece(&self) -> u32 {
        self.piece
    }

    pub(super) fn plain_took(&mut self, took: Duration) {
        self.plain = took;
    }

    /// Judges a piece that others waited for. True: pieces are smaller from now on.
    pub(super) fn piece_took(&mut self, tokens: u32, took: Duration) -> bool {
        // The last piece of a prompt, or one that began before, says nothing of this size.
        if tokens != self.piece {
            return false;
        }
        let late = took.saturating_add(self.plain) > self.limit;
        self.overruns = if late { self.overruns + 1 } else { 0 };
        if self.overruns < OVERRUNS || self.piece / 2 < SMALLEST {
            return false;
        }
        (self.piece, self.overruns) = (self.piece / 2, 0);
        true
    }
}

/// The largest power of two up to `largest` of which `time` says that it takes at most `limit`, and at least
/// [`SMALLEST`].
fn largest_within<E>(
    largest: u32,
    limit: Duration,
    mut time: impl FnMut(u32) -> Result<Duration, E>,
) -> Result<u32, E> {
    let mut best = SMALLEST.min(largest);
    while best.saturating_mul(2) <= largest {
        // A busy machine makes a measurement too long, nothing makes it too short: ask twice.
        if time(best * 2)? > limit && time(best * 2)? > limit {
            break;
        }
        best *= 2;
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn chosen(largest: u32, limit: u32) -> u32 {
        largest_within(largest, MS * limit, |size| Ok::<_, ()>(MS * size)).unwrap()
    }

    #[test]
    fn the_largest_power_of_two_that_fits() {
        assert_eq!([16, 31, 32, 63, 64, 200, 10_000].map(|limit| chosen(256, limit)), [16, 16, 32, 32, 64, 128, 256]);
        assert_eq!((chosen(8, 1), chosen(100, 1), chosen(100, 500)), (8, 16, 64));
        let mut calls = 0;
        let busy_once = |size| {
            calls += 1;
            Ok::<_, ()>(if calls == 2 { MS * 9999 } else { MS * size })
        };
        assert_eq!(largest_within(256, MS * 300, busy_once).unwrap(), 256);
    }

    #[test]
    fn pieces_that_are_late_again_and_again_get_smaller() {
        let mut pace = Pace { piece: 64, limit: MS * 100, plain: MS * 20, overruns: 0 };
        let late = |pace: &mut Pace, n| (0..n).filter(|_| pace.piece_took(pace.piece, MS * 81)).count();
        assert_eq!(late(&mut pace, 3), 0);
        assert!(!pace.piece_took(64, MS * 80), "in time: the count begins anew");
        assert_eq!((late(&mut pace, 3), pace.piece()), (0, 64));
        assert!(!pace.piece_took(5, MS * 500), "the end of a prompt does not count");
        assert_eq!((late(&mut pace, 1), pace.piece()), (1, 32));
        assert_eq!((late(&mut pace, 40), pace.piece()), (1, 16), "and never below the smallest");
        let mut fixed = Pace::fixed(256);
        assert_eq!((late(&mut fixed, 40), fixed.piece()), (0, 256));
    }
}
