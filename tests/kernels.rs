//! The kernels for rearranged weights (`src/native/kernels`) by themselves.

mod support;

use std::path::Path;
use std::process::Command;
use support::reference;

fn run(program: &Path) -> String {
    let output = Command::new(program).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::remove_dir_all(program.parent().unwrap()).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Each column with the bits that it has alone with one thread, and as near to the exact product as ggml's own kernels. And the
/// rows that are looked up are the file's.
#[test]
fn products_are_as_exact_as_ggmls_and_do_not_depend_on_the_batch() {
    let said = run(&reference::build("product", "batch"));
    print!("{said}");
    let formats = if cfg!(target_arch = "x86_64") { 3 * 4 } else { 1 };
    assert_eq!(said.lines().count(), formats);
}

/// Another machine with the same library gives the same logits as far as these kernels go.
#[test]
#[cfg(target_arch = "x86_64")]
fn every_instruction_set_gives_the_same_bits() {
    let levels = [
        ("haswell", is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")),
        ("skylake-avx512", is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl")),
        ("icelake-server", is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vbmi2")),
        ("alderlake", is_x86_feature_detected!("avxvnni")),
    ];
    let outputs: Vec<_> = levels
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(level, _)| {
            let flags = [format!("-march={level}"), "src/native/kernels/lanes.cpp".into()];
            let said = run(&reference::compile("lanes", level, flags.into_iter().map(Into::into)));
            println!("{level}: {said}");
            said
        })
        .collect();
    assert!(!outputs.is_empty(), "this machine has none of them");
    assert!(outputs.iter().all(|said| *said == outputs[0] && said.lines().count() == 3), "{outputs:?}");
}
