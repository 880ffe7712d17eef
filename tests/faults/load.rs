//! Faults while the model is loaded: the supervisor has failed, and says of what; the host and another supervisor go on.

use crate::case::{dies, in_a_child, plain, role, run, start, stops, succeeds, this_test};
use crate::support::{self, LONG, in_processes, read};
use llamapen::{Error, StartFault, State, Status, Supervisor, SupervisorConfig, prepare};
use std::time::{Duration, Instant};

fn starting(config: SupervisorConfig) -> Supervisor {
    Supervisor::start(prepare(&support::config().with_threads(2)).unwrap(), config).unwrap()
}

fn failure(supervisor: &Supervisor) -> Error {
    supervisor.wait_ready(Some(LONG)).unwrap_err()
}

/// Twice in a row; without handlers, the process that has threads for workers dies of `bare`.
fn show(test: &str, fault: StartFault, message: &str, tainted: bool, bare: Option<i32>) {
    let config = SupervisorConfig::default().with_fault(fault);
    match role().as_deref() {
        None => {
            succeeds(&run(test, "contained"));
            if let Some(signal) = bare
                && !in_processes()
            {
                dies(&run(test, "bare"), signal);
            }
        }
        Some("bare") => drop(failure(&starting(config.with_contain_faults(false)))),
        Some(_) => {
            let mut held = support::held();
            if !in_processes() {
                // A loader that is a thread and dies leaves the model's file open.
                held[1] = usize::MAX;
            }
            for _ in 0..2 {
                let supervisor = starting(config.clone());
                let error = failure(&supervisor);
                assert!(error.status() == Status::LoadFailed && error.to_string().contains(message), "{error}");
                let health = supervisor.health().unwrap();
                assert_eq!((health.state, health.tainted), (State::Failed, tainted && !in_processes()));
                assert_eq!(supervisor.submit(plain()).err().unwrap().status(), Status::PoolUnavailable);
                stops(&supervisor);
            }
            support::holds_at_most(held);
            works();
        }
    }
}

/// Another supervisor, without a fault.
fn works() {
    let supervisor = start(SupervisorConfig::default());
    assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
    stops(&supervisor);
}

#[test]
fn null_write() {
    show(this_test!(), StartFault::LoadNullWrite, "SIGSEGV (11), address 0x0,", true, Some(libc::SIGSEGV));
}

#[test]
fn abort() {
    show(this_test!(), StartFault::LoadAbort, "injected abort", false, Some(libc::SIGABRT));
}

/// llama.cpp catches it itself.
#[test]
fn exception() {
    show(this_test!(), StartFault::LoadException, "could not load the model", false, None);
}

#[test]
fn endless_loop() {
    in_a_child(this_test!(), || {
        let config = SupervisorConfig::default().with_fault(StartFault::LoadEndlessLoop);
        let supervisor = starting(config.with_load_stall_limit(Duration::from_secs(2)));
        let error = failure(&supervisor);
        assert!(error.status() == Status::LoadFailed && error.to_string().contains("stall: no progress"), "{error}");
        stops(&supervisor);
        works();
    });
}

/// Whoever gives up on it need not wait for the limit of a load.
#[test]
fn endless_loop_and_a_cancel_or_a_stop() {
    in_a_child(this_test!(), || {
        let config = SupervisorConfig::default().with_fault(StartFault::LoadEndlessLoop);
        let config = config.with_stall_limit(Duration::from_millis(200));
        let cancelled = starting(config.clone());
        cancelled.cancel_load().unwrap();
        assert_eq!(failure(&cancelled).status(), Status::Cancelled);
        let stopped = starting(config);
        let began = Instant::now();
        stopped.stop().unwrap();
        assert!(began.elapsed() < LONG, "far less than load_stall_limit_ms");
        works();
    });
}
