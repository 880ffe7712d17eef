//! Workers that fail too often are left alone for a while, tried once, and trusted again. Needs the `fault-injection` feature.
#![cfg(feature = "fault-injection")]

mod support;

use llamapen::{
    BreakerState, EngineConfig, Error, Event, Fault, Health, Next, Request, State, Status, Supervisor, SupervisorConfig,
};
use std::time::Duration;
use support::{LONG, read};

const NEVER: Duration = Duration::from_secs(86_400);

fn start(config: SupervisorConfig) -> Supervisor {
    support::start_with(&support::config(), config)
}

/// Fails its worker.
fn crash(supervisor: &Supervisor) {
    let request = Request::prompt("a").with_ignore_eos(true).with_max_resumes(0).with_fault(Fault::Panic);
    assert_eq!(read(supervisor.submit(request).unwrap()).unwrap_err().status, Status::WorkerReset);
}

fn answers(supervisor: &Supervisor) {
    let request = Request::prompt("a").with_max_tokens(2).with_ignore_eos(true);
    assert_eq!(read(supervisor.submit(request).unwrap()).unwrap().tokens.len(), 2);
}

fn until(supervisor: &Supervisor, what: &str, done: impl Fn(&Health) -> bool) {
    support::eventually(what, || done(&supervisor.health().unwrap()));
}

fn until_open(supervisor: &Supervisor) {
    until(supervisor, "the circuit is open", |health| health.state == State::CircuitOpen);
}

/// When to try again, according to the refusal of a request.
fn refused(supervisor: &Supervisor) -> Duration {
    let error = supervisor.submit(Request::prompt("a")).err().unwrap();
    let Error::Rejected(rejected) = &error else { panic!("{error:?}") };
    assert_eq!((rejected.status, rejected.policy, rejected.retriable), (Status::PoolUnavailable, "breaker", true));
    assert!(rejected.message.contains("injected panic"), "{error}");
    error.retry_after().unwrap()
}

fn breaker(supervisor: &Supervisor) -> BreakerState {
    supervisor.health().unwrap().workers[0].breaker
}

/// It goes back to the queue, where the dead worker may still be looking for one, and the circuit opens meanwhile.
#[test]
fn a_request_that_opens_the_circuit_ends_with_it() {
    let config = SupervisorConfig::default().with_breaker_failures(1).with_quarantine(Duration::ZERO);
    // With a free slot: who has none does not look.
    let supervisor = support::start_with(&support::config().with_slots(2), config);
    let request = Request::prompt("a").with_ignore_eos(true).with_fault(Fault::PanicAlways);
    for round in 0..20 {
        let stream = supervisor.submit(request.clone()).unwrap();
        let failed = loop {
            match stream.next_event(Some(LONG)).unwrap() {
                Next::Event(Event::Failed(failed)) => break failed,
                Next::Event(_) => {}
                other => panic!("{other:?} in round {round}"),
            }
        };
        assert_eq!((failed.status, failed.retriable), (Status::PoolUnavailable, true));
        until_open(&supervisor);
        supervisor.reset_breaker().unwrap();
        assert!(supervisor.wait_ready(Some(LONG)).unwrap());
    }
}

#[test]
fn too_many_restarts_open_the_circuit_say_why_and_a_reset_closes_it() {
    let open = Duration::from_secs(300);
    let supervisor = start(SupervisorConfig::default().with_restarts(2, NEVER).with_breaker_failures(1000));
    crash(&supervisor);
    crash(&supervisor);
    // The slot is taken by the one that crashes, so the other waits.
    let faulty = supervisor
        .submit(Request::prompt("a").with_ignore_eos(true).with_max_resumes(0).with_fault(Fault::Panic))
        .unwrap();
    let waiting = supervisor.submit(Request::prompt("a")).unwrap();
    assert_eq!(read(faulty).unwrap_err().status, Status::WorkerReset);

    let failed = read(waiting).unwrap_err();
    assert_eq!((failed.status, failed.retriable), (Status::PoolUnavailable, true));
    let after = Duration::from_millis(failed.retry_after_ms.unwrap());
    assert!(failed.message.contains("2 restarts within") && after <= open && after > open / 2, "{failed:?}");
    let health = supervisor.health().unwrap();
    assert_eq!((health.state, health.ready, health.queue_depth), (State::CircuitOpen, false, 0));
    assert_eq!((health.workers[0].breaker, health.workers[0].restarts), (BreakerState::Open, 2));
    assert_eq!(health.last_error_status, Some(Status::PoolUnavailable));
    assert!(health.last_error.unwrap().contains("2 restarts within 86400000 ms"));
    assert_eq!(serde_json::to_value(health.state).unwrap(), "CIRCUIT_OPEN");
    let after = refused(&supervisor);
    assert!(after <= open && after > open / 2, "{after:?}");
    assert!(!supervisor.wait_ready(Some(Duration::from_millis(1))).unwrap(), "it passes, so it is waited for");
    assert!(supervisor.health().unwrap().live);

    supervisor.reset_breaker().unwrap();
    answers(&supervisor);
    let health = supervisor.health().unwrap();
    assert_eq!(
        (health.state, health.workers[0].breaker, health.workers[0].restarts),
        (State::Ready, BreakerState::Closed, 3)
    );
    crash(&supervisor);
    answers(&supervisor);
}

#[test]
fn after_its_time_one_probe_starts_and_a_stable_one_closes_the_breaker() {
    let (open, stable) = (Duration::from_secs(2), Duration::from_millis(300));
    let config = SupervisorConfig::default().with_breaker_failures(1);
    let supervisor = start(config.with_breaker_open(open, open).with_breaker_stable(stable));
    // Not ready for long enough to be trusted at once: its first failure counts all the same.
    crash(&supervisor);
    until_open(&supervisor);
    assert!(refused(&supervisor) <= open);
    assert!(supervisor.wait_ready(Some(support::LONG)).unwrap());
    answers(&supervisor);
    until(&supervisor, "the breaker closes", |health| health.workers[0].breaker == BreakerState::Closed);
    let health = supervisor.health().unwrap();
    assert_eq!((health.state, health.workers[0].restarts), (State::Ready, 1));
    answers(&supervisor);
}

#[test]
fn a_worker_on_trial_that_fails_waits_twice_as_long() {
    let open = Duration::from_secs(2);
    let config = SupervisorConfig::default().with_breaker_failures(1);
    let supervisor = start(config.with_breaker_open(open, NEVER).with_breaker_stable(NEVER));
    crash(&supervisor);
    until_open(&supervisor);
    assert!(supervisor.wait_ready(Some(support::LONG)).unwrap());
    assert_eq!((supervisor.health().unwrap().state, breaker(&supervisor)), (State::Ready, BreakerState::HalfOpen));
    crash(&supervisor);
    until_open(&supervisor);
    let after = refused(&supervisor);
    assert!(after > open && after <= 2 * open, "{after:?}");
    assert_eq!(breaker(&supervisor), BreakerState::Open);
    assert!(supervisor.health().unwrap().last_error.unwrap().contains("when it was tried"));
}

/// As long as one worker runs, requests are taken.
#[test]
fn an_open_breaker_of_one_worker_does_not_stop_the_other() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let engine: EngineConfig = support::config().with_workers(2);
    let supervisor = support::start_with(&engine, SupervisorConfig::default().with_breaker_failures(1));
    until(&supervisor, "both are ready", |health| health.state == State::Ready);
    crash(&supervisor);
    until(&supervisor, "one is left alone", |health| {
        health.workers.iter().filter(|worker| worker.breaker == BreakerState::Open).count() == 1
    });
    assert_eq!(supervisor.health().unwrap().state, State::Degraded);
    answers(&supervisor);
    crash(&supervisor);
    until_open(&supervisor);
    refused(&supervisor);
}

#[test]
fn what_was_stopped_or_failed_cannot_be_reset() {
    let supervisor = start(SupervisorConfig::default());
    supervisor.reset_breaker().unwrap();
    answers(&supervisor);
    supervisor.stop().unwrap();
    assert_eq!(supervisor.reset_breaker().unwrap_err().status(), Status::PoolUnavailable);
}

/// An open circuit keeps no supervisor from stopping, and its waiting threads are told.
#[test]
fn stops_while_the_circuit_is_open() {
    let supervisor = start(SupervisorConfig::default().with_breaker_failures(1));
    crash(&supervisor);
    until_open(&supervisor);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| supervisor.wait_ready(None));
        supervisor.stop().unwrap();
        assert_eq!(waiting.join().unwrap().unwrap_err().status(), Status::PoolUnavailable);
    });
    assert_eq!(supervisor.health().unwrap().state, State::Stopped);
}
