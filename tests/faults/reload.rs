//! Faults while two engines are in the process.

use crate::case::{failed_with_its_worker, faulty, in_a_child, plain, start, taints, this_test};
use crate::support::{self, LONG, eventually, read};
use llamapen::{
    CrashReason, EngineConfig, Error, Event, Fault, Next, State, Supervisor, SupervisorConfig, TaintPolicy, prepare,
};

pub fn one_slot(n_ctx: u32) -> EngineConfig {
    support::config().with_slots(1).with_n_ctx(n_ctx)
}

/// `next` has a context of 512 tokens.
pub fn retired_with(supervisor: &Supervisor, next: EngineConfig, fault: Fault) -> Result<(), Error> {
    let holds = supervisor.submit(plain().with_max_tokens(4000)).unwrap();
    let Next::Event(Event::Started(_)) = holds.next_event(Some(LONG)).unwrap() else { panic!("it starts") };
    let waiting = supervisor.submit(faulty(fault)).unwrap();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| supervisor.reload(prepare(&next).unwrap(), Some(LONG)));
        eventually("requests go to the new one", || supervisor.engine().n_ctx() == 512);
        // Now the old one, which only finishes what it has, comes to the fault.
        holds.cancel().unwrap();
        failed_with_its_worker(waiting);
        reload.join().unwrap().map(drop)
    })
}

#[test]
fn a_memory_fault_of_the_one_that_goes_ends_nothing_else_where_that_is_allowed() {
    in_a_child(this_test!(), || {
        let config = SupervisorConfig::default().with_taint(TaintPolicy::Continue);
        let supervisor = support::start_with(&one_slot(4096), config);
        retired_with(&supervisor, one_slot(512), Fault::NullWrite).unwrap();
        assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
        let health = supervisor.health().unwrap();
        assert_eq!((health.state, health.tainted), (State::Ready, taints(CrashReason::Signal)));
    });
}

/// What a worker's death leaves in the process is not in the way of the next load.
#[test]
fn after_a_fault_it_unloads_and_loads_again() {
    in_a_child(this_test!(), || {
        let supervisor = start(SupervisorConfig::default().with_taint(TaintPolicy::Continue));
        let before = read(supervisor.submit(plain()).unwrap()).unwrap();
        for fault in [Fault::Abort, Fault::NullWrite, Fault::Panic] {
            failed_with_its_worker(supervisor.submit(faulty(fault)).unwrap());
            assert!(supervisor.unload(Some(LONG)).unwrap());
            assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens, before.tokens);
        }
    });
}
