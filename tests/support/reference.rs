//! Programs of `tests/reference`, linked with the engine archive that the tests are linked with.

use std::path::PathBuf;
use std::process::Command;

/// Builds `NAME.cpp` in a folder of its own, which `test` tells apart and the caller removes.
pub fn build(name: &str, test: &str) -> PathBuf {
    let source = PathBuf::from(env!("LLAMAPEN_LLAMA_CPP"));
    let includes = [source.join("include"), source.join("ggml/include")];
    let arguments = includes.iter().flat_map(|dir| ["-I".into(), dir.clone().into_os_string()]);
    let archive = [env!("LLAMAPEN_ENGINE_ARCHIVE"), "-lpthread", "-ldl", "-lm"].map(Into::into);
    compile(name, test, arguments.chain(archive))
}

/// The same with other arguments for the compiler.
pub fn compile(name: &str, test: &str, arguments: impl Iterator<Item = std::ffi::OsString>) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("llamapen-{name}-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let program = dir.join(name);
    let output = Command::new("c++")
        .args(["-O2", "-std=c++17", &format!("tests/reference/{name}.cpp"), "-o"])
        .arg(&program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}
