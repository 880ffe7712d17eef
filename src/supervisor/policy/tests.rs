//! The policy as a whole, against random lives of its workers, at a clock of the test's own.

use super::*;
use proptest::prelude::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a worker does once it was started.
#[derive(Debug, Clone, Copy)]
struct Life {
    /// When it is ready; `None`: never.
    ready: Option<u64>,
    /// When it fails after that.
    fails: u64,
    device: bool,
    random: u64,
}

#[derive(Debug, Clone)]
struct Plan {
    config: PolicyConfig,
    workers: usize,
    lives: Vec<Life>,
}

prop_compose! {
    fn life()(ready in proptest::option::of(1u64..50), fails in prop_oneof![1u64..100, 100u64..20_000],
              device: bool, random: u64) -> Life {
        Life { ready, fails, device, random }
    }
}

prop_compose! {
    fn plan()(max_restarts in 1u32..8, window in 100u64..10_000, initial in 1u64..200, more in 0u64..2_000,
              failures in 1u32..6, open in 1u64..3_000, open_more in 0u64..10_000, stable in 1u64..3_000,
              reset in 1u64..10_000, workers in 1usize..4, lives in proptest::collection::vec(life(), 4..120)) -> Plan {
        let backoff = BackoffTimes {
            initial: ms(initial), max: ms(initial + more), jitter_percent: 10, reset: ms(reset), device_factor: 2,
        };
        let breaker = BreakerLimits { failures, open: ms(open), open_max: ms(open + open_more), stable: ms(stable) };
        Plan { config: PolicyConfig { max_restarts, window: ms(window), backoff, breaker }, workers, lives }
    }
}

/// What a worker is about to do, and when.
#[derive(Clone, Copy)]
enum Coming {
    Ready(Instant, Life),
    Failure(Instant, Life),
}

impl Coming {
    fn of(now: Instant, life: Life) -> Self {
        match life.ready {
            Some(after) => Self::Ready(now + ms(after), life),
            None => Self::Failure(now + ms(life.fails), life),
        }
    }

    fn at(&self) -> Instant {
        match self {
            Self::Ready(at, _) | Self::Failure(at, _) => *at,
        }
    }
}

proptest! {
    #[test]
    fn restarts_are_limited_probes_are_single_and_no_worker_is_lost(plan in plan()) {
        live(plan)?;
    }
}

/// Lives all lives, and checks what the policy says of each.
fn live(plan: Plan) -> Result<(), TestCaseError> {
    let Plan { config, workers, lives } = plan;
    let mut lives = lives.into_iter();
    let mut policy = RestartPolicy::new(config, workers);
    let mut now = Instant::now();
    let mut running: Vec<Option<Coming>> = vec![None; workers];
    let mut restarts = Vec::<Instant>::new();
    let mut open_until = vec![None::<Instant>; workers];
    for slot in &mut running {
        *slot = lives.next().map(|life| Coming::of(now, life));
    }
    // Ends when the lives do; each step uses up one, or is one of the few that a life has.
    loop {
        for (i, action) in policy.due(now) {
            match action {
                Action::Restart => restarts.push(now),
                Action::Probe => {
                    let until = open_until[i].take();
                    prop_assert!(until.is_some_and(|until| until <= now), "a probe that is not due");
                    prop_assert_eq!(policy.breaker(i), BreakerState::HalfOpen);
                }
                Action::Open(until) => {
                    prop_assert!(until > now && open_until[i].is_none());
                    open_until[i] = Some(until);
                }
                Action::Closed => prop_assert_eq!(policy.breaker(i), BreakerState::Closed),
            }
            if matches!(action, Action::Restart | Action::Probe) {
                prop_assert!(running[i].is_none(), "started while it runs");
                let Some(life) = lives.next() else { return Ok(()) };
                running[i] = Some(Coming::of(now, life));
            }
        }
        let in_window = restarts.iter().filter(|then| now - **then < config.window).count();
        prop_assert!(in_window <= config.max_restarts as usize, "{in_window} restarts in a window");

        let others = policy.next();
        prop_assert!(running.iter().all(Option::is_some) || others.is_some(), "a worker is lost");
        let first = running.iter().enumerate().filter_map(|(i, coming)| Some((coming.as_ref()?.at(), i))).min();
        let at = first.map(|(at, _)| at).into_iter().chain(others).min().unwrap();
        prop_assert!(at > now || others != Some(at), "what is due stays due");
        now = now.max(at);
        let Some((_, i)) = first.filter(|(at, _)| *at <= now) else { continue };
        match running[i].unwrap() {
            Coming::Ready(at, life) => {
                policy.ready(i, now);
                running[i] = Some(Coming::Failure(at + ms(life.fails), life));
                prop_assert_eq!(policy.all_open(), None, "one runs");
            }
            Coming::Failure(_, life) => {
                running[i] = None;
                match policy.failed(i, now, life.device, life.random) {
                    Verdict::Restart(wait) => prop_assert!(wait <= config.backoff.max),
                    Verdict::Open(until) => {
                        let time = until - now;
                        prop_assert!(time >= config.breaker.open && time <= config.breaker.open_max);
                        open_until[i] = Some(until);
                    }
                }
            }
        }
        let is_ready = |i: usize| matches!(running[i], Some(Coming::Failure(_, Life { ready: Some(_), .. })));
        let probing = |i: usize| policy.breaker(i) == BreakerState::HalfOpen && !is_ready(i);
        let all_out = (0..workers).all(|i| open_until[i].is_some() || probing(i));
        prop_assert_eq!(policy.all_open().is_some(), all_out);
        if open_until.iter().all(Option::is_some) {
            prop_assert_eq!(policy.all_open(), open_until.iter().flatten().min().copied());
        }
    }
}

fn policy(workers: usize) -> RestartPolicy {
    RestartPolicy::new((&SupervisorConfig::default()).into(), workers)
}

#[test]
fn the_eleventh_restart_within_a_minute_opens_the_breaker_of_its_worker_only() {
    let (start, mut policy) = (Instant::now(), policy(11));
    for i in 0..11 {
        policy.ready(i, start);
        assert_eq!(policy.failed(i, start, false, 0), Verdict::Restart(Duration::ZERO));
    }
    let actions = policy.due(start);
    assert_eq!(actions[..10], (0..10).map(|i| (i, Action::Restart)).collect::<Vec<_>>());
    assert_eq!(actions[10..], [(10, Action::Open(start + ms(300_000)))]);
    assert_eq!(policy.all_open(), None, "ten others are started");
}

#[test]
fn a_reset_starts_what_waits_and_forgets() {
    let (start, mut policy) = (Instant::now(), policy(1));
    let mut now = start;
    loop {
        policy.ready(0, now);
        match policy.failed(0, now, false, u64::MAX) {
            Verdict::Restart(wait) => now += wait,
            Verdict::Open(until) => break assert_eq!(until - now, ms(300_000)),
        }
        assert_eq!(policy.due(now), [(0, Action::Restart)]);
    }
    assert_eq!((policy.all_open(), policy.due(now)), (Some(now + ms(300_000)), vec![]));
    policy.reset(now);
    assert_eq!((policy.all_open(), policy.breaker(0)), (None, BreakerState::Closed));
    assert_eq!(policy.due(now), [(0, Action::Restart)]);
    assert_eq!(policy.next(), None);
    policy.ready(0, now);
    assert_eq!(policy.failed(0, now, false, 0), Verdict::Restart(Duration::ZERO), "as the first one");
}
