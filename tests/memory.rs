//! The plan against the memory that a process and its workers really take.

mod support;

use llamapen::{EngineConfig, Isolation, Request, Supervisor, SupervisorConfig, prepare};
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

/// Bytes of the mappings that the kernel was asked to put on huge pages; `None`: it has none.
fn may_have_huge_pages() -> Option<u64> {
    std::fs::metadata("/sys/kernel/mm/transparent_hugepage").ok()?;
    Some(mappings().iter().filter(|one| one.huge_pages).map(|one| one.size).sum())
}

/// A mapping of this process or of a child.
#[derive(Default)]
struct Mapping {
    /// Its line in the list, which ends with the file's path if it is one's.
    of: String,
    size: u64,
    resident: u64,
    /// The kernel was asked for them.
    huge_pages: bool,
}

fn mappings() -> Vec<Mapping> {
    let bytes = |kib: &str| kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    let mut all: Vec<Mapping> = vec![];
    // One that has just ended has none.
    let of = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let lists: String = [std::process::id()].into_iter().chain(support::children()).map(of).collect();
    for line in lists.lines() {
        match line.split_once(':') {
            Some(("Size", size)) => all.last_mut().unwrap().size = bytes(size),
            Some(("Rss", resident)) => all.last_mut().unwrap().resident = bytes(resident),
            Some(("VmFlags", flags)) => all.last_mut().unwrap().huge_pages = flags.split(' ').any(|flag| flag == "hg"),
            Some((name, _)) if !name.contains(' ') => {}
            _ => all.push(Mapping { of: line.into(), ..Mapping::default() }),
        }
    }
    all
}

#[test]
fn a_running_engine_takes_no_more_than_was_planned() {
    let (taken, planned): (u64, u64) = child::answer_of(&child::command(&()).output().unwrap());
    println!("{taken} bytes taken, {planned} planned");
    assert!(taken <= planned, "{taken} bytes taken, {planned} planned");
    // Nor is the plan so wide that it says nothing.
    assert!(taken * 2 >= planned, "{taken} bytes taken, {planned} planned");
}

/// Also where the page cache has them in huge pages, which one small tensor would bring back: so it gets files that are read ahead.
#[test]
fn pages_of_weights_that_were_rearranged_leave_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.gguf");
    std::fs::copy(support::model(), &copy).unwrap();
    let file = std::fs::File::open(&copy).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let config = EngineConfig::new(&copy).with_threads(1).with_n_ctx(1024).with_repack(true);
    let supervisor = support::start(&config);
    support::read(supervisor.submit(Request::prompt("One, two,").with_max_tokens(8)).unwrap()).unwrap();
    let path = copy.to_str().unwrap();
    let mapped: u64 = mappings().iter().filter(|one| one.of.ends_with(path)).map(|one| one.resident).sum();
    println!("{mapped} bytes of the file");
    assert!((1..1 << 20).contains(&mapped), "{mapped} bytes of the file are mapped beside the rearranged weights");
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
