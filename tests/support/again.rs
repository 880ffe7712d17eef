//! A test in a process of its own: this program again, running only the calling test, in another role.

use super::LONG;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "LLAMAPEN_TEST_ROLE";

/// The name of the calling test, as the test program knows it.
macro_rules! this_test {
    () => {{
        fn inside() {}
        $crate::support::again::test_name(std::any::type_name_of_val(&inside))
    }};
}
pub(crate) use this_test;

/// Of `faults::memory::null_write::inside`, the middle.
pub fn test_name(path: &'static str) -> &'static str {
    path.strip_suffix("::inside").and_then(|path| path.split_once("::")).expect("a function in a module").1
}

/// What the calling test is to do, in a child process; `None` where it is not one.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs a test in a process of its own, which is killed if it hangs.
pub fn run(test: &str, role: &str) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > 2 * LONG {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Runs `body` in a process of its own, and expects it to end well.
pub fn in_a_child(test: &str, body: impl FnOnce()) {
    match role() {
        None => succeeds(&run(test, "body")),
        Some(_) => body(),
    }
}

pub fn succeeds(output: &Output) {
    let text = said(output);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

pub fn dies(output: &Output, signal: i32) {
    assert_eq!(output.status.signal(), Some(signal), "{}", said(output));
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{:?}\n{out}\n{err}", output.status)
}
