//! At most so many restarts within a sliding window (the restart intensity of Erlang's supervisors).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over all workers of a supervisor.
#[derive(Debug)]
pub(crate) struct Limiter {
    max: usize,
    window: Duration,
    recent: VecDeque<Instant>,
}

impl Limiter {
    pub(crate) fn new(max: u32, window: Duration) -> Self {
        Self { max: max as usize, window, recent: VecDeque::new() }
    }

    /// Whether one more restart is allowed at `now`; if so it counts.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        while self.recent.front().is_some_and(|then| now.saturating_duration_since(*then) >= self.window) {
            self.recent.pop_front();
        }
        let allowed = self.recent.len() < self.max;
        if allowed {
            self.recent.push_back(now);
        }
        allowed
    }

    pub(crate) fn reset(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_window_slides() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut limiter = Limiter::new(2, Duration::from_secs(60));
        assert!(limiter.allow(at(0)) && limiter.allow(at(30)));
        assert!(!limiter.allow(at(59)));
        assert!(limiter.allow(at(60)), "the first one is outside the window now");
        assert!(!limiter.allow(at(61)));
        limiter.reset();
        assert!(limiter.allow(at(61)));
    }

    proptest! {
        /// Against a count of what was allowed, looked at from every moment.
        #[test]
        fn never_more_than_max_in_any_window_and_never_fewer_than_could_be(
            max in 1u32..6, window in 1u64..1000, gaps in proptest::collection::vec(0u64..400, 1..80),
        ) {
            let window = Duration::from_millis(window);
            let mut limiter = Limiter::new(max, window);
            let (mut now, mut allowed) = (Instant::now(), Vec::<Instant>::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                let in_window = allowed.iter().filter(|then| now - **then < window).count();
                prop_assert_eq!(limiter.allow(now), in_window < max as usize);
                if in_window < max as usize {
                    allowed.push(now);
                }
            }
        }
    }
}
