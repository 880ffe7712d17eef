//! From threads to processes, after a memory fault of a thread.

use crate::support::again::{in_a_child, this_test};
use crate::support::{self, read};
use crate::{config, faulty, plain};
use llamapen::{EngineConfig, Fault, Isolation, State, TaintPolicy};
use std::time::Duration;

fn threads() -> EngineConfig {
    support::config().with_isolation(Isolation::Thread)
}

#[test]
fn after_a_memory_fault_workers_are_processes() {
    in_a_child(this_test!(), || {
        let name = support::model().file_name().unwrap().to_string_lossy().into_owned();
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().contains(&name);
        let supervisor = support::start_with(&threads().with_workers(2), config().with_snapshots(8, 1 << 30));
        let health = supervisor.health().unwrap();
        assert_eq!((health.taint, health.isolation), (TaintPolicy::EscalateToProcess, Isolation::Thread));
        assert!(maps());
        let request = support::greedy(support::words(1, 40)).with_max_tokens(120);
        let alone = read(supervisor.submit(request.clone()).unwrap()).unwrap();
        // One dies of it, the other worker finishes what it has.
        let hit = supervisor.submit(request.clone().with_fault(Fault::NullWrite).with_fault_after(30)).unwrap();
        let neighbour = supervisor.submit(request.clone()).unwrap();
        let (hit, neighbour) = (read(hit).unwrap(), read(neighbour).unwrap());
        assert_eq!((hit.restarts, neighbour.restarts), (1, 0));
        assert_eq!((hit.tokens, neighbour.tokens), (alone.tokens.clone(), alone.tokens.clone()));
        support::eventually("both are processes", || {
            let health = supervisor.health().unwrap();
            health.state == State::Ready && health.workers.iter().all(|worker| worker.process.is_some())
        });
        let health = supervisor.health().unwrap();
        assert!(health.tainted && health.isolation == Isolation::Process);
        assert_eq!(health.workers.iter().map(|worker| worker.restarts).sum::<u32>(), 1, "only one died");
        support::eventually("the weights are not here any more", || !maps());
        // What it is from now on, also after an unload.
        assert!(supervisor.unload(Some(Duration::from_secs(60))).unwrap());
        assert_eq!(read(supervisor.submit(request.clone()).unwrap()).unwrap().tokens, alone.tokens);
        assert!(!maps());
        let _ = read(supervisor.submit(faulty(Fault::NullWrite)).unwrap());
        assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
    });
}

#[test]
fn what_is_no_memory_fault_escalates_nothing() {
    in_a_child(this_test!(), || {
        let supervisor = support::start_with(&threads(), config());
        let _ = read(supervisor.submit(faulty(Fault::Abort)).unwrap());
        assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
        let health = supervisor.health().unwrap();
        assert!(!health.tainted && health.isolation == Isolation::Thread && health.workers[0].process.is_none());
    });
}
