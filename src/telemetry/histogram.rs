//! Histograms with fixed buckets, filled without a lock.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of times, in milliseconds.
const MS: &[f64] = &[1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5];
/// Upper bounds of tokens per decode.
const TOKENS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// The sum is kept in thousandths: whole numbers can be added atomically.
const SCALE: f64 = 1e3;

pub(crate) struct AtomicHistogram {
    bounds: &'static [f64],
    /// One more than bounds: the last is of what is above them all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl AtomicHistogram {
    pub(super) fn of_ms() -> Self {
        Self::new(MS)
    }

    pub(super) fn of_tokens() -> Self {
        Self::new(TOKENS)
    }

    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub(super) fn add(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        // Saturates: a negative or absurd value must not wrap.
        self.sum.fetch_add((value * SCALE).round() as u64, Ordering::Relaxed);
    }

    pub(super) fn add_time(&self, time: Duration) {
        self.add(time.as_secs_f64() * 1e3);
    }

    pub(super) fn snapshot(&self) -> Histogram {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Histogram {
            bounds: self.bounds,
            count: counts.iter().sum(),
            counts,
            sum: self.sum.load(Ordering::Relaxed) as f64 / SCALE,
        }
    }
}

/// How often values fell between which bounds, since the supervisor was started.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Histogram {
    /// Upper bounds of the buckets, rising; each includes its bound.
    pub bounds: &'static [f64],
    /// Values per bucket, not added up; one more than `bounds`, for what is above them all.
    pub counts: Vec<u64>,
    /// All values: the sum of `counts`.
    pub count: u64,
    /// Sum of all values.
    pub sum: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_nothing_is_lost_above_the_last() {
        let histogram = AtomicHistogram::new(&[1.0, 10.0]);
        for value in [0.0, 1.0, 1.001, 10.0, 11.5, f64::MAX] {
            histogram.add(value);
        }
        let seen = histogram.snapshot();
        assert_eq!((seen.counts, seen.count), (vec![2, 2, 2], 6));
        let histogram = AtomicHistogram::of_ms();
        histogram.add_time(Duration::from_micros(1500));
        histogram.add_time(Duration::from_millis(20));
        assert_eq!(histogram.snapshot().sum, 21.5);
    }
}
