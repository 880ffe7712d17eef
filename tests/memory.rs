//! The plan against the memory that a process really takes.

mod support;

use llamapen::{EngineConfig, Request, Supervisor, SupervisorConfig, prepare};
use support::child;

/// Anonymous memory of this process in bytes: everything but what is mapped from files.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The child, because other tests take memory too: bytes taken, and bytes planned.
#[test]
#[ignore = "run by the other test, in a child process"]
fn child() {
    let before = anonymous();
    let config = EngineConfig::new(support::model()).with_threads(1).with_n_ctx(2048).with_slots(2);
    let engine = prepare(&config).unwrap();
    let plan = engine.memory().clone();
    let supervisor = Supervisor::start(engine, SupervisorConfig::default()).unwrap();
    assert!(supervisor.wait_ready(Some(support::LONG)).unwrap());
    let health = supervisor.health().unwrap();
    assert_eq!(health.workers[0].memory_bytes, plan.host().cache + plan.host().compute, "exact on this architecture");
    // A prompt over several micro-batches, so that the buffers are used.
    let prompt = "The old lighthouse keeper wrote down the weather. ".repeat(60);
    support::read(supervisor.submit(Request::prompt(prompt).with_max_tokens(8)).unwrap()).unwrap();
    child::answer(&(anonymous() - before, plan.host().resident()));
}

#[test]
fn a_running_engine_takes_no_more_than_was_planned() {
    let (taken, planned): (u64, u64) = child::answer_of(&child::command(&()).output().unwrap());
    println!("{taken} bytes taken, {planned} planned");
    assert!(taken <= planned, "{taken} bytes taken, {planned} planned");
    // Nor is the plan so wide that it says nothing.
    assert!(taken * 2 >= planned, "{taken} bytes taken, {planned} planned");
}
