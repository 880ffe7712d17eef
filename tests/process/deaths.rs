//! Every way in which a worker's process can die: the host lives, the reason is told, the stream goes on exactly.

use crate::support::{self, read};
use crate::{config, engine, faulty, is_there, pid, plain, start};
use llamapen::{Crash, CrashReason, Failed, Fault, Isolation, State, Status, Supervisor, Token};

/// The end of a request with this fault, and the crash as the health tells it. Afterwards all is as before.
fn dies(supervisor: &Supervisor, fault: Fault) -> (Failed, Crash) {
    let before = read(supervisor.submit(plain()).unwrap()).unwrap();
    let old = pid(supervisor);
    let restarts = supervisor.health().unwrap().workers[0].restarts;
    let failed = read(supervisor.submit(faulty(fault)).unwrap()).expect_err(&format!("{fault:?}"));
    assert!(failed.retriable, "{failed:?}");
    let after = read(supervisor.submit(plain()).unwrap()).unwrap();
    assert_eq!(after.tokens, before.tokens);
    let health = supervisor.health().unwrap();
    assert_eq!((health.state, health.workers[0].restarts), (State::Ready, restarts + 1));
    assert!(!health.tainted, "nothing of this process was written to");
    support::eventually("the old process is gone", || !is_there(old));
    let crash = health.workers[0].last_crash.clone().unwrap();
    assert_eq!(crash.exit.as_ref().unwrap().pid, old);
    (failed, crash)
}

#[test]
fn each_death_has_its_reason() {
    let supervisor = support::start_with(&engine().with_threads(2), config());
    for (fault, reason, says, how) in [
        (Fault::Killed, CrashReason::Killed, "signal 9 (SIGKILL)", "signal 9 (SIGKILL)"),
        (Fault::Stopped, CrashReason::Stall, "stall: its loop has not turned", "signal 9 (SIGKILL)"),
        (Fault::Exited, CrashReason::Exited, "exit code 7", "exit code 7"),
        (Fault::Garbage, CrashReason::Protocol, "what it says makes no sense", "signal 9 (SIGKILL)"),
        (Fault::HalfMessage, CrashReason::Protocol, "what it says makes no sense", "exit code 0"),
        (Fault::Panic, CrashReason::Panic, "injected panic", "exit code 3"),
        (Fault::CppException, CrashReason::CppException, "C++ exception", "exit code 3"),
        (Fault::Exception, CrashReason::CppException, "C++ exception", "exit code 3"),
        (Fault::Abort, CrashReason::Abort, "abort: ", "exit code 3"),
        (Fault::NullWrite, CrashReason::Signal, "SIGSEGV (11), address 0x0,", "exit code 3"),
        (Fault::ComputeNullWrite, CrashReason::Signal, "on a compute thread", "exit code 3"),
        (Fault::DivisionByZero, CrashReason::Signal, "SIGFPE", "exit code 3"),
        (Fault::BadAlloc, CrashReason::HostOutOfMemory, "memory", "exit code 3"),
        // What the thread tier cannot contain.
        (Fault::CriticalWrite, CrashReason::Signal, "signal 11 (SIGSEGV)", "signal 11 (SIGSEGV)"),
        (Fault::MallocWrite, CrashReason::Signal, "signal 11 (SIGSEGV)", "signal 11 (SIGSEGV)"),
        (Fault::HeapCorruption, CrashReason::Abort, "signal 6 (SIGABRT)", "signal 6 (SIGABRT)"),
    ] {
        let (failed, crash) = dies(&supervisor, fault);
        assert!(failed.message.contains(says), "{fault:?}: {failed:?}");
        let exit = crash.exit.as_ref().unwrap();
        assert_eq!((crash.reason, exit.how.as_str()), (reason, how), "{fault:?}: {crash:?}");
        let status = if reason == CrashReason::HostOutOfMemory { Status::OutOfMemory } else { Status::WorkerReset };
        assert!(failed.status == Status::WorkerReset || failed.status == status, "{failed:?}");
    }
}

#[test]
fn the_last_lines_that_it_wrote_are_in_the_report() {
    let supervisor = start();
    let (_, crash) = dies(&supervisor, Fault::Exited);
    let output = crash.exit.unwrap().output;
    assert_eq!(output.last().map(String::as_str), Some("injected exit"), "{output:?}");
    // What glibc says of a broken heap.
    let (_, crash) = dies(&supervisor, Fault::HeapCorruption);
    let output = crash.exit.unwrap().output;
    assert!(output.iter().any(|line| line.contains("corrupt") || line.contains("invalid")), "{output:?}");
}

/// No token is lost, none comes twice, and all are those of an undisturbed run.
#[test]
fn streams_go_on_exactly_through_every_death() {
    let supervisor = support::start_with(&engine().with_slots(2), config().with_snapshots(8, 1 << 30));
    let request = support::greedy(support::words(1, 40)).with_max_tokens(60);
    let alone = read(supervisor.submit(request.clone()).unwrap()).unwrap();
    for fault in [Fault::Killed, Fault::Garbage, Fault::HalfMessage, Fault::Exited, Fault::HeapCorruption] {
        let neighbour = supervisor.submit(request.clone()).unwrap();
        let hit = supervisor.submit(request.clone().with_fault(fault).with_fault_after(30)).unwrap();
        for stream in [neighbour, hit] {
            let answer = read(stream).unwrap();
            assert_eq!(answer.tokens, alone.tokens, "{fault:?}");
            assert_eq!(answer.restarts, 1, "{fault:?}");
        }
    }
    support::eventually("snapshots are given back", || supervisor.health().unwrap().snapshot_bytes == 0);
}

/// A signal from outside, at any moment.
#[test]
fn it_may_be_killed_by_others() {
    let supervisor = support::start_with(&engine(), config().with_snapshots(8, 1 << 30));
    let request = support::greedy(support::words(2, 30)).with_max_tokens(80);
    let alone = read(supervisor.submit(request.clone()).unwrap()).unwrap();
    for (round, signal) in [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV, libc::SIGSTOP].into_iter().enumerate() {
        let stream = supervisor.submit(request.clone()).unwrap();
        let mut tokens: Vec<i32> = vec![];
        let mut restarts = 0;
        for event in stream {
            match event {
                llamapen::Event::Token(Token { token, .. }) => {
                    tokens.push(token);
                    if tokens.len() == 20 + round {
                        // SAFETY: a child of this process that runs.
                        assert_eq!(unsafe { libc::kill(pid(&supervisor).cast_signed(), signal) }, 0);
                    }
                }
                llamapen::Event::Restarted(_) => restarts += 1,
                llamapen::Event::Failed(failed) => panic!("{failed:?}"),
                _ => {}
            }
        }
        assert_eq!((tokens, restarts), (alone.tokens.clone(), 1), "signal {signal}");
    }
}

#[test]
fn faults_of_a_process_are_refused_where_workers_are_threads() {
    let supervisor = support::start(&engine().with_isolation(Isolation::Thread));
    let error = supervisor.submit(faulty(Fault::Killed)).err().unwrap();
    assert_eq!(error.status(), Status::Unsupported);
}
