//! A thread that holds what others wait for is never stopped there: a fault ends the process as it would have without us, and
//! one that is to be parked for another's fault goes on until it holds nothing. A host that hangs is worse than one that died.
//! Needs the `fault-injection` feature.
#![cfg(feature = "fault-injection")]

mod support;

use llamapen::{Fault, Isolation, Request, Status, Supervisor, SupervisorConfig};
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{child, read};

/// Runs the child on a heap that all threads share, and ends it if it hangs.
fn run(what: &str, fault: Fault) -> Output {
    let mut command = child::command(&(what, fault));
    command.env("MALLOC_ARENA_MAX", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let began = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if began.elapsed() > support::LONG {
            process.kill().unwrap();
            panic!("{fault:?}: it hangs: {:?}", process.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    process.wait_with_output().unwrap()
}

#[test]
fn a_fault_where_others_wait_ends_the_process_with_its_signal() {
    for (fault, signal) in [
        (Fault::CriticalWrite, libc::SIGSEGV),
        (Fault::CriticalAbort, libc::SIGABRT),
        (Fault::MallocWrite, libc::SIGSEGV),
        (Fault::HeapCorruption, libc::SIGABRT),
    ] {
        let output = run("dies", fault);
        assert_eq!(output.status.signal(), Some(signal), "{fault:?}: {output:?}");
    }
}

#[test]
fn a_thread_in_the_critical_section_leaves_it_before_it_is_parked() {
    let output = run("goes on", Fault::CriticalWait);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn threads_that_allocate_are_parked_beside_a_host_that_does() {
    for fault in [Fault::AbortBesideAllocation, Fault::EndlessAllocation] {
        let output = run("goes on", fault);
        assert!(output.status.success(), "{output:?}");
    }
}

/// A copy is the C library's code, and holds nothing.
#[test]
fn a_fault_in_a_copy_is_contained() {
    let output = run("goes on", Fault::WildCopy);
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    let (what, fault): (String, Fault) = child::asked();
    let _host = Allocating::start();
    let config = SupervisorConfig::default()
        .with_stall_limit(Duration::from_secs(4))
        .with_taint(llamapen::TaintPolicy::Continue)
        .with_restarts(1000, Duration::from_secs(3600))
        .with_breaker_failures(1000)
        .with_backoff(Duration::from_millis(1), Duration::from_millis(1));
    let engine = support::config().with_isolation(Isolation::Thread).with_threads(2);
    let supervisor = support::start_with(&engine, config);
    if what == "dies" {
        let _ = read(supervisor.submit(plain().with_max_resumes(0).with_fault(fault)).unwrap());
        return again(&supervisor);
    }
    let (rounds, text) = match fault {
        Fault::AbortBesideAllocation => (40, "injected abort"),
        Fault::WildCopy => (2, "SIGSEGV (11), address 0xdead0000000"),
        // Each takes as long as the limit.
        _ => (3, "stall"),
    };
    for _ in 0..rounds {
        let failed = read(supervisor.submit(plain().with_max_resumes(0).with_fault(fault)).unwrap()).unwrap_err();
        assert!(failed.status == Status::WorkerReset && failed.message.contains(text), "{failed:?}");
        again(&supervisor);
    }
    let threads = support::threads();
    drop(supervisor);
    assert!(support::threads() < threads, "all dead threads are gone, or it would have waited for them");
}

fn again(supervisor: &Supervisor) {
    assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 6);
}

fn plain() -> Request {
    Request::prompt("One, two,").with_temperature(0.0).with_max_tokens(6).with_ignore_eos(true)
}

/// Threads of the host that allocate all the time.
struct Allocating(Arc<AtomicBool>);

impl Allocating {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for thread in 0..2 {
            let stop = stop.clone();
            std::thread::spawn(move || {
                for size in (0..).map(|n: usize| 16 + (n * 7919 + thread) % 5000) {
                    black_box(vec![1u8; size]);
                    if size % 64 == 0 {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Allocating {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
