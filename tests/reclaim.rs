//! What a contained fault of a thread costs for good: little memory, no thread, and not the weights. Needs the `fault-injection` feature.
#![cfg(feature = "fault-injection")]

mod support;

use llamapen::{Fault, Isolation, Request, State, Status, SupervisorConfig, TaintPolicy};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use support::{child, read};

/// Faults in a row that are measured, after some that fill what is filled once.
const FAULTS: usize = 20;
const BEFORE: usize = 5;
/// Most that one may cost, generously.
const MOST: usize = 4 << 20;

#[derive(Serialize, Deserialize)]
struct Ask {
    fault: Fault,
    taint: TaintPolicy,
    faults: usize,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    /// Resident bytes that a fault took.
    each: usize,
    threads_before: usize,
    threads_after: usize,
    /// Mappings of the model's file, while it runs and after it stopped.
    mapped: usize,
    mapped_after: usize,
}

fn answer(ask: Ask) -> Answer {
    child::answer_of(&child::command(&ask).output().unwrap())
}

#[test]
fn a_fault_costs_little_memory() {
    for fault in [Fault::Abort, Fault::Exception, Fault::ComputeAbort, Fault::NullWrite] {
        let answer = answer(Ask { fault, taint: TaintPolicy::Continue, faults: FAULTS });
        println!("{fault:?}: {} KiB of resident memory", answer.each / 1024);
        assert!(answer.each <= MOST, "{fault:?}: {}", answer.each);
        assert!(answer.threads_after <= answer.threads_before);
    }
}

#[test]
fn the_weights_are_freed_when_the_supervisor_stops() {
    use TaintPolicy::{Continue, Stop};
    for (fault, taint) in [(Fault::Abort, Stop), (Fault::NullWrite, Continue), (Fault::NullWrite, Stop)] {
        let answer = answer(Ask { fault, taint, faults: 1 });
        assert!(answer.mapped > 0);
        assert_eq!(answer.mapped_after, 0, "{fault:?}, {taint:?}");
    }
}

#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    let ask: Ask = child::asked();
    let config = SupervisorConfig::default()
        .with_taint(ask.taint)
        .with_restarts(1000, Duration::from_secs(3600))
        .with_breaker_failures(1000)
        .with_backoff(Duration::from_millis(1), Duration::from_millis(1));
    let engine = support::config().with_isolation(Isolation::Thread).with_threads(2);
    let supervisor = support::start_with(&engine, config);
    let goes_on = ask.faults > 1 || ask.taint == TaintPolicy::Continue || ask.fault == Fault::Abort;
    let threads = support::threads();
    let fault = || {
        let failed = read(supervisor.submit(plain().with_max_resumes(0).with_fault(ask.fault)).unwrap()).unwrap_err();
        assert_eq!(failed.status, Status::WorkerReset, "{failed:?}");
        if goes_on {
            assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
            support::eventually("the dead threads are gone", || support::threads() <= threads);
        } else {
            support::eventually("it stops", || supervisor.health().unwrap().state == State::Failed);
        }
    };
    let mut each = 0;
    if ask.faults > 1 {
        (0..BEFORE).for_each(|_| fault());
        let before = resident();
        (0..ask.faults).for_each(|_| fault());
        each = resident().saturating_sub(before) / ask.faults;
    }
    let (mapped, threads_after) = (mappings(), support::threads());
    if ask.faults == 1 {
        fault();
    }
    supervisor.stop().unwrap();
    child::answer(&Answer { each, threads_before: threads, threads_after, mapped, mapped_after: mappings() });
}

fn plain() -> Request {
    Request::prompt("One, two,").with_temperature(0.0).with_max_tokens(12).with_ignore_eos(true)
}

/// Of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// How often the model's file is mapped.
fn mappings() -> usize {
    let name = support::model().file_name().unwrap().to_str().unwrap().to_owned();
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.ends_with(&name)).count()
}
