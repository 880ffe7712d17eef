//! Whether checking guesses leaves answers as they are, and what it costs. Both depend on the kernels that a model's
//! quantisation gets on this CPU, so it is tried and not assumed.

use crate::native::{Batch, Context, Kernels, NativeError};
use std::time::{Duration, Instant};

/// A token more never costs as much as a decode of its own; a busy machine makes it look so.
const DEAREST: f32 = 0.6;

/// Tries it with so many tokens in one decode, on an empty context, which is empty again afterwards: whether they have the
/// bits that they have one by one, can be taken back in part, and what is kept has the right bits, too. `None`: they do not;
/// else what one token more takes, in times of a decode of one.
pub(super) fn cost<const N: usize>(
    context: &mut Context,
    sizes: [u32; N],
    token: impl Fn(u32) -> i32,
    beat: impl Fn(),
) -> Result<Option<f32>, NativeError> {
    let mut batch = Batch::default();
    let mut decode = |context: &mut Context, positions: std::ops::Range<u32>| {
        batch.clear();
        for position in positions {
            batch.push(token(position), position, 0, true);
        }
        beat();
        context.decode(&batch, Kernels::PerToken)
    };
    let mut alone = vec![];
    let mut one = Duration::MAX;
    for position in 0..sizes.into_iter().max().unwrap_or(0) {
        let start = Instant::now();
        decode(context, position..position + 1)?;
        one = one.min(start.elapsed());
        alone.push(context.logits(0)?.to_vec());
    }
    let (mut exact, mut cost) = (true, f32::INFINITY);
    for size in sizes {
        context.clear(0)?;
        let start = Instant::now();
        decode(context, 0..size)?;
        // A new shape builds a new graph, as a guess does most of the time.
        let more = start.elapsed().as_secs_f32() / one.as_secs_f32() - 1.0;
        cost = cost.min(more.max(0.0) / (size - 1).max(1) as f32);
        for (output, alone) in alone[..size as usize].iter().enumerate() {
            exact &= equal(context.logits(output)?, alone);
        }
        let kept = size / 2;
        exact &= context.cut(0, kept)?;
        if exact {
            decode(context, kept..kept + 1)?;
            exact &= equal(context.logits(0)?, &alone[kept as usize]);
        }
    }
    context.clear(0)?;
    Ok(exact.then_some(cost.min(DEAREST)))
}

fn equal(a: &[f32], b: &[f32]) -> bool {
    a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
}
