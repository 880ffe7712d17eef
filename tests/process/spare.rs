//! A child in reserve.

use crate::support::again::{in_a_child, this_test};
use crate::support::{self, children, read};
use crate::{config, engine, faulty, is_there, plain};
use llamapen::{EngineConfig, Fault, Status, prepare};

#[test]
fn it_takes_the_place_of_one_that_dies() {
    in_a_child(this_test!(), || {
        let supervisor = support::start_with(&engine().with_warm_spare(true), config());
        let answer = read(supervisor.submit(plain()).unwrap()).unwrap();
        for _ in 0..3 {
            support::eventually("there is a spare", || children().len() == 2);
            let worker = crate::pid(&supervisor);
            let spare = children().into_iter().find(|pid| *pid != worker).unwrap();
            support::eventually("the spare is ready", || support::traces::resident_of(spare) > 20 << 20);
            std::thread::sleep(std::time::Duration::from_millis(500));
            let _ = read(supervisor.submit(faulty(Fault::Killed)).unwrap());
            assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens, answer.tokens);
            assert_eq!(crate::pid(&supervisor), spare, "the spare is the worker now");
        }
        let health = supervisor.health().unwrap();
        assert_eq!(health.workers.len(), 1);
        assert!(health.workers[0].memory_bytes > 0 && health.workers[0].prefill_piece > 0);
        let all = children();
        supervisor.stop().unwrap();
        assert!(all.into_iter().all(|pid| !is_there(pid)));
    });
}

#[test]
fn it_is_part_of_the_memory_plan_and_for_processes_only() {
    let plan = |config: &EngineConfig| prepare(config).unwrap().memory().clone();
    let (without, with) = (plan(&engine()), plan(&engine().with_warm_spare(true)));
    assert_eq!(with.host().cache, 2 * without.host().cache);
    assert_eq!(with.host().weights, 2 * without.host().weights);
    assert_eq!(with.host().weights_mapped, without.host().weights_mapped);
    let threads = support::config().with_isolation(llamapen::Isolation::Thread).with_warm_spare(true);
    let error = prepare(&threads).unwrap_err();
    assert_eq!(error.status(), Status::InvalidParams);
    assert!(error.to_string().contains("isolation \"process\""), "{error}");
}
