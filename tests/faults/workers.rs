//! Several workers at once.

use crate::case::{failed_with_its_worker, faulty, in_a_child, plain, stops, this_test};
use crate::support::{self, eventually, in_processes, read};
use llamapen::{Fault, State, SupervisorConfig, TaintPolicy};

/// Both of two workers fault at the same moment, twice: both are replaced each time.
#[test]
fn both_fault_at_the_same_moment() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    in_a_child(this_test!(), || {
        let config = SupervisorConfig::default().with_taint(TaintPolicy::Continue);
        let supervisor = support::start_with(&support::config().with_workers(2), config);
        eventually("both are ready", || supervisor.health().unwrap().state == State::Ready);
        let before = read(supervisor.submit(plain()).unwrap()).unwrap();
        let held = support::held();
        // Two processes have no moment in common, but for chance; each runs for long enough that the other one begins.
        let faulty = match in_processes() {
            true => || faulty(Fault::NullWrite).with_max_tokens(200).with_fault_after(100),
            false => || faulty(Fault::NullWriteTogether),
        };
        for round in 1..=2 {
            let streams = [0, 1].map(|_| supervisor.submit(faulty()).unwrap());
            for stream in streams {
                let failed = failed_with_its_worker(stream);
                assert!(failed.message.contains("SIGSEGV (11), address 0x0,"), "{failed:?}");
            }
            eventually("both are ready again", || supervisor.health().unwrap().state == State::Ready);
            assert_eq!(supervisor.health().unwrap().workers.iter().map(|w| w.restarts).collect::<Vec<_>>(), [round; 2]);
            // Each of them.
            let streams = [0, 1].map(|_| supervisor.submit(plain()).unwrap());
            for stream in streams {
                assert_eq!(read(stream).unwrap().tokens, before.tokens);
            }
            support::holds_at_most(held);
        }
        stops(&supervisor);
    });
}
