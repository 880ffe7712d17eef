//! What follows a memory fault, which may have written to memory of others before it was noticed.

use crate::case::{failed_with_its_worker, faulty, in_a_child, plain, start, this_test};
use crate::support::eventually;
use llamapen::{Fault, State, Status, SupervisorConfig};

#[test]
fn by_default_the_supervisor_stops() {
    in_a_child(this_test!(), || {
        let supervisor = start(SupervisorConfig::default());
        failed_with_its_worker(supervisor.submit(faulty(Fault::NullWrite)).unwrap());
        eventually("it stops", || supervisor.health().unwrap().state == State::Failed);
        let health = supervisor.health().unwrap();
        assert!(health.tainted && health.last_error.unwrap().contains("SIGSEGV"));
        assert_eq!(supervisor.submit(plain()).err().unwrap().status(), Status::PoolUnavailable);
    });
}
