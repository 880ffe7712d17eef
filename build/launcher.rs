//! The embedded launcher, a program of a few kilobytes that the library carries with it, and the first steps that it shares
//! with workers that are Rust programs. Ours and small, so compiled per build, apart from the cached engine.

use std::path::PathBuf;

const FOLDER: &str = "src/isolation/child";
/// More than any path of a loader: `embedded.rs` writes the host's own into this room.
const ROOM: usize = 400;

pub fn build() -> Result<(), String> {
    for file in ["launcher.c", "settle.c", "settle.h"] {
        println!("cargo::rerun-if-changed={FOLDER}/{file}");
    }
    settings(&mut cc::Build::new())
        .file(format!("{FOLDER}/settle.c"))
        .try_compile("llamapen_settle")
        .map_err(|e| format!("compiling {FOLDER}/settle.c: {e}"))?;
    program()
}

fn settings(build: &mut cc::Build) -> &mut cc::Build {
    build.std("gnu11").opt_level(2).debug(false)
}

fn program() -> Result<(), String> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo")).join("llamapen-launcher");
    let mut command = settings(cc::Build::new().cargo_metadata(false)).get_compiler().to_command();
    command.args(["launcher.c", "settle.c"].map(|file| format!("{FOLDER}/{file}")));
    command.args(["-s", "-ldl"]).arg("-o").arg(&out);
    if let Some(loader) = loader() {
        command.arg(format!("-Wl,--dynamic-linker={}{loader}", "/".repeat(ROOM)));
    }
    let output = command.output().map_err(|e| format!("cannot run the C compiler ({command:?}): {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("compiling {FOLDER}/launcher.c: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Where glibc's loader is by its ABI, for a host that does not know its own.
fn loader() -> Option<&'static str> {
    let cargo = |name: &str| std::env::var(name).unwrap_or_default();
    match (cargo("CARGO_CFG_TARGET_ENV").as_str(), cargo("CARGO_CFG_TARGET_ARCH").as_str()) {
        ("gnu", "x86_64") => Some("/lib64/ld-linux-x86-64.so.2"),
        ("gnu", "aarch64") => Some("/lib/ld-linux-aarch64.so.1"),
        _ => None,
    }
}
