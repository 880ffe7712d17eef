//! A circuit breaker: what fails again and again is left alone for a while, then tried once.

use serde::Serialize;
use std::time::{Duration, Instant};

const LARGEST_EXPONENT: u32 = 31;

/// The numbers, in the words of [`SupervisorConfig`](crate::SupervisorConfig).
#[derive(Debug, Clone, Copy)]
pub(crate) struct BreakerLimits {
    /// Failures in a row that open it.
    pub failures: u32,
    pub open: Duration,
    pub open_max: Duration,
    /// Ready for so long, a worker is trusted again.
    pub stable: Duration,
}

/// State of a worker's circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum BreakerState {
    /// The worker is restarted when it fails.
    Closed,
    /// It failed too often and is not started for a while.
    Open,
    /// It is tried once: it starts, or runs and has to prove itself. The next failure opens the breaker for longer.
    HalfOpen,
}

/// The breaker of one worker.
#[derive(Debug)]
pub(crate) struct Breaker {
    limits: BreakerLimits,
    circuit: Circuit,
    /// In a row: without a stable time in between.
    failures: u32,
    /// In a row, too.
    openings: u32,
    ready_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    Closed,
    Open { until: Instant },
    HalfOpen { since: Instant },
}

impl Breaker {
    pub(crate) fn new(limits: BreakerLimits) -> Self {
        Self { limits, circuit: Circuit::Closed, failures: 0, openings: 0, ready_since: None }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.circuit {
            Circuit::Closed => BreakerState::Closed,
            Circuit::Open { .. } => BreakerState::Open,
            Circuit::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// When its probe starts, if it is open.
    pub(crate) fn open_until(&self) -> Option<Instant> {
        match self.circuit {
            Circuit::Open { until } => Some(until),
            _ => None,
        }
    }

    /// Since when its probe has been starting, if it is and is not ready.
    pub(crate) fn probing_since(&self) -> Option<Instant> {
        match self.circuit {
            Circuit::HalfOpen { since } if self.ready_since.is_none() => Some(since),
            _ => None,
        }
    }

    /// The worker became ready.
    pub(crate) fn ready(&mut self, now: Instant) {
        if !matches!(self.circuit, Circuit::Open { .. }) {
            self.ready_since.get_or_insert(now);
        }
    }

    /// The worker failed, in whatever way.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.turn(now);
        self.ready_since = None;
        match self.circuit {
            Circuit::Closed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.limits.failures {
                    self.trip(now);
                }
            }
            Circuit::HalfOpen { .. } => self.trip(now),
            Circuit::Open { .. } => {}
        }
    }

    /// Opens it, each time without a stable one in between for twice as long as before.
    pub(crate) fn trip(&mut self, now: Instant) {
        let BreakerLimits { open, open_max, .. } = self.limits;
        let time = open.saturating_mul(1 << self.openings.min(LARGEST_EXPONENT)).min(open_max);
        self.openings = self.openings.saturating_add(1);
        (self.failures, self.ready_since) = (0, None);
        self.circuit = Circuit::Open { until: now + time };
    }

    /// Whether to start the probe now: true once per opening, when its time is over.
    pub(crate) fn try_probe(&mut self, now: Instant) -> bool {
        let due = self.open_until().is_some_and(|until| until <= now);
        if due {
            self.circuit = Circuit::HalfOpen { since: now };
        }
        due
    }

    /// Forgets the failures of a worker that has been stable. True if that closes the breaker.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        let ready_for = self.ready_since.map(|since| now.saturating_duration_since(since));
        if ready_for.is_none_or(|time| time < self.limits.stable) {
            return false;
        }
        (self.failures, self.openings) = (0, 0);
        std::mem::replace(&mut self.circuit, Circuit::Closed) != Circuit::Closed
    }

    /// When to turn, or to try the probe.
    pub(crate) fn next(&self) -> Option<Instant> {
        match (self.circuit, self.ready_since) {
            (Circuit::Open { until }, _) => Some(until),
            (Circuit::HalfOpen { .. }, Some(since)) => Some(since + self.limits.stable),
            _ => None,
        }
    }

    /// As new; what runs goes on.
    pub(crate) fn reset(&mut self) {
        let ready_since = self.ready_since;
        *self = Self { ready_since, ..Self::new(self.limits) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn limits() -> BreakerLimits {
        super::super::PolicyConfig::from(&crate::SupervisorConfig::default()).breaker
    }

    #[test]
    fn five_failures_open_it_one_probe_and_a_stable_minute_close_it() {
        let (start, mut breaker) = (Instant::now(), Breaker::new(limits()));
        for second in 0..5 {
            assert_eq!(breaker.state(), BreakerState::Closed);
            breaker.ready(start + secs(second));
            breaker.failed(start + secs(second));
        }
        assert_eq!(breaker.next(), Some(start + secs(304)));
        assert!(!breaker.try_probe(start + secs(303)));
        assert!(breaker.try_probe(start + secs(304)) && !breaker.try_probe(start + secs(304)));
        assert_eq!((breaker.state(), breaker.probing_since()), (BreakerState::HalfOpen, Some(start + secs(304))));
        breaker.ready(start + secs(310));
        assert_eq!((breaker.probing_since(), breaker.next()), (None, Some(start + secs(370))));
        assert!(!breaker.turn(start + secs(369)));
        assert!(breaker.turn(start + secs(370)));
        assert_eq!((breaker.state(), breaker.next()), (BreakerState::Closed, None));
    }

    #[test]
    fn opening_again_takes_twice_as_long_up_to_an_hour() {
        let (mut now, mut breaker) = (Instant::now(), Breaker::new(limits()));
        breaker.trip(now);
        let mut times = vec![];
        for _ in 0..6 {
            let until = breaker.open_until().unwrap();
            times.push((until - now).as_secs());
            now = until;
            assert!(breaker.try_probe(now));
            breaker.ready(now);
            now += secs(59);
            breaker.failed(now);
        }
        assert_eq!(times, [300, 600, 1200, 2400, 3600, 3600]);
    }

    #[test]
    fn failures_with_a_stable_minute_in_between_are_not_in_a_row() {
        let (mut now, mut breaker) = (Instant::now(), Breaker::new(limits()));
        for _ in 0..20 {
            breaker.ready(now);
            now += secs(60);
            breaker.failed(now);
            assert_eq!(breaker.state(), BreakerState::Closed);
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Do {
        Ready,
        Fail,
        Trip,
        Probe,
        Turn,
    }

    fn steps() -> impl Strategy<Value = Vec<(Do, u64)>> {
        let one = prop_oneof![Just(Do::Ready), Just(Do::Fail), Just(Do::Trip), Just(Do::Probe), Just(Do::Turn)];
        proptest::collection::vec((one, 0u64..700), 0..120)
    }

    fn run(breaker: &mut Breaker, now: &mut Instant, (what, gap): (Do, u64)) -> bool {
        *now += secs(gap);
        match what {
            Do::Ready => breaker.ready(*now),
            Do::Fail => breaker.failed(*now),
            Do::Trip => breaker.trip(*now),
            Do::Probe => return breaker.try_probe(*now),
            Do::Turn => return breaker.turn(*now),
        }
        false
    }

    proptest! {
        /// Exactly one probe per opening, not before its time, and closed again only after a probe and the stable time.
        #[test]
        fn one_probe_per_opening_and_closed_only_when_stable(steps in steps()) {
            let (mut now, mut breaker) = (Instant::now(), Breaker::new(limits()));
            let (mut opened, mut ready_since) = (None::<Instant>, None::<Instant>);
            for step in steps {
                let (before, until) = (breaker.state(), breaker.open_until());
                let yes = run(&mut breaker, &mut now, step);
                match (before, breaker.state()) {
                    (BreakerState::Open, BreakerState::HalfOpen) => {
                        prop_assert!(yes && matches!(step.0, Do::Probe) && until.unwrap() <= now);
                        prop_assert!(now - opened.unwrap() >= limits().open, "not before its time");
                        ready_since = None;
                    }
                    (BreakerState::HalfOpen, BreakerState::Closed) => {
                        // A failure after the stable time is the first of a new row.
                        prop_assert!(matches!(step.0, Do::Turn | Do::Fail));
                        prop_assert!(ready_since.is_some_and(|since| now - since >= limits().stable));
                    }
                    (a, b) => {
                        prop_assert!((a, b) != (BreakerState::Open, BreakerState::Closed));
                        prop_assert!((a, b) != (BreakerState::Closed, BreakerState::HalfOpen));
                        prop_assert!(!(yes && matches!(step.0, Do::Probe)), "a probe that nobody opened for");
                    }
                }
                match step.0 {
                    Do::Ready if breaker.state() != BreakerState::Open => ready_since = ready_since.or(Some(now)),
                    Do::Fail | Do::Trip => ready_since = None,
                    _ => {}
                }
                if before != BreakerState::Open && breaker.state() == BreakerState::Open {
                    opened = Some(now);
                }
                if let Some(until) = breaker.open_until() {
                    prop_assert!(until <= now + limits().open_max);
                }
            }
        }

        #[test]
        fn a_reset_returns_to_the_initial_state(before in steps(), after in steps()) {
            let mut now = Instant::now();
            let (mut used, mut new) = (Breaker::new(limits()), Breaker::new(limits()));
            for step in before {
                run(&mut used, &mut now, step);
            }
            used.reset();
            prop_assert_eq!((used.state(), used.next()), (BreakerState::Closed, None));
            // What runs goes on: how long it has been ready is no matter of the breaker's.
            new.ready_since = used.ready_since;
            let mut later = now;
            for step in after {
                run(&mut used, &mut now, step);
                run(&mut new, &mut later, step);
                prop_assert_eq!((used.circuit, used.failures), (new.circuit, new.failures));
            }
        }
    }
}
