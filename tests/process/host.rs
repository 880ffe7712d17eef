//! What the host has of it all: no weights, no memory to speak of, nobody to bury, and it can be any program.

use crate::support::{self, child, read};
use crate::{engine, faulty, is_there, pid, plain, start};
use llamapen::{Fault, Supervisor, SupervisorConfig, prepare};
use serde::{Deserialize, Serialize};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

#[derive(Serialize, Deserialize)]
enum Ask {
    /// A whole life, watched.
    Memory,
    /// Answers under circumstances that hosts have.
    Odd(Odd),
    /// Starts, says its child's number, and waits to be killed.
    Wait,
}

#[derive(Serialize, Deserialize, Debug, Clone, Copy)]
enum Odd {
    BlockedSignals,
    IgnoredSignals,
    ManyDescriptors,
    DeletedFolder,
    CoreLimit,
    OtherUser,
    NoMemoryLocks,
}

/// What this program does as a host.
pub fn run() {
    match child::asked() {
        Ask::Memory => child::answer(&memory()),
        Ask::Odd(odd) => {
            odd.arrange();
            let supervisor = start();
            let answer = read(supervisor.submit(plain()).unwrap()).unwrap();
            let after = read(supervisor.submit(faulty(Fault::Killed)).unwrap()).is_err();
            let again = read(supervisor.submit(plain()).unwrap()).unwrap();
            let pid = pid(&supervisor);
            supervisor.stop().unwrap();
            child::answer(&(answer.tokens == again.tokens, after, is_there(pid)));
        }
        Ask::Wait => {
            let supervisor = start();
            println!("\nworker {}", pid(&supervisor));
            std::thread::sleep(Duration::from_secs(120));
        }
    }
}

/// Whether the model's file was ever mapped here, and by how many bytes this process has grown.
fn memory() -> (bool, u64) {
    let name = support::model().file_name().unwrap().to_string_lossy().into_owned();
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().contains(&name);
    let before = support::traces::peak_and_resident().1;
    let engine = prepare(&engine().with_workers(2).with_slots(4)).unwrap();
    let supervisor = Supervisor::start(engine, crate::config()).unwrap();
    let mut mapped = maps();
    assert!(supervisor.wait_ready(Some(support::LONG)).unwrap());
    let requests = || (0..16).map(|i| support::greedy(support::words(i, 200)).with_max_tokens(40));
    for round in 0..3 {
        let streams: Vec<_> = requests().map(|request| supervisor.submit(request).unwrap()).collect();
        mapped |= maps();
        if round == 1 {
            let _ = read(supervisor.submit(faulty(Fault::Abort)).unwrap());
        }
        streams.into_iter().for_each(|stream| assert_eq!(read(stream).unwrap().tokens.len(), 40));
        mapped |= maps();
    }
    let grown = support::traces::peak_and_resident().1.saturating_sub(before);
    supervisor.stop().unwrap();
    (mapped, grown)
}

#[test]
fn it_never_maps_the_model_and_grows_by_little() {
    let output = child::command(&Ask::Memory).output().unwrap();
    let (mapped, grown): (bool, u64) = child::answer_of(&output);
    assert!(!mapped, "the model is in /proc/self/maps");
    println!("resident memory: {grown} bytes more after a whole run");
    assert!(grown < 16 << 20, "{grown}");
}

#[test]
fn it_may_be_any_program() {
    for odd in [
        Odd::BlockedSignals,
        Odd::IgnoredSignals,
        Odd::ManyDescriptors,
        Odd::DeletedFolder,
        Odd::CoreLimit,
        Odd::NoMemoryLocks,
    ] {
        let output = child::command(&Ask::Odd(odd)).output().unwrap();
        let (same, died, left): (bool, bool, bool) = child::answer_of(&output);
        assert!(same && died && !left, "{odd:?}");
    }
}

impl Odd {
    fn arrange(self) {
        // SAFETY: plain calls on local values, before anything else is started in this process.
        unsafe {
            match self {
                Self::BlockedSignals => {
                    let mut all: libc::sigset_t = std::mem::zeroed();
                    libc::sigfillset(&mut all);
                    libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
                }
                Self::IgnoredSignals => {
                    for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGPIPE, libc::SIGINT] {
                        libc::signal(signal, libc::SIG_IGN);
                    }
                }
                Self::ManyDescriptors => {
                    for _ in 0..1000 {
                        assert!(libc::dup(2) >= 0);
                    }
                }
                Self::DeletedFolder => {
                    let folder = tempfile::TempDir::new().unwrap();
                    std::env::set_current_dir(folder.path()).unwrap();
                    folder.close().unwrap();
                }
                Self::CoreLimit => {
                    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
                    libc::setrlimit(libc::RLIMIT_CORE, &limit);
                }
                Self::OtherUser => {
                    const NOBODY: u32 = 65534;
                    if libc::geteuid() == 0 {
                        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
                        assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
                        assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
                    }
                }
                Self::NoMemoryLocks => {
                    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                    libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
                }
            }
        }
    }
}

/// One that gave up its rights after it was started, as services do. What it is to read and to start, it may.
#[test]
fn it_may_have_become_another_user() {
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let copy = |from: &Path, mode: u32| {
        let to = folder.path().join(from.file_name().unwrap());
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, Permissions::from_mode(mode)).unwrap();
        to
    };
    let worker = std::env::current_exe().unwrap().parent().unwrap().with_file_name("llamapen-worker");
    let (model, worker) = (copy(&support::model(), 0o644), copy(&worker, 0o755));
    let mut command = child::command(&Ask::Odd(Odd::OtherUser));
    let output = command.env("LLAMAPEN_TEST_MODEL", model).env("LLAMAPEN_WORKER", worker).output().unwrap();
    let (same, died, left): (bool, bool, bool) = child::answer_of(&output);
    assert!(same && died && !left);
}

/// Killed at once, the host leaves nobody behind.
#[test]
fn its_children_die_with_it() {
    use std::io::{BufRead, BufReader};
    let mut host = child::command(&Ask::Wait).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let worker = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("worker ")?.parse::<u32>().ok()).unwrap();
    assert!(is_there(worker));
    host.kill().unwrap();
    host.wait().unwrap();
    support::eventually("the worker dies with its host", || !is_there(worker));
}

#[test]
fn nothing_is_left_after_a_stop() {
    let descriptors = support::descriptors();
    let threads = support::threads();
    for _ in 0..3 {
        let supervisor = start();
        let worker = pid(&supervisor);
        assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens.len(), 12);
        supervisor.stop().unwrap();
        assert!(!is_there(worker));
    }
    let default = SupervisorConfig::default();
    drop(support::start_with(&engine(), default));
    support::eventually("threads and descriptors are as before", || {
        support::threads() <= threads && support::descriptors() <= descriptors
    });
}
