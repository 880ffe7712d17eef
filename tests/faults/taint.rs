//! What follows a memory fault of a thread, which may have written to memory of others before it was noticed, where the
//! supervisor is to stop then. By default workers become processes: `tests/process/escalation.rs`.

use crate::case::{failed_with_its_worker, faulty, in_a_child, plain, this_test};
use crate::reload::{one_slot, retired_with};
use crate::support::{self, eventually};
use llamapen::{EngineConfig, Fault, Isolation, State, Status, Supervisor, SupervisorConfig, TaintPolicy};

fn threads() -> EngineConfig {
    one_slot(4096).with_isolation(Isolation::Thread)
}

fn start() -> Supervisor {
    support::start_with(&threads(), SupervisorConfig::default().with_taint(TaintPolicy::Stop))
}

#[test]
fn the_supervisor_stops() {
    in_a_child(this_test!(), || {
        let supervisor = start();
        failed_with_its_worker(supervisor.submit(faulty(Fault::NullWrite)).unwrap());
        eventually("it stops", || supervisor.health().unwrap().state == State::Failed);
        let health = supervisor.health().unwrap();
        assert!(health.tainted && health.last_error.unwrap().contains("SIGSEGV"));
        assert_eq!(supervisor.submit(plain()).err().unwrap().status(), Status::PoolUnavailable);
    });
}

#[test]
fn it_stops_for_the_one_that_a_reload_retires_too() {
    in_a_child(this_test!(), || {
        let supervisor = start();
        let error = retired_with(&supervisor, threads().with_n_ctx(512), Fault::NullWrite).unwrap_err();
        assert_eq!(error.status(), Status::WorkerReset);
        let health = supervisor.health().unwrap();
        assert_eq!((health.state, health.tainted, health.reloading), (State::Failed, true, false));
        assert_eq!(supervisor.submit(plain()).err().unwrap().status(), Status::PoolUnavailable);
    });
}
