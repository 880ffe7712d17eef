//! From start to stop: files with numbers and lines, a stop that is waited for, programs that are no worker.

use crate::support::again::{in_a_child, this_test};
use crate::support::{self, read};
use crate::{config, engine, is_there, pid, plain};
use llamapen::{ChildConfig, Fault, Isolation, State, Status, Supervisor, prepare};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[test]
fn files_say_its_number_and_what_it_wrote() {
    let folder = TempDir::new().unwrap();
    let child = ChildConfig::default().with_pid_dir(folder.path()).with_log_dir(folder.path());
    let supervisor = support::start_with(&engine().with_pool_id("p"), config().with_child(child));
    let (number, log) =
        (folder.path().join("llamapen-p-0-worker-0.pid"), folder.path().join("llamapen-p-0-worker-0.log"));
    let read_number = || std::fs::read_to_string(&number).unwrap().trim().parse::<u32>().unwrap();
    let first = pid(&supervisor);
    assert_eq!(read_number(), first);
    let _ = read(supervisor.submit(crate::faulty(Fault::Exited)).unwrap());
    assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
    assert_ne!(read_number(), first);
    assert_eq!(read_number(), pid(&supervisor));
    assert!(std::fs::read_to_string(&log).unwrap().contains("injected exit"));
    supervisor.stop().unwrap();
    assert!(!number.exists(), "it is gone with the process");
}

/// Where nothing more can be written, to a log or to a snapshot, that costs lines and the time of decoding again.
#[test]
fn where_nothing_can_be_written_streams_go_on() {
    in_a_child(this_test!(), || {
        const BYTES: u64 = 64 << 10;
        let limit = libc::rlimit { rlim_cur: BYTES, rlim_max: BYTES };
        // SAFETY: a plain value.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        let folder = TempDir::new().unwrap();
        let log = folder.path().join("llamapen-p-0-worker-0.log");
        std::fs::write(&log, vec![b'x'; BYTES as usize - 4]).unwrap();
        let child = ChildConfig::default().with_log_dir(folder.path());
        let config = config().with_child(child).with_snapshots(8, 1 << 30);
        let supervisor = support::start_with(&engine().with_pool_id("p"), config);
        let request = support::greedy(support::words(3, 20)).with_max_tokens(40);
        let alone = read(supervisor.submit(request.clone()).unwrap()).unwrap();
        let hit = supervisor.submit(request.with_fault(Fault::Exited).with_fault_after(30)).unwrap();
        let hit = read(hit).unwrap();
        assert_eq!((hit.tokens, hit.restarts), (alone.tokens, 1));
        assert_eq!(std::fs::metadata(&log).unwrap().len(), BYTES);
        let crash = supervisor.health().unwrap().workers[0].last_crash.clone().unwrap();
        assert_eq!(crash.exit.unwrap().output, ["injected exit"]);
    });
}

/// Workers that are threads need what processes do not.
#[test]
fn after_a_reload_to_threads_their_faults_are_contained() {
    in_a_child(this_test!(), || {
        let supervisor = support::start_with(&engine(), config());
        assert!(!supervisor.health().unwrap().contains_faults);
        let threads = prepare(&engine().with_isolation(Isolation::Thread)).unwrap();
        supervisor.reload(threads, Some(support::LONG)).unwrap();
        let health = supervisor.health().unwrap();
        assert!(health.contains_faults && health.isolation == Isolation::Thread);
        let _ = read(supervisor.submit(crate::faulty(Fault::Abort)).unwrap());
        assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
    });
}

/// A long text travels to it in a file of memory. Where there is none to be had, its request fails, and nothing waits.
#[test]
fn a_request_that_cannot_be_handed_over_fails() {
    in_a_child(this_test!(), || {
        let supervisor = support::start_with(&engine(), config());
        let long = || llamapen::Request::prompt("llama ".repeat(20_000));
        let refused = |status| {
            let failed = read(supervisor.submit(long()).unwrap()).unwrap_err();
            assert_eq!(failed.status, status, "{failed:?}");
        };
        refused(Status::ContextOverflow);
        let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
        // SAFETY: a plain value.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        refused(Status::OutOfMemory);
        assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
        assert_eq!(supervisor.health().unwrap().workers[0].restarts, 0);
    });
}

#[test]
fn a_stop_ends_it_whatever_it_does() {
    let child = ChildConfig::default().with_stop_grace(Duration::from_millis(100));
    let config = config().with_child(child).with_stall_limit(Duration::from_secs(3600));
    let supervisor = support::start_with(&engine(), config);
    let stopped = pid(&supervisor);
    let _stream = supervisor.submit(crate::faulty(Fault::Stopped)).unwrap();
    support::eventually("it is stopped", || {
        std::fs::read_to_string(format!("/proc/{stopped}/status")).unwrap().contains("T (stopped)")
    });
    let began = Instant::now();
    supervisor.stop().unwrap();
    assert!(began.elapsed() < support::LONG && !is_there(stopped));
}

/// The program that is started is no worker: what it is shows in the error, and nothing hangs.
#[test]
fn another_program_is_no_worker() {
    let folder = TempDir::new().unwrap();
    let program = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    for (program, says) in [
        (program("silent", "#!/bin/sh\nexit 3\n"), "exit code 3"),
        (
            program("failing", "#!/bin/sh\necho no such library >&2\nexit 1\n"),
            "exit code 1; it last wrote: no such library",
        ),
        (program("talker", "#!/bin/sh\necho no worker >&0\nsleep 60\n"), "makes no sense"),
    ] {
        let config = config().with_child(ChildConfig::default().with_worker(program));
        let supervisor = Supervisor::start(prepare(&engine()).unwrap(), config).unwrap();
        let error = supervisor.wait_ready(Some(support::LONG)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.status(), Status::LoadFailed, "{error}");
        let health = supervisor.health().unwrap();
        assert_eq!(health.state, State::Failed);
        assert!(health.workers[0].last_crash.as_ref().is_some_and(|crash| crash.exit.is_some()), "{health:?}");
    }
    let missing = config().with_child(ChildConfig::default().with_worker("/nowhere/worker"));
    let error = Supervisor::start(prepare(&engine()).unwrap(), missing).err().unwrap();
    assert_eq!(error.status(), Status::InvalidParams, "{error}");
}

/// One that says nothing is ended as a load that makes no progress.
#[test]
fn a_silent_program_is_ended() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("silent");
    std::fs::write(&path, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = config().with_child(ChildConfig::default().with_worker(path));
    let config = config.with_load_stall_limit(Duration::from_millis(500));
    let supervisor = Supervisor::start(prepare(&engine()).unwrap(), config).unwrap();
    let error = supervisor.wait_ready(Some(support::LONG)).unwrap_err();
    assert!(error.to_string().contains("stall"), "{error}");
}

/// From one tier to the other and back, with the same answers, and what runs goes on.
#[test]
fn a_reload_may_change_the_tier() {
    let supervisor = support::start_with(&engine(), config());
    let request = support::greedy(support::words(5, 20)).with_max_tokens(60);
    let alone = read(supervisor.submit(request.clone()).unwrap()).unwrap();
    for isolation in [Isolation::Thread, Isolation::Process] {
        let before = pid_of(&supervisor);
        let running = supervisor.submit(request.clone()).unwrap();
        let report = supervisor.reload(prepare(&engine().with_isolation(isolation)).unwrap(), None).unwrap();
        assert!(report.changed);
        assert_eq!(read(running).unwrap().tokens, alone.tokens);
        assert_eq!(read(supervisor.submit(request.clone()).unwrap()).unwrap().tokens, alone.tokens);
        assert_eq!(supervisor.health().unwrap().isolation, isolation);
        assert_eq!(pid_of(&supervisor).is_some(), isolation == Isolation::Process);
        if let Some(before) = before {
            assert!(!is_there(before), "the old engine is gone");
        }
    }
}

fn pid_of(supervisor: &Supervisor) -> Option<u32> {
    supervisor.health().unwrap().workers[0].process.as_ref().map(|process| process.pid)
}
