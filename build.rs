//! Compiles llama.cpp into the crate. This file only says in which order; each step is a file under `build/`.

#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/cuda.rs"]
mod cuda;
#[path = "build/info.rs"]
mod info;
#[path = "build/launcher.rs"]
mod launcher;
#[path = "build/levels.rs"]
mod levels;
#[path = "build/sources.rs"]
mod sources;
#[path = "build/target.rs"]
mod target;
#[path = "build/vendor.rs"]
mod vendor;

use std::ffi::OsStr;
use std::process::Command;

fn main() {
    let step = match std::env::args().nth(1).as_deref() {
        Some(bindings::CHILD) => bindings::generate_here(),
        Some(cuda::CHILD) => cuda::compile_here(),
        _ => build(),
    };
    if let Err(problem) = step {
        eprintln!("\nllamapen: {problem}\n");
        std::process::exit(1);
    }
}

/// One step in a process of its own, with variables that this one cannot safely set for itself. An error is what it said.
fn run_again<'a>(step: &str, environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> Result<(), String> {
    let script = std::env::current_exe().map_err(|e| format!("the build script does not find itself: {e}"))?;
    let output = Command::new(script).arg(step).envs(environment).output();
    let output = output.map_err(|e| format!("the build script cannot run itself: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let vendored = vendor::locate()?;
    let target = target::Target::resolve()?;
    let sources = sources::list(&vendored, &target)?;
    let engine = compile::engine(&sources, &target)?;
    bindings::shim(&sources)?;
    launcher::build()?;
    bindings::generate()?;
    let cuda = cuda::build(&sources, &target, &engine)?;
    info::write(&sources, &target, &engine, cuda.as_ref())?;
    Ok(())
}
