//! The three examples of the README are compiled and run as they stand there.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README's only code block in this language.
fn block(language: &str) -> String {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    assert_eq!(readme.matches(&fence).count(), 1, "one block in {language}");
    readme.split(&fence).nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// Where cargo puts libraries and examples, once they are built: a test's own build leaves the libraries out.
fn built() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let dir = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let profile = if dir.ends_with("release") { "release" } else { "dev" };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--lib", "--example", "embed", "--profile", profile]).current_dir(root());
        let output = cargo.arg("--target-dir").arg(dir.parent().unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        dir
    };
    BUILT.get_or_init(build).clone()
}

fn answers_paris(command: &mut Command) {
    let output = command.arg(support::model()).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("Paris"), "{command:?}: {text}\n{errors}");
    assert!(errors.is_empty(), "nothing is printed to stderr: {errors}");
}

#[test]
fn rust() {
    let example = fs::read_to_string(root().join("examples/embed.rs")).unwrap();
    let code = example.split_once("\n\n").unwrap().1;
    assert_eq!(code, block("rust"), "examples/embed.rs and the README differ");
    answers_paris(&mut Command::new(built().join("examples/embed")));
}

#[test]
fn c() {
    let dir = std::env::temp_dir().join(format!("llamapen-readme-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("chat.c"), block("c")).unwrap();
    let compile = |how: &str, link: &[String]| {
        let program = dir.join(how);
        let mut cc = Command::new("cc");
        cc.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
        cc.arg("-I").arg(root().join("include")).arg(dir.join("chat.c")).args(link).arg("-o").arg(&program);
        let output = cc.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program
    };
    let lib = built().display().to_string();
    let shared = compile("shared", &[format!("-L{lib}"), "-lllamapen".into(), format!("-Wl,-rpath,{lib}")]);
    answers_paris(&mut Command::new(&shared));
    let libraries = ["-lstdc++", "-lm", "-lpthread", "-ldl"].map(String::from);
    let statically = compile("static", &[&[format!("{lib}/libllamapen.a")], &libraries[..]].concat());
    answers_paris(&mut Command::new(&statically));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn python() {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", root().join("python")).env("LLAMAPEN_LIBRARY", built().join("libllamapen.so"));
    answers_paris(python.args(["-c", &block("python")]));
}
