//! How many tokens of a prompt are decoded at a time, so that streams beside it do not stall.
//!
//! The size is chosen when a worker starts, from what this machine was measured to do. A piece takes longer the more
//! tokens are before it, and on a busy machine: while others wait, each prompt corrects its own size by what its last piece
//! took. Below 64 tokens that changes no bit where llama.cpp's kernels are exact (quantised weights, flash attention);
//! `deterministic` and one slot have pieces of one size always.

use crate::native::{Batch, Context, Kernels, NativeError};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Below, a prompt would lose more time than a wait gets shorter: a piece of 4 has 0.85 of the speed of 16.
const SMALLEST: u32 = 4;
/// The part of the limit from which on a time says what larger pieces take.
const LONG_ENOUGH: u32 = 8;
/// From here on larger pieces are hardly faster.
const LARGE: u32 = 64;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Pace {
    piece: u32,
    limit: Duration,
    /// How long the last decode without a prompt took.
    plain: Duration,
}

impl Pace {
    /// Pieces that are never judged: where nobody waits for them, or their size must not depend on time.
    pub(super) fn fixed(piece: u32) -> Self {
        Self { piece, limit: Duration::MAX, plain: Duration::ZERO }
    }

    /// Measures on an empty context, which is empty again afterwards.
    pub(super) fn measure(
        context: &mut Context,
        n_seq: u32,
        largest: u32,
        token: i32,
        limit: Duration,
        beat: impl Fn(),
    ) -> Result<Self, NativeError> {
        let mut batch = Batch::default();
        let time = |context: &mut Context, batch: &Batch, kernels| {
            let start = Instant::now();
            context.decode(batch, kernels)?;
            let took = start.elapsed();
            beat();
            (0..n_seq).try_for_each(|sequence| context.clear(sequence))?;
            Ok(took)
        };
        for sequence in 0..n_seq {
            batch.push(token, 0, sequence, true);
        }
        // The first decode of a shape also builds its graph.
        time(context, &batch, Kernels::PerToken)?;
        let plain = time(context, &batch, Kernels::PerToken)?;
        let piece = largest_within(largest, left_for_a_piece(limit, plain), |size| {
            batch.clear();
            for position in 0..size {
                batch.push(token, position, 0, position + 1 == size);
            }
            time(context, &batch, Kernels::Fast)
        })?;
        Ok(Self { piece, limit, plain })
    }

    /// For prompts that start now, and the most for any.
    pub(super) fn piece(&self) -> u32 {
        self.piece
    }

    pub(super) fn plain_took(&mut self, took: Duration) {
        self.plain = took;
    }

    /// The size of a prompt's next piece, after one of `tokens` for which others waited.
    pub(super) fn next_piece(&self, tokens: u32, took: Duration) -> u32 {
        if self.limit == Duration::MAX {
            return self.piece;
        }
        // A tenth is for what comes: the next piece has more before it.
        let limit = left_for_a_piece(self.limit, self.plain).mul_f64(0.9);
        let fits = limit.as_secs_f64() / took.as_secs_f64().max(1e-9) * f64::from(tokens);
        // One slow piece may have met a busy machine: no more than half is given up at a time.
        let next = (fits as u32).clamp(tokens / 2, tokens * 2);
        // In few sizes: a new one builds a new graph.
        step_down(next.clamp(SMALLEST.min(self.piece), self.piece))
    }
}

/// Many streams, or a busy machine, take most of the limit without a prompt. Prompts get three quarters at least, or they would
/// never end.
fn left_for_a_piece(limit: Duration, plain: Duration) -> Duration {
    limit.saturating_sub(plain).max(limit * 3 / 4)
}

/// The next lower (or same) power of two, or one and a half times one.
fn step_down(size: u32) -> u32 {
    let power = 1 << size.max(1).ilog2();
    if size >= power + power / 2 { power + power / 2 } else { power }
}

/// The largest power of two up to `largest` that takes at most `limit` by what `time` says, and at least [`SMALLEST`]. A worker
/// is not ready before, so what would take long is not tried: twice as many tokens take at most twice as long.
fn largest_within<E>(
    largest: u32,
    limit: Duration,
    mut time: impl FnMut(u32) -> Result<Duration, E>,
) -> Result<u32, E> {
    let (mut best, mut took) = (SMALLEST.min(largest), Duration::ZERO);
    while best.saturating_mul(2) <= largest && took <= limit / LONG_ENOUGH {
        took = time(best * 2)?;
        if took > limit / LONG_ENOUGH {
            // A busy machine makes a measurement too long, nothing makes it too short: ask twice.
            took = took.min(time(best * 2)?);
        }
        if took > limit {
            return Ok(best);
        }
        best *= 2;
    }
    while best.saturating_mul(2) <= largest && took * 2 <= limit {
        best *= 2;
        took *= 2;
    }
    // Beside others a decode takes long whatever is in it: what seems to be so slow is tried.
    let mut fits = |size| Ok(time(size)? <= limit || time(size)? <= limit);
    while best < LARGE && best.saturating_mul(2) <= largest && fits(best * 2)? {
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
    fn the_largest_that_stays_within_the_limit() {
        assert_eq!(chosen(256, 100), 64);
        assert_eq!(chosen(256, 10_000), 256);
        assert_eq!(chosen(256, 1), 4, "never less than the smallest");
        assert_eq!(chosen(3, 1), 3, "nor more than a batch holds");
        assert_eq!(chosen(100, 10_000), 64);
        // One slow measurement is not believed.
        let mut calls = 0;
        let busy_once = |size: u32| {
            calls += 1;
            Ok::<_, ()>(if calls == 1 { MS * 1000 } else { MS * size })
        };
        assert_eq!(largest_within(256, MS * 300, busy_once).unwrap(), 256);
        // Nor is the limit used up for asking.
        let mut asked = Duration::ZERO;
        let counted = |size: u32| {
            asked += MS * size;
            Ok::<_, ()>(MS * size)
        };
        assert_eq!(largest_within(512, MS * 200, counted).unwrap(), 128);
        assert!(asked <= MS * 100, "{asked:?}");
        let busy_always = |size: u32| Ok::<_, ()>(MS * (30 + size / 2));
        assert_eq!(largest_within(512, MS * 100, busy_always).unwrap(), 64);
    }

    #[test]
    fn a_prompt_corrects_its_size_while_others_wait() {
        let pace = Pace { piece: 64, limit: MS * 110, plain: MS * 10 };
        // 90 ms are left for a piece.
        assert_eq!(pace.next_piece(64, MS * 60), 64, "never more than was chosen");
        assert_eq!(pace.next_piece(64, MS * 96), 48);
        assert_eq!(pace.next_piece(48, MS * 100), 32);
        assert_eq!(pace.next_piece(32, MS * 5000), 16, "half at a time");
        assert_eq!(pace.next_piece(16, MS * 1), 32, "and twice at a time");
        assert_eq!(pace.next_piece(4, MS * 5000), 4, "down to the smallest");
        assert_eq!(pace.next_piece(5, MS * 450), 4);
        let crowded = Pace { piece: 64, limit: MS * 100, plain: MS * 500 };
        assert_eq!(crowded.next_piece(16, MS * 67), 16, "three quarters of the limit, whatever the streams take");
        assert_eq!(Pace::fixed(63).next_piece(63, MS * 5000), 63);
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 100].map(step_down), [1, 2, 3, 4, 4, 6, 6, 8, 12, 12, 96]);
    }
}
