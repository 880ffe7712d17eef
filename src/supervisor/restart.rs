//! When to restart a worker, and when to give up. Pure: the caller brings the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// At most so many restarts within a sliding window, over all workers of a supervisor (as Erlang's supervisors do).
pub(crate) struct RestartLimiter {
    max: usize,
    window: Duration,
    recent: VecDeque<Instant>,
}

impl RestartLimiter {
    pub(crate) fn new(max: u32, window: Duration) -> Self {
        Self { max: max as usize, window, recent: VecDeque::new() }
    }

    /// Whether one more restart is allowed at `now`; if so it counts.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        while self.recent.front().is_some_and(|then| now.duration_since(*then) >= self.window) {
            self.recent.pop_front();
        }
        let allowed = self.recent.len() < self.max;
        if allowed {
            self.recent.push_back(now);
        }
        allowed
    }
}

/// How long to wait before the restart that follows `failures` failures in a row without having been ready.
pub(crate) fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => LONGEST_BACKOFF.min(FIRST_BACKOFF * 2u32.saturating_pow((n - 1).min(16))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut limiter = RestartLimiter::new(2, Duration::from_secs(60));
        assert!(limiter.allow(at(0)) && limiter.allow(at(30)));
        assert!(!limiter.allow(at(59)));
        assert!(limiter.allow(at(60)), "the first one is outside the window now");
        assert!(!limiter.allow(at(61)));
    }

    #[test]
    fn backoff_doubles_up_to_a_minute() {
        let seconds: Vec<_> = [0, 1, 2, 3, 6, 7, 8, u32::MAX].map(|n| backoff(n).as_secs()).to_vec();
        assert_eq!(seconds, [0, 1, 2, 4, 32, 60, 60, 60]);
    }
}
