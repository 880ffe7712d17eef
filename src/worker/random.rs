//! Randomness per position: a function of (seed, index), so that a resumed stream needs no saved generator.

/// A number in [0, 1) for the token at `index`, uniform and independent over both arguments.
///
/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the `index`th output of
/// the generator seeded with a mix of `seed`, taken directly, since its state is a counter.
pub(crate) fn uniform(seed: u64, index: u32) -> f64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let state = mix(seed).wrapping_add(GAMMA.wrapping_mul(u64::from(index) + 1));
    // The upper 53 bits, as many as a double holds.
    (mix(state) >> 11) as f64 / (1u64 << 53) as f64
}

/// A second one for the same token, independent of the first: whether XTC drops anything.
pub(crate) fn uniform_xtc(seed: u64, index: u32) -> f64 {
    // The fraction of the square root of 3: another seed, the same for every token.
    uniform(mix(seed ^ 0xbb67_ae85_84ca_a73b), index)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_over_seeds_and_over_positions() {
        // The last: independent of the first, so their difference wraps around to uniform.
        let difference = |i: u32| (uniform(7, i) - uniform_xtc(7, i)).rem_euclid(1.0);
        for draw in [|i: u32| uniform(u64::from(i), 0), |i: u32| uniform(7, i), |i: u32| uniform_xtc(7, i), difference]
        {
            let mut bins = [0u32; 10];
            for i in 0..10_000 {
                let u = draw(i);
                assert!((0.0..1.0).contains(&u));
                bins[(u * 10.0) as usize] += 1;
            }
            // Chi-square with 9 degrees of freedom: 33.7 is passed by chance once in 10,000.
            let chi: f64 = bins.iter().map(|n| (f64::from(*n) - 1000.0).powi(2) / 1000.0).sum();
            assert!(chi < 33.7, "{bins:?}");
        }
    }
}
