//! A fault that a request asks for, and what has to come of it.

pub(crate) use crate::support::again::this_test;
pub use crate::support::again::{dies, in_a_child, role, run, succeeds};
use crate::support::{self, LONG, in_processes, read};
use llamapen::{
    CrashReason, EngineConfig, Failed, Fault, Request, State, Status, Supervisor, SupervisorConfig, TaintPolicy,
    TokenStream,
};
use std::time::{Duration, Instant};

pub struct Case {
    pub fault: Fault,
    pub engine: EngineConfig,
    /// What its message says, among others.
    pub message: &'static str,
    pub reason: CrashReason,
    pub bare: Bare,
    /// How long the worker's loop may stand still, where it is that which ends the fault.
    pub stall_limit: Option<Duration>,
}

/// What it comes to where the signal handlers are not installed.
#[derive(Clone, Copy)]
pub enum Bare {
    /// The process dies of this signal.
    Dies(i32),
    /// The same: it is contained without them.
    Contained,
    /// Nothing that a test could wait for: a thread that never ends.
    Hangs,
}

impl Case {
    pub fn new(fault: Fault, message: &'static str, reason: CrashReason, bare: Bare) -> Self {
        Self { fault, engine: engine(), message, reason, bare, stall_limit: None }
    }

    /// Shows it. The calling test runs again in a child process, where this function does the work. Workers that are processes
    /// need no handlers in their host.
    pub fn show(&self, test: &str) {
        match role().as_deref() {
            None => {
                succeeds(&run(test, "contained"));
                match self.bare {
                    _ if in_processes() => {}
                    Bare::Dies(signal) => dies(&run(test, "bare"), signal),
                    Bare::Contained => succeeds(&run(test, "contained without handlers")),
                    Bare::Hangs => {}
                }
            }
            Some("contained") => self.contained(true),
            Some("contained without handlers") => self.contained(false),
            Some(_) => {
                let supervisor = support::start_with(&self.engine, self.config().with_contain_faults(false));
                assert!(!supervisor.health().unwrap().contains_faults);
                let _ = read(supervisor.submit(faulty(self.fault)).unwrap());
            }
        }
    }

    fn config(&self) -> SupervisorConfig {
        let config = SupervisorConfig::default().with_taint(TaintPolicy::Continue);
        match self.stall_limit {
            Some(limit) => config.with_stall_limit(limit),
            None => config,
        }
    }

    /// Twice, so that what is left of the first does not trouble the second.
    fn contained(&self, handlers: bool) {
        let supervisor = support::start_with(&self.engine, self.config().with_contain_faults(handlers));
        assert_eq!(supervisor.health().unwrap().contains_faults, handlers && !in_processes());
        let before = read(supervisor.submit(plain()).unwrap()).unwrap();
        let held = support::held();
        for round in 1..=2 {
            let failed = failed_with_its_worker(supervisor.submit(faulty(self.fault)).unwrap());
            assert!(failed.message.contains(self.message), "{failed:?}");
            let after = read(supervisor.submit(plain()).unwrap()).unwrap();
            assert_eq!(after.tokens, before.tokens, "the new worker computes the same");
            let health = supervisor.health().unwrap();
            let crash = health.workers[0].last_crash.as_ref().unwrap();
            assert_eq!((crash.reason, health.workers[0].restarts, health.state), (self.reason, round, State::Ready));
            assert_eq!(health.tainted, taints(self.reason));
            assert_eq!(crash.exit.is_some(), in_processes());
            support::holds_at_most(held);
        }
        stops(&supervisor);
    }
}

/// Whether this process may have been damaged.
pub fn taints(reason: CrashReason) -> bool {
    reason == CrashReason::Signal && !in_processes()
}

/// A request whose answer is always the same.
pub fn plain() -> Request {
    Request::prompt("One, two,").with_temperature(0.0).with_max_tokens(12).with_ignore_eos(true)
}

/// The same with a fault, which it does not outlive.
pub fn faulty(fault: Fault) -> Request {
    plain().with_max_resumes(0).with_fault(fault)
}

/// The end of a request that was in a worker when that failed.
pub fn failed_with_its_worker(stream: TokenStream) -> Failed {
    let failed = read(stream).unwrap_err();
    assert!(failed.status == Status::WorkerReset && failed.retriable, "{failed:?}");
    failed
}

/// One worker of two threads, ready.
pub fn start(config: SupervisorConfig) -> Supervisor {
    support::start_with(&engine(), config)
}

fn engine() -> EngineConfig {
    support::config().with_threads(2)
}

pub fn stops(supervisor: &Supervisor) {
    let began = Instant::now();
    supervisor.stop().unwrap();
    assert!(began.elapsed() < LONG);
}
