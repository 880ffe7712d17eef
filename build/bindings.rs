//! The C++ shim: compiled, and its header turned into Rust declarations.

use crate::compile;
use crate::sources::Sources;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the shim. It is ours and small, so it is compiled per build, apart from the cached engine.
pub fn shim(sources: &Sources) -> Result<(), String> {
    for file in ["native/shim.h", "native/shim_guard.h", "native/shim.cpp", "native/shim_sampler.cpp", "isolation/pen"]
    {
        println!("cargo::rerun-if-changed=src/{file}");
    }
    let mut build = compile::base(true);
    build
        .files(["src/native/shim.cpp", "src/native/shim_sampler.cpp"])
        .includes(["include", "ggml/include", "src"].map(|dir| sources.llama_cpp.join(dir)))
        .include("src/isolation/pen")
        .flag("-Wall")
        .flag("-Wextra");
    if std::env::var_os("CARGO_FEATURE_FAULT_INJECTION").is_some() {
        build
            .define("LLAMAPEN_FAULT_INJECTION", None)
            .files(["src/isolation/pen/inject.cpp", "src/isolation/pen/inject_locks.cpp"]);
    }
    build.try_compile("llamapen_shim").map_err(|e| format!("compiling src/native/shim.cpp: {e}"))?;
    println!("cargo::rustc-link-lib=static=llamapen_shim");
    compile::link_engine();
    Ok(())
}

/// The argument with which the build script runs itself to make the bindings.
pub const CHILD: &str = "bindings";

/// Makes the bindings in a child process: libclang is found through an environment variable, and a process cannot safely
/// change its own.
pub fn generate() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    let private = if std::env::var_os("LIBCLANG_PATH").is_none() { private_libclang() } else { None };
    let environment = private.iter().map(|dir| ("LIBCLANG_PATH", dir.as_os_str()));
    crate::run_again(CHILD, environment).map_err(|said| format!("making the bindings failed:\n{said}"))
}

/// What the child does.
pub fn generate_here() -> Result<(), String> {
    libclang_loads()?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    let mut builder = bindgen::Builder::default()
        .header("src/native/shim.h")
        .header("src/isolation/pen/pen.h")
        .header("src/native/dispatch/choose.h")
        .allowlist_item("(lp|LP)_.*")
        .prepend_enum_name(false)
        .generate_comments(true)
        .layout_tests(false)
        .use_core()
        .formatter(bindgen::Formatter::None);
    // A libclang from a Python package brings no builtin headers (stddef.h and the like): gcc's serve.
    if let Some(dir) = gcc_include() {
        builder = builder.clang_args(["-isystem", &dir]);
    }
    let bindings = builder.generate().map_err(|e| format!("bindgen could not read src/native/shim.h: {e}"))?;
    bindings.write_to_file(out.join("bindings.rs")).map_err(|e| format!("cannot write the bindings: {e}"))
}

fn gcc_include() -> Option<String> {
    let output = Command::new("cc").arg("-print-file-name=include").output().ok()?;
    let dir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Path::new(&dir).is_absolute().then_some(dir)
}

/// The copy of libclang in the project's private Python environment, for systems that have none.
fn private_libclang() -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let pythons = [".venv/lib", ".venv/lib64"].map(|lib| std::fs::read_dir(root.join(lib)));
    let dirs = pythons.into_iter().flatten().flatten().flatten().map(|p| p.path().join("site-packages/clang/native"));
    dirs.into_iter().find(|dir| dir.join("libclang.so").is_file())
}

/// bindgen panics where it finds no libclang: this says instead what to do.
fn libclang_loads() -> Result<(), String> {
    let version = std::panic::catch_unwind(bindgen::clang_version);
    version.map(drop).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        format!(
            "bindgen needs libclang, and none was found ({}).\n\
             Any one of these gives it:\n  make deps                       (a private copy, no root needed)\n  \
             apt-get install libclang-dev    (Debian, Ubuntu)\n  \
             LIBCLANG_PATH=/folder/of/libclang.so",
            text.lines().next().unwrap_or("no reason given")
        )
    })
}
