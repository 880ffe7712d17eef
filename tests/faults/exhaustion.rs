//! No memory: for C++, and for ggml.

use crate::case::{Bare, Case, failed_with_its_worker, faulty, in_a_child, plain, start, stops, this_test};
use crate::support::{self, LONG, read};
use llamapen::{CrashReason, Fault, StartFault, State, Status, Supervisor, SupervisorConfig, prepare};
use std::time::Duration;

/// `operator new`, inside `llama_decode`.
#[test]
fn bad_alloc() {
    let message = "out of memory: std::bad_alloc";
    Case::new(Fault::BadAlloc, message, CrashReason::HostOutOfMemory, Bare::Contained).show(this_test!());
}

#[test]
fn bad_alloc_on_a_compute_thread() {
    let message = "out of memory: std::bad_alloc, on a compute thread";
    let bare = Bare::Dies(libc::SIGABRT);
    Case::new(Fault::ComputeBadAlloc, message, CrashReason::HostOutOfMemory, bare).show(this_test!());
}

/// A worker that fails gets no memory for its next context, and gets it at the second try.
#[test]
fn a_context_when_a_worker_restarts() {
    in_a_child(this_test!(), || {
        let config = SupervisorConfig::default().with_backoff(Duration::from_millis(20), Duration::from_millis(20));
        let supervisor = start(config.with_fault(StartFault::RestartMemory));
        let before = read(supervisor.submit(plain()).unwrap()).unwrap();
        failed_with_its_worker(supervisor.submit(faulty(Fault::Abort)).unwrap());
        support::eventually("the first restart fails", || {
            supervisor.health().unwrap().last_error_status == Some(Status::OutOfMemory)
        });
        assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens, before.tokens);
        let health = supervisor.health().unwrap();
        assert_eq!((health.state, health.workers[0].restarts, health.tainted), (State::Ready, 2, false));
        let crashes = &supervisor.metrics().unwrap().workers[0].crashes_total;
        assert_eq!((crashes["ABORT"], crashes["HOST_OUT_OF_MEMORY"]), (1, 1));
        stops(&supervisor);
    });
}

/// The first start fails for good; another supervisor works.
#[test]
fn a_context_at_the_first_start() {
    in_a_child(this_test!(), || {
        let engine = prepare(&support::config().with_threads(2)).unwrap();
        let config = SupervisorConfig::default().with_fault(StartFault::ContextMemory);
        let supervisor = Supervisor::start(engine, config).unwrap();
        let error = supervisor.wait_ready(Some(LONG)).unwrap_err();
        assert_eq!(error.status(), Status::OutOfMemory, "{error}");
        assert_eq!(supervisor.health().unwrap().state, State::Failed);
        let second = start(SupervisorConfig::default());
        assert_eq!(read(second.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
        stops(&supervisor);
        stops(&second);
    });
}
