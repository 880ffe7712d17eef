//! How long to wait before a restart.

use std::time::Duration;

/// 2^31 of any time is past every cap.
const LARGEST_EXPONENT: u32 = 31;

/// The numbers, in the words of [`SupervisorConfig`](crate::SupervisorConfig).
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackoffTimes {
    pub initial: Duration,
    pub max: Duration,
    pub jitter_percent: u32,
    /// Ready for so long, a worker's earlier failures are forgotten.
    pub reset: Duration,
    /// Faults of a device wait this many times as long: what reinitialises it takes its time.
    pub device_factor: u32,
}

impl BackoffTimes {
    /// `min(initial · 2^(n − 1) · factor, max)`; nothing for `n` = 0.
    fn before_jitter(&self, n: u32, device: bool) -> Duration {
        let Some(exponent) = n.checked_sub(1) else { return Duration::ZERO };
        let factor = if device { self.device_factor } else { 1 };
        self.initial.saturating_mul(1 << exponent.min(LARGEST_EXPONENT)).saturating_mul(factor).min(self.max)
    }

    /// Spreads equal waits, so that what failed together does not come back together.
    fn jittered(&self, wait: Duration, random: u64) -> Duration {
        // The upper 53 bits, as many as a double holds: -1 to 1.
        let unit = (random >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        wait.mul_f64(1.0 + f64::from(self.jitter_percent) / 100.0 * unit).min(self.max)
    }
}

/// The waits of one worker.
#[derive(Debug)]
pub(crate) struct Backoff {
    times: BackoffTimes,
    /// The exponent's n.
    n: u32,
    /// Whether it has failed since it was last stable.
    failed: bool,
}

impl Backoff {
    pub(crate) fn new(times: BackoffTimes) -> Self {
        Self { times, n: 0, failed: false }
    }

    /// The worker failed, having been ready for so long (`None`: not at all). What to wait before it is restarted.
    ///
    /// The first restart of one that had been ready is immediate: whatever it was, it was not the start.
    pub(crate) fn failed(&mut self, ready_for: Option<Duration>, device: bool, random: u64) -> Duration {
        if ready_for.is_some_and(|time| time >= self.times.reset) {
            self.reset();
        }
        let immediate = !self.failed && ready_for.is_some();
        if !immediate {
            self.n = self.n.saturating_add(1);
        }
        self.failed = true;
        self.times.jittered(self.times.before_jitter(self.n, device), random)
    }

    pub(crate) fn reset(&mut self) {
        (self.n, self.failed) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// No jitter: half of the range.
    const MIDDLE: u64 = 1 << 63;

    fn defaults() -> BackoffTimes {
        super::super::PolicyConfig::from(&crate::SupervisorConfig::default()).backoff
    }

    #[test]
    fn doubles_from_a_second_to_a_minute_by_default() {
        let seconds = |device| [0, 1, 2, 3, 6, 7, 8, u32::MAX].map(|n| defaults().before_jitter(n, device).as_secs());
        assert_eq!(seconds(false), [0, 1, 2, 4, 32, 60, 60, 60]);
        assert_eq!(seconds(true), [0, 2, 4, 8, 60, 60, 60, 60]);
    }

    #[test]
    fn the_first_restart_of_a_worker_that_was_ready_is_immediate() {
        let mut backoff = Backoff::new(defaults());
        let ready = Some(Duration::from_secs(1));
        let mut next = |ready_for| backoff.failed(ready_for, false, MIDDLE).as_secs();
        assert_eq!([next(ready), next(ready), next(None), next(ready)], [0, 1, 2, 4]);
        assert_eq!(next(Some(Duration::from_secs(300))), 0, "it was stable");
        assert_eq!(next(Some(Duration::from_millis(299_999))), 1);
        let mut never_ready = Backoff::new(defaults());
        assert_eq!(never_ready.failed(None, false, MIDDLE).as_secs(), 1);
    }

    prop_compose! {
        fn times()(initial in 1u64..100_000, more in 0u64..10_000_000, jitter_percent in 0u32..=50,
                   reset in 1u64..1_000_000, device_factor in 1u32..=16) -> BackoffTimes {
            let ms = Duration::from_millis;
            BackoffTimes { initial: ms(initial), max: ms(initial + more), jitter_percent, reset: ms(reset), device_factor }
        }
    }

    proptest! {
        #[test]
        fn rises_before_jitter_and_stays_within_its_bounds(times in times(), n: u32, device: bool) {
            let (wait, next) = (times.before_jitter(n, device), times.before_jitter(n.saturating_add(1), device));
            prop_assert!(wait <= next && next <= times.max && next >= times.initial);
            prop_assert!(times.before_jitter(n, true) >= times.before_jitter(n, false));
        }

        #[test]
        fn jitter_keeps_to_its_share_and_to_the_cap(times in times(), n: u32, device: bool, random: u64) {
            let (plain, wait) = (times.before_jitter(n, device), times.jittered(times.before_jitter(n, device), random));
            let share = f64::from(times.jitter_percent) / 100.0;
            let (low, high) = (plain.mul_f64(1.0 - share), plain.mul_f64(1.0 + share).min(times.max));
            let rounding = Duration::from_nanos(2);
            prop_assert!(low <= wait + rounding && wait <= high + rounding && wait <= times.max);
        }

        #[test]
        fn jitter_rises_with_the_random_number(times in times(), n in 1u32.., a: u64, b: u64) {
            let wait = times.before_jitter(n, false);
            prop_assert!(times.jittered(wait, a.min(b)) <= times.jittered(wait, a.max(b)));
        }

        #[test]
        fn a_reset_returns_to_the_initial_state(
            times in times(),
            before in proptest::collection::vec((proptest::option::of(0u64..100), any::<bool>(), any::<u64>()), 0..20),
            after in proptest::collection::vec((proptest::option::of(0u64..100), any::<bool>(), any::<u64>()), 1..20),
        ) {
            let run = |backoff: &mut Backoff, failures: &[(Option<u64>, bool, u64)]| -> Vec<Duration> {
                let one = |(ready, device, random): &(Option<u64>, bool, u64)| {
                    backoff.failed(ready.map(Duration::from_secs), *device, *random)
                };
                failures.iter().map(one).collect()
            };
            let (mut used, mut new) = (Backoff::new(times), Backoff::new(times));
            run(&mut used, &before);
            used.reset();
            prop_assert_eq!(run(&mut used, &after), run(&mut new, &after));
        }
    }
}
