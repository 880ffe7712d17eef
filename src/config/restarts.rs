//! The part of [`SupervisorConfig`] that says when workers are restarted.

use super::{SupervisorConfig, in_ms, in_range};
use crate::error::Result;
use std::time::Duration;

const DAY_MS: u64 = 86_400_000;

impl SupervisorConfig {
    /// Sets [`max_restarts`](Self::max_restarts) and its window.
    #[must_use]
    pub fn with_restarts(mut self, max: u32, window: Duration) -> Self {
        self.max_restarts = max;
        self.restart_window_ms = in_ms(window);
        self
    }

    /// Sets [`backoff_initial_ms`](Self::backoff_initial_ms) and [`backoff_max_ms`](Self::backoff_max_ms).
    #[must_use]
    pub fn with_backoff(mut self, initial: Duration, max: Duration) -> Self {
        (self.backoff_initial_ms, self.backoff_max_ms) = (in_ms(initial), in_ms(max));
        self
    }

    /// Sets [`backoff_jitter_percent`](Self::backoff_jitter_percent).
    #[must_use]
    pub fn with_backoff_jitter(mut self, percent: u32) -> Self {
        self.backoff_jitter_percent = percent;
        self
    }

    /// Sets [`backoff_reset_ms`](Self::backoff_reset_ms).
    #[must_use]
    pub fn with_backoff_reset(mut self, stable: Duration) -> Self {
        self.backoff_reset_ms = in_ms(stable);
        self
    }

    /// Sets [`backoff_device_factor`](Self::backoff_device_factor).
    #[must_use]
    pub fn with_backoff_device_factor(mut self, factor: u32) -> Self {
        self.backoff_device_factor = factor;
        self
    }

    /// Sets [`breaker_failures`](Self::breaker_failures).
    #[must_use]
    pub fn with_breaker_failures(mut self, in_a_row: u32) -> Self {
        self.breaker_failures = in_a_row;
        self
    }

    /// Sets [`breaker_open_ms`](Self::breaker_open_ms) and [`breaker_open_max_ms`](Self::breaker_open_max_ms).
    #[must_use]
    pub fn with_breaker_open(mut self, first: Duration, max: Duration) -> Self {
        (self.breaker_open_ms, self.breaker_open_max_ms) = (in_ms(first), in_ms(max));
        self
    }

    /// Sets [`breaker_stable_ms`](Self::breaker_stable_ms).
    #[must_use]
    pub fn with_breaker_stable(mut self, stable: Duration) -> Self {
        self.breaker_stable_ms = in_ms(stable);
        self
    }

    pub(super) fn validate_restarts(&self) -> Result<()> {
        in_range("max_restarts", self.max_restarts, 1..=1_000_000)?;
        in_range("restart_window_ms", self.restart_window_ms, 1..=DAY_MS)?;
        in_range("backoff_initial_ms", self.backoff_initial_ms, 1..=DAY_MS)?;
        in_range("backoff_max_ms", self.backoff_max_ms, self.backoff_initial_ms..=DAY_MS)?;
        in_range("backoff_jitter_percent", self.backoff_jitter_percent, 0..=50)?;
        in_range("backoff_reset_ms", self.backoff_reset_ms, 1..=DAY_MS)?;
        in_range("backoff_device_factor", self.backoff_device_factor, 1..=16)?;
        in_range("breaker_failures", self.breaker_failures, 1..=1_000_000)?;
        in_range("breaker_open_ms", self.breaker_open_ms, 1..=DAY_MS)?;
        in_range("breaker_open_max_ms", self.breaker_open_max_ms, self.breaker_open_ms..=7 * DAY_MS)?;
        in_range("breaker_stable_ms", self.breaker_stable_ms, 1..=DAY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_range() {
        let ranges = [
            ("max_restarts", 1, 1_000_000),
            ("restart_window_ms", 1, DAY_MS),
            ("backoff_initial_ms", 1, 60_000),
            ("backoff_max_ms", 1_000, DAY_MS),
            ("backoff_jitter_percent", 0, 50),
            ("backoff_reset_ms", 1, DAY_MS),
            ("backoff_device_factor", 1, 16),
            ("breaker_failures", 1, 1_000_000),
            ("breaker_open_ms", 1, 3_600_000),
            ("breaker_open_max_ms", 300_000, 7 * DAY_MS),
            ("breaker_stable_ms", 1, DAY_MS),
        ];
        for (name, low, high) in ranges {
            let validate = |value: i128| {
                SupervisorConfig::from_json(&format!("{{\"{name}\": {value}}}")).and_then(|config| config.validate())
            };
            let (low, high) = (i128::from(low), i128::from(high));
            assert_eq!((validate(low).is_ok(), validate(high).is_ok()), (true, true), "{name}");
            for bad in [low - 1, high + 1] {
                assert!(validate(bad).is_err(), "{name}: {bad}");
            }
        }
    }

    #[test]
    fn setters_set() {
        let ms = Duration::from_millis;
        let built = SupervisorConfig::default()
            .with_restarts(1, ms(2))
            .with_backoff(ms(3), ms(4))
            .with_backoff_jitter(5)
            .with_backoff_reset(ms(6))
            .with_backoff_device_factor(7)
            .with_breaker_failures(8)
            .with_breaker_open(ms(9), ms(10))
            .with_breaker_stable(ms(11));
        let read = r#"{"max_restarts": 1, "restart_window_ms": 2, "backoff_initial_ms": 3, "backoff_max_ms": 4,
            "backoff_jitter_percent": 5, "backoff_reset_ms": 6, "backoff_device_factor": 7, "breaker_failures": 8,
            "breaker_open_ms": 9, "breaker_open_max_ms": 10, "breaker_stable_ms": 11}"#;
        assert_eq!(SupervisorConfig::from_json(read).unwrap(), built);
        built.validate().unwrap();
    }
}
