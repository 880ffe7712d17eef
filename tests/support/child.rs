//! A test in a process of its own: this program again, running only its ignored test `child`.
//!
//! What the child is to do travels in the environment as JSON, its answer in a line of its output.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::process::{Command, Output};

const ASK: &str = "LLAMAPEN_TEST_ASK";
const ANSWER: &str = "the child answers: ";

/// The command that runs the child. One test thread: nothing else happens in that process.
pub fn command(ask: &impl Serialize) -> Command {
    command_of("child", ask)
}

/// The same of a test with another name, where a program has several.
pub fn command_of(test: &str, ask: &impl Serialize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"]);
    command.env(ASK, serde_json::to_string(ask).unwrap());
    command
}

/// In the child: what it is to do.
pub fn asked<T: DeserializeOwned>() -> T {
    serde_json::from_str(&std::env::var(ASK).expect("run by other tests only")).unwrap()
}

/// In the child: its answer.
pub fn answer(value: &impl Serialize) {
    println!("\n{ANSWER}{}", serde_json::to_string(value).unwrap());
}

/// The answer of a child, which must have ended well.
pub fn answer_of<T: DeserializeOwned>(output: &Output) -> T {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !err.contains("panicked"), "{}\n{out}\n{err}", output.status);
    let answer = out.lines().find_map(|line| line.strip_prefix(ANSWER)).unwrap_or_else(|| panic!("{out}"));
    serde_json::from_str(answer).unwrap()
}
