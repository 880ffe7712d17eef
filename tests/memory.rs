//! The plan against the memory that a process and its workers really take.

mod support;

use llamapen::{Isolation, Request, Supervisor, SupervisorConfig, prepare};
use support::child;
use support::traces::memory;

/// The child, because other tests take memory too: bytes taken, and bytes planned.
#[test]
#[ignore = "run by the other test, in a child process"]
fn child() {
    let before = memory("RssAnon:");
    let config = support::config().with_n_ctx(2048).with_slots(2);
    let engine = prepare(&config).unwrap();
    let plan = engine.memory().clone();
    let supervisor = Supervisor::start(engine, SupervisorConfig::default()).unwrap();
    assert!(supervisor.wait_ready(Some(support::LONG)).unwrap());
    let health = supervisor.health().unwrap();
    assert_eq!(health.workers[0].memory_bytes, plan.host().cache + plan.host().compute, "exact on this architecture");
    if let Some(bytes) = may_have_huge_pages() {
        let large = plan.host().weights + plan.host().cache;
        assert!(bytes >= large, "{bytes} bytes of {large} of weights and cache may have huge pages");
    }
    // A prompt over several micro-batches, so that the buffers are used.
    let prompt = "The old lighthouse keeper wrote down the weather. ".repeat(60);
    support::read(supervisor.submit(Request::prompt(prompt).with_max_tokens(8)).unwrap()).unwrap();
    child::answer(&(memory("RssAnon:") - before, plan.host().resident()));
}

/// Bytes of this process's mappings that the kernel was asked to put on huge pages; `None`: it has none.
fn may_have_huge_pages() -> Option<u64> {
    std::fs::metadata("/sys/kernel/mm/transparent_hugepage").ok()?;
    let (mut size_of_one, mut bytes) = (0, 0);
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        if let Some(size) = line.strip_prefix("Size:") {
            size_of_one = size.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
        } else if line.starts_with("VmFlags:") && line.contains(" hg") {
            bytes += size_of_one;
        }
    }
    Some(bytes)
}

#[test]
fn a_running_engine_takes_no_more_than_was_planned() {
    let (taken, planned): (u64, u64) = child::answer_of(&child::command(&()).output().unwrap());
    println!("{taken} bytes taken, {planned} planned");
    assert!(taken <= planned, "{taken} bytes taken, {planned} planned");
    // Nor is the plan so wide that it says nothing.
    assert!(taken * 2 >= planned, "{taken} bytes taken, {planned} planned");
}

#[test]
fn the_health_says_what_was_allocated_beside_the_plan_and_which_weights_are_where() {
    for (isolation, repack) in [(Isolation::Thread, true), (Isolation::Thread, false), (Isolation::Process, true)] {
        let engine = prepare(&support::config().with_isolation(isolation).with_repack(repack)).unwrap();
        let plan = engine.memory().host().clone();
        let supervisor = Supervisor::start(engine, SupervisorConfig::default()).unwrap();
        assert!(supervisor.wait_ready(Some(support::LONG)).unwrap());
        let memory = supervisor.health().unwrap().workers[0].memory.clone();
        let [host] = &memory[..] else { panic!("{isolation:?}: {memory:?}") };
        assert_eq!((host.place.as_str(), host.planned_bytes), ("host", plan.cache + plan.compute), "{isolation:?}");
        assert_eq!(host.allocated_bytes, host.planned_bytes, "{isolation:?}: exact on this architecture");
        assert_eq!(host.weights_planned_bytes, plan.weights + plan.weights_mapped);
        let kinds: Vec<_> = host.weights.keys().map(String::as_str).collect();
        assert_eq!(kinds, ["attention", "embeddings", "feed_forward", "norms"]);
        let weights: u64 = host.weights.values().sum();
        // The stretch of the file that is mapped spans those that were rearranged into memory of their own.
        let (least, most) = (if repack { plan.weights } else { plan.weights_mapped }, host.weights_planned_bytes);
        assert!(weights <= most && weights * 100 >= least * 95, "{isolation:?}: {weights} bytes of {least} to {most}");
        assert_eq!(supervisor.metrics().unwrap().vram_used_bytes, Some(0));
    }
}
