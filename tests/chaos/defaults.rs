//! The same faults, and a supervisor as it is shipped: it defends itself.

use crate::support::{self, LONG, read};
use crate::{engine, start};
use llamapen::{CrashReason, Fault, Request, State, Status, SupervisorConfig};

fn plain() -> Request {
    Request::prompt("One, two,").with_temperature(0.0).with_max_tokens(12).with_ignore_eos(true)
}

pub fn run() {
    taint();
    quarantine_and_breaker();
}

/// A memory fault stops the supervisor, and not the host.
fn taint() {
    let supervisor = start(&engine(), SupervisorConfig::default());
    let failed = read(supervisor.submit(plain().with_fault(Fault::NullWrite)).unwrap()).unwrap_err();
    assert_eq!(failed.status, Status::WorkerReset);
    support::eventually("it stops", || supervisor.health().unwrap().state == State::Failed);
    let health = supervisor.health().unwrap();
    assert!(health.tainted);
    println!("| taint: {}", health.last_error.unwrap());
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
