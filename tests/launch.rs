//! The program for hosts that llamapen is linked into, started as such a host starts it.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const WORKER: &str = env!("CARGO_BIN_EXE_llamapen-worker");

fn start(host: u32) -> (Child, UnixStream) {
    let (ours, socket) = UnixStream::pair().unwrap();
    let mut command = Command::new(WORKER);
    command.env("LLAMAPEN_WORKER_HOST", host.to_string()).stdin(OwnedFd::from(socket)).stderr(Stdio::piped());
    (command.spawn().unwrap(), ours)
}

#[test]
fn by_hand_it_says_what_it_is_for() {
    // Also where a worker's environment comes to it.
    for host in [None, Some("1")] {
        let output = Command::new(WORKER)
            .envs(host.map(|host| ("LLAMAPEN_WORKER_HOST", host)))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("LLAMAPEN_WORKER"), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn it_does_not_begin_for_a_host_that_is_gone() {
    let (mut child, _socket) = start(1);
    assert_eq!(child.wait().unwrap().code(), Some(120));
}

#[test]
fn it_waits_for_its_host_and_ends_with_the_socket() {
    let (mut child, socket) = start(std::process::id());
    let comm = format!("/proc/{}/comm", child.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    // The socket has left stdin, so it runs.
    let stdin = format!("/proc/{}/fd/0", child.id());
    while std::fs::read_link(&stdin).unwrap() != Path::new("/dev/null") {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(std::fs::read_to_string(comm).unwrap(), "llamapen-worker\n");
    drop(socket);
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    assert!(status.signal().is_none() && status.code().is_some_and(|code| code < 120), "{status} {text}");
}
