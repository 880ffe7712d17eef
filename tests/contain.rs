//! What the engine's own threads raise inside a graph stays in the pen: the host goes on, the worker is replaced and computes
//! the same as before. Each fault happens in a child process, which would die of it without the pen: that is tried, too.
//! Needs the `fault-injection` feature.
#![cfg(feature = "fault-injection")]

mod support;

use llamapen::{Fault, Request, State, Status, Supervisor, SupervisorConfig, TaintPolicy};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::read;

/// Name, fault, what its message says, whether the process is tainted by it, and the signal that it would die of.
const FAULTS: &[(&str, Fault, &str, bool, i32)] = &[
    ("null-write", Fault::NullWrite, "SIGSEGV (11), address 0x0", true, libc::SIGSEGV),
    ("wild-write", Fault::WildWrite, "SIGSEGV (11), address 0xdead0000000", true, libc::SIGSEGV),
    ("abort", Fault::Abort, "injected abort", false, libc::SIGABRT),
    ("stack-overflow", Fault::StackOverflow, "SIGSEGV", true, libc::SIGSEGV),
    ("division", Fault::DivisionByZero, "SIGFPE", true, libc::SIGFPE),
    ("illegal", Fault::IllegalInstruction, "SIGILL", true, libc::SIGILL),
    ("exception", Fault::Exception, "injected C++ exception", false, 0),
    ("compute-null-write", Fault::ComputeNullWrite, "on a compute thread", true, libc::SIGSEGV),
    ("compute-abort", Fault::ComputeAbort, "injected abort, on a compute thread", false, libc::SIGABRT),
    ("compute-stack-overflow", Fault::ComputeStackOverflow, "on a compute thread", true, libc::SIGSEGV),
    ("compute-exception", Fault::ComputeException, "on a compute thread", false, libc::SIGABRT),
];

/// Runs the ignored test `child` in a process of its own.
fn run(what: &str, fault: &str) -> Output {
    let this = std::env::current_exe().unwrap();
    Command::new(this)
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("CONTAIN_WHAT", what)
        .env("CONTAIN_FAULT", fault)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{:?}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_fault_stays_in_the_pen() {
    for (name, ..) in FAULTS {
        let output = run("contained", name);
        let text = said(&output);
        println!("{name}: {}", text.lines().find(|line| line.starts_with("took ")).unwrap_or_default());
        assert!(output.status.success() && text.contains("1 passed"), "{name}: {text}");
    }
}

#[test]
fn without_the_pen_it_ends_the_process() {
    for (name, _, _, _, signal) in FAULTS.iter().filter(|fault| fault.4 != 0) {
        let output = run("bare", name);
        assert_eq!(output.status.signal(), Some(*signal), "{name}: {}", said(&output));
    }
}

#[test]
fn a_memory_fault_stops_the_supervisor_unless_it_is_told_to_go_on() {
    let output = run("taint", "null-write");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn an_endless_loop_is_ended_by_its_stall() {
    let output = run("stall", "endless-loop");
    assert!(output.status.success(), "{}", said(&output));
}

/// A host's own fault dies as it would have, with the same signal.
#[test]
fn a_hosts_own_fault_is_left_alone() {
    let output = run("host", "");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}", said(&output));
}

#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    let (what, name) = (std::env::var("CONTAIN_WHAT").unwrap(), std::env::var("CONTAIN_FAULT").unwrap());
    let fault = FAULTS.iter().find(|fault| fault.0 == name);
    match what.as_str() {
        "contained" => contained(fault.unwrap()),
        "bare" => {
            let supervisor = start(SupervisorConfig::default().with_contain_faults(false));
            assert!(!supervisor.health().unwrap().contains_faults);
            let _ = read(supervisor.submit(plain().with_max_resumes(0).with_fault(fault.unwrap().1)).unwrap());
        }
        "taint" => {
            let supervisor = start(SupervisorConfig::default());
            let failed =
                read(supervisor.submit(plain().with_max_resumes(0).with_fault(Fault::NullWrite)).unwrap()).unwrap_err();
            assert_eq!(failed.status, Status::WorkerReset);
            support::eventually("it stops", || supervisor.health().unwrap().state == State::Failed);
            let health = supervisor.health().unwrap();
            assert!(health.tainted && health.last_error.unwrap().contains("SIGSEGV"));
            assert_eq!(supervisor.submit(plain()).err().unwrap().status(), Status::PoolUnavailable);
        }
        "stall" => {
            let config = SupervisorConfig::default().with_stall_limit(Duration::from_secs(4));
            let supervisor = start(config);
            let failed = read(supervisor.submit(plain().with_max_resumes(0).with_fault(Fault::EndlessLoop)).unwrap())
                .unwrap_err();
            assert!(failed.status == Status::WorkerReset && failed.message.contains("stall"), "{failed:?}");
            assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
            assert!(!supervisor.health().unwrap().tainted);
        }
        "host" => {
            let supervisor = start(SupervisorConfig::default());
            assert!(supervisor.health().unwrap().contains_faults);
            // SAFETY: not: it is a host's mistake.
            unsafe { std::ptr::null_mut::<u32>().add(1).write_volatile(1) };
        }
        other => panic!("{other}"),
    }
}

fn plain() -> Request {
    Request::prompt("One, two,").with_temperature(0.0).with_max_tokens(12).with_ignore_eos(true)
}

fn start(config: SupervisorConfig) -> Supervisor {
    support::start_with(&support::config().with_threads(2), config)
}

/// Twice, so that what is left of the first does not trouble the second.
fn contained((_, fault, text, taints, _): &(&str, Fault, &str, bool, i32)) {
    let supervisor = start(SupervisorConfig::default().with_taint(TaintPolicy::Continue));
    let before = read(supervisor.submit(plain()).unwrap()).unwrap();
    let threads = support::threads();
    for round in 1..=2 {
        let failed = read(supervisor.submit(plain().with_max_resumes(0).with_fault(*fault)).unwrap()).unwrap_err();
        let began = Instant::now();
        assert_eq!(failed.status, Status::WorkerReset);
        assert!(failed.retriable && failed.message.contains(text), "{failed:?}");
        let after = read(supervisor.submit(plain()).unwrap()).unwrap();
        println!("took {:?} until the next answer was there", began.elapsed());
        assert_eq!(after.tokens, before.tokens, "the new worker computes the same");
        let health = supervisor.health().unwrap();
        assert_eq!((health.workers[0].restarts, health.tainted, health.state), (round, *taints, State::Ready));
        support::eventually("the dead threads are gone", || support::threads() <= threads);
    }
    let stopped = Instant::now();
    supervisor.stop().unwrap();
    assert!(stopped.elapsed() < support::LONG);
}
