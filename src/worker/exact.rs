//! Whether checking guesses leaves answers as they are. That depends on the kernels that a model's quantisation gets on this
//! CPU, so it is tried and not assumed.

use crate::native::{Batch, Context, Kernels, NativeError};

/// Tries it with so many tokens in one decode, on an empty context, which is empty again afterwards: whether they have the
/// bits that they have one by one, can be taken back in part, and what is kept has the right bits, too.
pub(super) fn is_exact<const N: usize>(
    context: &mut Context,
    sizes: [u32; N],
    token: impl Fn(u32) -> i32,
) -> Result<bool, NativeError> {
    let mut batch = Batch::default();
    let mut decode = |context: &mut Context, positions: std::ops::Range<u32>| {
        batch.clear();
        for position in positions {
            batch.push(token(position), position, 0, true);
        }
        context.decode(&batch, Kernels::PerToken)
    };
    let mut alone = vec![];
    for position in 0..sizes.into_iter().max().unwrap_or(0) {
        decode(context, position..position + 1)?;
        alone.push(context.logits(0)?.to_vec());
    }
    let mut exact = true;
    for size in sizes {
        context.clear(0)?;
        decode(context, 0..size)?;
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
    Ok(exact)
}

fn equal(a: &[f32], b: &[f32]) -> bool {
    a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
}
