//! `include/llamapen.h` is generated from `src/ffi/`: this fails when the two drift apart.
//!
//! `LLAMAPEN_BLESS=1 cargo test --test header` writes it anew.

use std::path::Path;

const PREAMBLE: &str = r#"/*
 * llamapen: llama.cpp behind a supervisor. The C interface.
 *
 * Generated from src/ffi/ by tests/header.rs; do not edit.
 *
 * Conventions
 *   Status      Functions return int32_t: LLAMAPEN_STATUS_*. 100 and above are errors.
 *   Errors      The last argument, `error`, may be NULL. On failure *error is a new error that the caller frees, on
 *               success it is NULL.
 *   Texts in    Pointer and length in bytes, UTF-8, no NUL needed at the end. Kept by nobody after the call.
 *   Texts out   Through a char **: end with NUL, owned by the caller, freed with llamapen_string_free; set to NULL on
 *               failure. Returned, or in a struct: owned by the object.
 *   Handles     Freed once with their *_free, in any order; NULL is fine there. NULL elsewhere is INVALID_PARAMS.
 *               A handle must not be freed while another thread is inside a call with it.
 *   Threads     Every function may be called from any thread, and on one handle from several at a time, except that
 *               llamapen_request_next takes one caller per request: a second one gets BUSY.
 *   fork        Handles cannot be used in a forked child: FORKED. Freeing one there does nothing.
 *   Callbacks   One, llamapen_progress: called only inside the call that it is given to, on the same thread. It must
 *               return; no exception and no longjmp may leave it. Nothing of the host runs on a thread of llamapen.
 *   Signals     Loading the library changes no handler, mask or environment, and prints nothing.
 */
"#;

#[test]
fn header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config {
        language: cbindgen::Language::C,
        header: Some(PREAMBLE.into()),
        include_guard: Some("LLAMAPEN_H".into()),
        cpp_compat: true,
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        documentation_style: cbindgen::DocumentationStyle::Doxy,
        style: cbindgen::Style::Both,
        usize_is_size_t: true,
        ..Default::default()
    };
    config.function.args = cbindgen::Layout::Auto;
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in [
        "info",
        "status",
        "error",
        "progress",
        "machine",
        "model",
        "config",
        "engine",
        "plan",
        "supervisor",
        "lease",
        "handoff",
        "request",
        "worker",
    ] {
        builder = builder.with_src(root.join(format!("src/ffi/{file}.rs")));
    }
    let mut generated = Vec::new();
    builder.generate().expect("cbindgen reads src/ffi").write(&mut generated);
    let generated = String::from_utf8(generated).expect("UTF-8");

    let path = root.join("include/llamapen.h");
    if std::env::var_os("LLAMAPEN_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let first = generated.lines().zip(committed.lines()).position(|(a, b)| a != b);
    assert!(
        generated == committed,
        "include/llamapen.h differs from src/ffi (first at line {first:?}); run: LLAMAPEN_BLESS=1 cargo test --test header"
    );
}

/// cbindgen reads no macros, so the guard is a call that a new export could forget.
#[test]
fn every_export_that_does_work_is_guarded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi");
    // These read a constant or a field and call nothing that could panic.
    let trivial = ["llamapen_abi_version", "llamapen_version", "llamapen_status_name", "llamapen_error_"];
    let mut seen = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for export in text.split("#[unsafe(no_mangle)]").skip(1) {
            let body = export.split("\n}").next().unwrap();
            let name = body.split("fn ").nth(1).unwrap().split('(').next().unwrap();
            seen += 1;
            let guarded = ["guard(", "guard_free(", "free("].iter().any(|g| body.contains(g));
            assert!(guarded || trivial.iter().any(|t| name.starts_with(t)), "{name} has no panic guard");
        }
    }
    assert!(seen > 15, "found only {seen} exports");
}
