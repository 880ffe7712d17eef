//! A host that is built with `panic = "abort"` survives a panic in a worker. That is a property of a whole program, so the host
//! is a crate of its own, `tests/support/panic_abort.rs`, which this test builds. Needs the `fault-injection` feature.
#![cfg(feature = "fault-injection")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Builds the host, once and then again only what changed.
fn host() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (folder, target) = {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("panic-abort");
        (scratch.join("host"), scratch.join("target"))
    };
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = format!(
        r#"
            [package]
            name = "host"
            edition = "2024"
            [[bin]]
            name = "host"
            path = {:?}
            [dependencies]
            llamapen = {{ path = {root:?}, features = ["fault-injection"] }}
            [profile.dev]
            panic = "abort"
            debug = false
            [workspace]
        "#,
        root.join("tests/support/panic_abort.rs"),
    );
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    // The versions that everything else is tested with.
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--offline", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    target.join("debug/host")
}

fn run(host: &Path, what: &str) -> (Output, String) {
    let output = Command::new(host).arg(support::model()).arg(what).output().unwrap();
    let text = format!("{what}: {output:?}");
    (output, text)
}

#[test]
fn a_panic_of_a_worker_is_contained_where_panics_abort() {
    let host = host();
    let (output, text) = run(&host, "nothing");
    assert!(output.status.success() && output.stdout == b"alive\n", "{text}");
    // Both panics were told as the host wants it.
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!((err.matches("the host's hook\n").count(), err.matches("injected panic").count()), (2, 2), "{text}");

    // The host's own end is as ever.
    for what in ["panic", "abort"] {
        let (output, text) = run(&host, what);
        assert!(output.status.signal() == Some(libc::SIGABRT) && output.stdout == b"alive\n", "{text}");
    }
    let (output, text) = run(&host, "bare");
    assert!(output.status.signal() == Some(libc::SIGABRT) && output.stdout.is_empty(), "{text}");
}
