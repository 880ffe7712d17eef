//! Workers that are processes: how they die and are told apart, what they may do, and that nothing of them is left. Needs the
//! `fault-injection` feature.
#![cfg(feature = "fault-injection")]

mod confinement;
mod deaths;
mod escalation;
mod host;
mod life;
mod spare;
#[path = "../support/mod.rs"]
mod support;

use llamapen::{EngineConfig, Fault, Isolation, Request, Supervisor, SupervisorConfig};
use std::time::Duration;

fn engine() -> EngineConfig {
    support::config().with_isolation(Isolation::Process)
}

/// Restarts do not wait, and nobody is blamed.
fn config() -> SupervisorConfig {
    let ms = Duration::from_millis;
    SupervisorConfig::default()
        .with_restarts(1000, ms(60_000))
        .with_backoff(ms(1), ms(1))
        .with_breaker_failures(1000)
        .with_quarantine(Duration::ZERO)
        .with_stall_limit(ms(5_000))
}

fn start() -> Supervisor {
    support::start_with(&engine(), config())
}

/// A request whose answer is always the same.
fn plain() -> Request {
    Request::prompt("One, two,").with_temperature(0.0).with_max_tokens(12).with_ignore_eos(true)
}

/// The same with a fault that it does not outlive.
fn faulty(fault: Fault) -> Request {
    plain().with_max_resumes(0).with_fault(fault)
}

fn pid(supervisor: &Supervisor) -> u32 {
    supervisor.health().unwrap().workers[0].process.as_ref().expect("a process").pid
}

/// Whether there is a process of this number, dead or alive.
fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    host::run();
}
