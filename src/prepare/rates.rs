//! What a calibration measured, and what follows from it: over how many workers streams are best spread.

use serde::{Deserialize, Serialize};

/// More than noise: spreading is given up where it has less than this part of the speed.
const CLEARLY: f64 = 0.95;
/// Longest step that is believed, in microseconds.
const LONGEST_US: u64 = 600_000_000;
/// Most measurements that a calibration has.
const MOST: usize = 64;

/// How fast several workers generate side by side, each with its share of the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rate {
    /// Workers that decode at the same time.
    pub workers: u32,
    /// Streams that each of them decodes in one batch.
    pub streams: u32,
    /// Microseconds until each stream has a token.
    pub step_us: u64,
}

impl Rate {
    pub(crate) fn new(workers: u32, streams: u32, step_us: u64) -> Self {
        Self { workers, streams, step_us }
    }

    /// Tokens per second of all streams together.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        f64::from(self.workers) * f64::from(self.streams) * 1e6 / self.step_us as f64
    }
}

/// The measurements of one calibration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Rates(Vec<Rate>);

impl Rates {
    pub(crate) fn new(rates: Vec<Rate>) -> Self {
        Self(rates)
    }

    pub(crate) fn all(&self) -> &[Rate] {
        &self.0
    }

    /// Whether anything follows from it: one worker was measured, and several were.
    pub(crate) fn tell(&self) -> bool {
        self.0.len() <= MOST
            && self.0.iter().all(|rate| {
                (1..=1024).contains(&rate.workers)
                    && (1..=64).contains(&rate.streams)
                    && (1..=LONGEST_US).contains(&rate.step_us)
            })
            && self.step(1, 1).is_some()
            && self.0.iter().any(|rate| rate.workers > 1)
    }

    /// Time of a step of so many workers with so many streams each: as measured, or between two that were. Past the last one each
    /// stream costs as much as those before. `None`: so many workers were not measured.
    fn step(&self, workers: u32, streams: u32) -> Option<f64> {
        let measured = self.0.iter().filter(|rate| rate.workers == workers);
        let point = |rate: &Rate| (f64::from(rate.streams), rate.step_us as f64);
        let below = measured.clone().filter(|rate| rate.streams <= streams).max_by_key(|rate| rate.streams).map(point);
        let above = measured.filter(|rate| rate.streams >= streams).min_by_key(|rate| rate.streams).map(point);
        let streams = f64::from(streams);
        match (below, above) {
            (Some((low, fast)), Some((high, slow))) if high > low => {
                Some(fast + (slow - fast) * (streams - low) / (high - low))
            }
            (Some((low, step)), _) => Some(step * streams / low),
            // Fewer than were measured take no longer.
            (None, above) => above.map(|(_, step)| step),
        }
    }

    /// Streams' tokens per microsecond with so many workers, over which streams are spread as evenly as they go.
    fn speed(&self, workers: u32, streams: u32) -> Option<f64> {
        let (each, more) = (streams / workers, streams % workers);
        let of = |workers_with: u32, each: u32| match workers_with * each {
            0 => Some(0.0),
            streams => Some(f64::from(streams) / self.step(workers, each)?),
        };
        Some(of(workers - more, each)? + of(more, each + 1)?)
    }

    /// The number of workers, at most `workers` of `slots` slots, over which so many streams are best spread: as many as there
    /// are, unless fewer are clearly faster.
    fn workers_for(&self, streams: u32, workers: u32, slots: u32) -> Option<u32> {
        let measured = |k: &u32| self.step(*k, 1).is_some();
        // Those that were measured, up to one for each stream or the next number above.
        let widest = (streams..=workers).find(measured).unwrap_or(workers);
        let fit = (1..=widest).filter(|k| (*k <= streams || *k == widest) && streams <= k.saturating_mul(slots));
        let speeds: Vec<_> = fit.filter_map(|k| Some((k, self.speed(k, streams)?))).collect();
        let (widest, spread) = *speeds.last()?;
        let (best, speed) = speeds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(if spread < CLEARLY * speed { best } else { widest })
    }

    /// For 1, 2, 3 and more streams the number of workers over which they are best spread. Empty: nothing is known.
    pub(crate) fn spread(&self, workers: u32, slots: u32) -> Vec<u32> {
        if !self.tell() {
            return vec![];
        }
        (1..=workers * slots).map_while(|streams| self.workers_for(streams, workers, slots)).collect()
    }

    /// Workers, and slots of each, that serve up to so many streams best.
    pub(super) fn shape(&self, streams: u32) -> Option<(u32, u32)> {
        let most = self.0.iter().map(|rate| rate.workers).max()?;
        let best = (1..=streams).map(|n| Some((n, self.workers_for(n, most, streams)?)));
        let best: Vec<(u32, u32)> = best.collect::<Option<_>>().filter(|_| self.tell())?;
        let workers = best.iter().map(|(_, workers)| *workers).max()?;
        Some((workers, best.iter().map(|(n, workers)| n.div_ceil(*workers)).max()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(points: &[(u32, u32, u64)]) -> Rates {
        Rates(points.iter().map(|&(workers, streams, step)| Rate::new(workers, streams, step)).collect())
    }

    #[test]
    fn streams_are_spread_where_that_is_as_fast_and_batched_where_it_is_not() {
        // A batch costs as much as its tokens: side by side.
        let dear = rates(&[(1, 1, 10), (1, 2, 20), (1, 4, 40), (2, 1, 16), (2, 2, 32)]);
        assert_eq!(dear.spread(2, 4), [1, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(dear.shape(4), Some((2, 2)));
        // A batch costs little more than a token: together, as long as there are slots.
        let cheap = rates(&[(1, 1, 10), (1, 2, 11), (1, 4, 12), (2, 1, 18), (2, 2, 20)]);
        assert_eq!(cheap.spread(2, 4), [1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(cheap.shape(4), Some((1, 4)));
        // Two side by side, but four together.
        let mixed = rates(&[(1, 1, 10), (1, 2, 18), (1, 4, 20), (2, 1, 15), (2, 2, 28)]);
        assert_eq!(mixed.spread(2, 4), [1, 2, 1, 1, 2, 2, 2, 2]);
        assert_eq!(mixed.shape(4), Some((2, 4)));
        // Noise is no reason.
        assert_eq!(rates(&[(1, 1, 10), (1, 2, 98), (2, 1, 100)]).spread(2, 2), [1, 2, 2, 2]);
        // Three were not tried.
        assert_eq!(rates(&[(1, 1, 10), (2, 1, 10), (4, 1, 10)]).spread(4, 1), [1, 2, 4, 4]);
    }

    #[test]
    fn what_tells_nothing_decides_nothing() {
        for nothing in [&[][..], &[(1, 1, 10)], &[(2, 1, 10)], &[(1, 1, 10), (2, 1, 0)], &[(1, 1, 10), (2, 65, 9)]] {
            let nothing = rates(nothing);
            assert_eq!((nothing.spread(2, 2), nothing.shape(2)), (vec![], None));
        }
    }
}
