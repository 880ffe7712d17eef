//! What a worker's process may have and do.

use crate::support::again::{in_a_child, this_test};
use crate::support::{self, read};
use crate::{config, engine, faulty, plain};
use llamapen::{ChildConfig, CrashReason, Fault, Sandbox, State};
use std::collections::BTreeMap;

/// What a probe came to, by what it tried.
fn probe(sandbox: Sandbox, port: u16) -> BTreeMap<String, String> {
    // SAFETY: each test of this file that reads the environment is in a process of its own.
    unsafe { std::env::set_var("LLAMAPEN_PROBE_PORT", port.to_string()) };
    let supervisor = support::start_with(&engine(), config().with_child(ChildConfig::default().with_sandbox(sandbox)));
    let plain = read(supervisor.submit(plain()).unwrap()).unwrap();
    assert_eq!(plain.tokens.len(), 12);
    let report = supervisor.health().unwrap().workers[0].process.clone().unwrap().confinement;
    println!("{report:?}");
    assert_eq!(report.seccomp.is_on(), sandbox == Sandbox::Strict);
    let failed = read(supervisor.submit(faulty(Fault::SandboxProbe)).unwrap()).unwrap_err();
    let tried = failed.message.split_once("failed: ").unwrap().1;
    tried.split("; ").map(|line| line.split_once(": ").unwrap()).map(|(a, b)| (a.into(), b.into())).collect()
}

#[test]
fn in_a_sandbox_it_can_compute_and_nothing_else() {
    in_a_child(this_test!(), || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (free, confined) = (probe(Sandbox::Off, port), probe(Sandbox::Strict, port));
        for what in ["read /etc/passwd", "connect", "fork", "exec", "write to the model", "create a file"] {
            assert_eq!(free[what], "succeeded", "{what}: or the test shows nothing");
            assert_ne!(confined[what], "succeeded", "{what}");
        }
        for (what, came) in &confined {
            println!("{what}: {came}, without the sandbox: {}", free[what]);
            assert_eq!(came == "succeeded", what == "read the model", "{what}: {came}");
        }
    });
}

#[test]
fn threads_cannot_be_confined_and_nobody_says_that_they_are() {
    let engine = llamapen::prepare(&engine().with_isolation(llamapen::Isolation::Thread)).unwrap();
    let config = config().with_child(ChildConfig::default().with_sandbox(Sandbox::Strict));
    let error = llamapen::Supervisor::start(engine, config).err().unwrap();
    assert_eq!(error.status(), llamapen::Status::InvalidParams);
    assert!(error.to_string().starts_with("child.sandbox: "), "{error}");
}

/// By a control group where one can be made, else by a limit of the process.
#[test]
fn it_dies_of_its_memory_limit_and_the_host_does_not() {
    let child = ChildConfig::default().with_memory_limit_bytes(Some(700 << 20));
    let supervisor = support::start_with(&engine(), config().with_child(child));
    let report = supervisor.health().unwrap().workers[0].process.clone().unwrap().confinement;
    println!("{}", report.memory);
    let before = read(supervisor.submit(plain()).unwrap()).unwrap();
    let failed = read(supervisor.submit(faulty(Fault::EndlessMemory)).unwrap()).unwrap_err();
    assert!(failed.message.contains("memory"), "{failed:?}");
    let health = supervisor.health().unwrap();
    let crash = health.workers[0].last_crash.clone().unwrap();
    assert_eq!(crash.reason, CrashReason::HostOutOfMemory, "{crash:?}");
    assert_eq!(read(supervisor.submit(plain()).unwrap()).unwrap().tokens, before.tokens);
    assert_eq!(supervisor.health().unwrap().state, State::Ready);
}

#[test]
fn it_is_as_nice_and_where_it_is_told_to_be() {
    let child = ChildConfig::default().with_nice(7).with_cpus([0]);
    let supervisor = support::start_with(&engine(), config().with_child(child));
    let worker = crate::pid(&supervisor);
    let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    let nice: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    assert_eq!((nice, cpus), (7, "0"));
}
