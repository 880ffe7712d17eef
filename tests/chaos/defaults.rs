//! The same faults, and a supervisor as it is shipped: it defends itself.

use crate::support::{self, LONG, read};
use crate::{engine, start};
use llamapen::{CrashReason, Fault, Isolation, Request, State, Status, SupervisorConfig, TaintPolicy};

fn plain() -> Request {
    Request::prompt("One, two,").with_temperature(0.0).with_max_tokens(12).with_ignore_eos(true)
}

pub fn run() {
    memory_fault();
    if !support::in_processes() {
        stop();
    }
    quarantine_and_breaker();
}

/// After it workers are processes, as they may have been before, and the request goes on there.
fn memory_fault() {
    let supervisor = start(&engine(), SupervisorConfig::default());
    let before = read(supervisor.submit(plain()).unwrap()).unwrap();
    for round in 1..=2 {
        let hit = plain().with_fault(Fault::NullWrite).with_fault_after(6);
        let after = read(supervisor.submit(hit).unwrap()).unwrap();
        assert_eq!((after.tokens, after.restarts), (before.tokens.clone(), 1));
        let health = supervisor.health().unwrap();
        assert_eq!((health.state, health.isolation), (State::Ready, Isolation::Process));
        assert_eq!(health.tainted, !support::in_processes());
        let pid = health.workers[0].process.as_ref().unwrap().pid;
        println!("| memory fault {round}: the answer goes on in process {pid}; tainted: {}", health.tainted);
    }
    supervisor.stop().unwrap();
}

/// What the supervisor does instead where it is asked to; the host goes on.
fn stop() {
    let supervisor = start(&engine(), SupervisorConfig::default().with_taint(TaintPolicy::Stop));
    let failed = read(supervisor.submit(plain().with_fault(Fault::NullWrite)).unwrap()).unwrap_err();
    assert_eq!(failed.status, Status::WorkerReset);
    support::eventually("it stops", || supervisor.health().unwrap().state == State::Failed);
    let health = supervisor.health().unwrap();
    assert!(health.tainted);
    println!("| memory fault, taint \"stop\": {}", health.last_error.unwrap());
    supervisor.stop().unwrap();
}

/// A request that workers die of is refused after the second; other ones that do so open the breaker.
fn quarantine_and_breaker() {
    let supervisor = start(&engine(), SupervisorConfig::default());
    let before = read(supervisor.submit(plain()).unwrap()).unwrap();
    let poison = |seed: u64| plain().with_seed(seed).with_fault(Fault::PanicAlways);
    let failed = read(supervisor.submit(poison(0)).unwrap()).unwrap_err();
    assert_eq!(failed.status, Status::PoisonedRequest);
    let refused = supervisor.submit(poison(0)).err().unwrap();
    assert_eq!((refused.status(), refused.policy()), (Status::PoisonedRequest, Some("quarantine")));
    println!("| quarantine: {refused}");
    assert!(supervisor.wait_ready(Some(LONG)).unwrap());
    assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens, before.tokens);

    for seed in 1.. {
        match supervisor.submit(poison(seed)) {
            Ok(stream) => assert!(read(stream).is_err()),
            Err(error) => {
                assert_eq!((error.status(), error.policy()), (Status::PoolUnavailable, Some("breaker")));
                println!("| breaker: {error}");
                break;
            }
        }
        assert!(seed < 5, "two crashes each: the third of these is one too many");
    }
    let health = supervisor.health().unwrap();
    assert_eq!(health.state, State::CircuitOpen);
    assert_eq!(health.workers[0].last_crash.as_ref().unwrap().reason, CrashReason::Panic);
    supervisor.reset_breaker().unwrap();
    assert!(supervisor.wait_ready(Some(LONG)).unwrap());
    assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens, before.tokens);
    println!("| reset: it answers as before");
}
