//! The restart policy: when to start a worker again, and when to leave it alone. Pure: the caller brings the clock and
//! the random numbers, and does what comes out.

mod backoff;
mod breaker;
mod limiter;
#[cfg(test)]
mod tests;

pub use breaker::BreakerState;

use crate::config::SupervisorConfig;
use backoff::{Backoff, BackoffTimes};
use breaker::{Breaker, BreakerLimits};
use limiter::Limiter;
use std::time::{Duration, Instant};

/// All its numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct PolicyConfig {
    max_restarts: u32,
    window: Duration,
    backoff: BackoffTimes,
    breaker: BreakerLimits,
}

impl From<&SupervisorConfig> for PolicyConfig {
    fn from(config: &SupervisorConfig) -> Self {
        let ms = Duration::from_millis;
        Self {
            max_restarts: config.max_restarts,
            window: ms(config.restart_window_ms),
            backoff: BackoffTimes {
                initial: ms(config.backoff_initial_ms),
                max: ms(config.backoff_max_ms),
                jitter_percent: config.backoff_jitter_percent,
                reset: ms(config.backoff_reset_ms),
                device_factor: config.backoff_device_factor,
            },
            breaker: BreakerLimits {
                failures: config.breaker_failures,
                open: ms(config.breaker_open_ms),
                open_max: ms(config.breaker_open_max_ms),
                stable: ms(config.breaker_stable_ms),
            },
        }
    }
}

/// Over all workers of a supervisor.
#[derive(Debug)]
pub(super) struct RestartPolicy {
    limiter: Limiter,
    workers: Vec<WorkerPolicy>,
}

#[derive(Debug)]
struct WorkerPolicy {
    backoff: Backoff,
    breaker: Breaker,
    ready_since: Option<Instant>,
    restart_at: Option<Instant>,
}

/// What becomes of a worker that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is restarted after so long.
    Restart(Duration),
    /// It failed too often in a row: nothing until then.
    Open(Instant),
}

/// What is to be done with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start it again.
    Restart,
    /// Start it, to see whether it works again.
    Probe,
    /// Nothing until then: there were too many restarts.
    Open(Instant),
    /// Nothing: it has proved itself.
    Closed,
}

impl RestartPolicy {
    pub(super) fn new(config: PolicyConfig, workers: usize) -> Self {
        let worker = || WorkerPolicy {
            backoff: Backoff::new(config.backoff),
            breaker: Breaker::new(config.breaker),
            ready_since: None,
            restart_at: None,
        };
        let limiter = Limiter::new(config.max_restarts, config.window);
        Self { limiter, workers: (0..workers).map(|_| worker()).collect() }
    }

    /// A worker decoded its first token.
    pub(super) fn ready(&mut self, i: usize, now: Instant) {
        let worker = &mut self.workers[i];
        worker.ready_since = Some(now);
        worker.breaker.ready(now);
    }

    /// A worker failed. `device`: of a device's fault.
    pub(super) fn failed(&mut self, i: usize, now: Instant, device: bool, random: u64) -> Verdict {
        let worker = &mut self.workers[i];
        let ready_for = worker.ready_since.take().map(|since| now.saturating_duration_since(since));
        worker.breaker.failed(now);
        let wait = worker.backoff.failed(ready_for, device, random);
        if let Some(until) = worker.breaker.open_until() {
            return Verdict::Open(until);
        }
        worker.restart_at = Some(now + wait);
        Verdict::Restart(wait)
    }

    /// What is due, by worker. The limiter is asked when a restart is, not when it is planned: so it counts what happens.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(usize, Action)> {
        let limiter = &mut self.limiter;
        let one = |worker: &mut WorkerPolicy| {
            if worker.breaker.try_probe(now) {
                return Some(Action::Probe);
            }
            if worker.restart_at.take_if(|at| *at <= now).is_some() {
                if limiter.allow(now) {
                    return Some(Action::Restart);
                }
                worker.breaker.trip(now);
                return worker.breaker.open_until().map(Action::Open);
            }
            worker.breaker.turn(now).then_some(Action::Closed)
        };
        self.workers.iter_mut().map(one).enumerate().filter_map(|(i, action)| Some((i, action?))).collect()
    }

    /// When something will be due, if nothing happens until then.
    pub(super) fn next(&self) -> Option<Instant> {
        self.workers.iter().flat_map(|worker| [worker.restart_at, worker.breaker.next()]).flatten().min()
    }

    /// If no worker can be expected but by a probe: when the next one starts. A past moment: one is starting.
    pub(super) fn all_open(&self) -> Option<Instant> {
        let probe = |worker: &WorkerPolicy| worker.breaker.open_until().or_else(|| worker.breaker.probing_since());
        let probes: Option<Vec<Instant>> = self.workers.iter().map(probe).collect();
        probes?.into_iter().min()
    }

    pub(super) fn breaker(&self, i: usize) -> BreakerState {
        self.workers[i].breaker.state()
    }

    /// Forgets all failures and restarts. Workers that wait for a restart or a probe are due at once.
    pub(super) fn reset(&mut self, now: Instant) {
        self.limiter.reset();
        for worker in &mut self.workers {
            if worker.restart_at.is_some() || worker.breaker.open_until().is_some() {
                worker.restart_at = Some(now);
            }
            worker.backoff.reset();
            worker.breaker.reset();
        }
    }
}
