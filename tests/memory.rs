//! The plan against the memory that this process really takes.

mod support;

use llamapen::{EngineConfig, Request, Supervisor, SupervisorConfig, prepare};
use std::process::Command;

/// Anonymous memory of this process in bytes: everything but what is mapped from files.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// In a process of its own, because other tests take memory too.
#[test]
fn a_running_engine_takes_no_more_than_was_planned() {
    if std::env::var_os("LLAMAPEN_TEST_ALONE").is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_running_engine_takes_no_more_than_was_planned", "--nocapture"]);
        let output = child.env("LLAMAPEN_TEST_ALONE", "1").output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
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
    let grown = anonymous() - before;
    println!("{grown} bytes taken, {} planned", plan.host().resident());
    assert!(grown <= plan.host().resident(), "{grown} bytes taken, {} planned", plan.host().resident());
    // Nor is the plan so wide that it says nothing.
    assert!(grown * 2 >= plan.host().resident(), "{grown} bytes taken, {} planned", plan.host().resident());
}
