//! Finds the llama.cpp source, and fills `vendor/llama.cpp` from the pin when it is missing.
//!
//! The source is third-party and not committed. cargo's own vendoring fetches the one pinned package and checks its
//! SHA-256 against `vendor/pin/Cargo.lock`; nothing else is downloaded. A packed crate carries the files it compiles
//! and no pin folder, so it never needs the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package the source is taken from, and the folder of it that is kept.
const PACKAGE: &str = "llama-cpp-sys-2";
const FOLDER: &str = "llama.cpp";

pub fn locate() -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed=LLAMAPEN_LLAMA_CPP_DIR");
    if let Some(dir) = std::env::var_os("LLAMAPEN_LLAMA_CPP_DIR") {
        let dir = PathBuf::from(dir);
        return match is_source(&dir) {
            true => Ok(dir.canonicalize().unwrap_or(dir)),
            false => Err(format!(
                "LLAMAPEN_LLAMA_CPP_DIR is {}, which holds no llama.cpp source (no include/llama.h and ggml/src/ggml.c in it).\n\
                 Point it at the root of a llama.cpp checkout, or unset it to use the pinned source.",
                dir.display()
            )),
        };
    }

    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let pin = root.join("vendor/pin/Cargo.toml");
    let lock = root.join("vendor/pin/Cargo.lock");
    let source = root.join("vendor").join(FOLDER);
    let stamp = source.join(".pin");
    println!("cargo::rerun-if-changed={}", stamp.display());
    if !pin.is_file() {
        // A packed crate: the files came with it.
        return match is_source(&source) {
            true => Ok(source),
            false => Err(format!(
                "{} is missing, and there is no vendor/pin to fill it from. Use a complete copy of the crate, or set LLAMAPEN_LLAMA_CPP_DIR.",
                source.display()
            )),
        };
    }

    println!("cargo::rerun-if-changed={}", lock.display());
    let wanted = pinned_checksum(&lock)?;
    if is_source(&source) && fs::read_to_string(&stamp).is_ok_and(|found| found.trim() == wanted) {
        return Ok(source);
    }
    fill(&root, &pin, &source, &wanted)?;
    Ok(source)
}

fn is_source(dir: &Path) -> bool {
    dir.join("include/llama.h").is_file() && dir.join("ggml/src/ggml.c").is_file()
}

/// What the stamp holds: package, version and checksum as the lock file states them.
fn pinned_checksum(lock: &Path) -> Result<String, String> {
    let text = fs::read_to_string(lock).map_err(|e| format!("cannot read {}: {e}", lock.display()))?;
    let field = |block: &str, key: &str| {
        block
            .lines()
            .find_map(|l| l.strip_prefix(key)?.trim().strip_prefix("= \"")?.strip_suffix('"').map(str::to_owned))
    };
    text.split("[[package]]")
        .find(|block| field(block, "name").as_deref() == Some(PACKAGE))
        .and_then(|block| Some(format!("{PACKAGE} {} sha256:{}", field(block, "version")?, field(block, "checksum")?)))
        .ok_or_else(|| format!("{} pins no {PACKAGE}", lock.display()))
}

/// Vendors the pinned package beside the destination and moves its `llama.cpp` folder into place.
fn fill(root: &Path, pin: &Path, source: &Path, wanted: &str) -> Result<(), String> {
    let io = |what: &str, e: std::io::Error| format!("cannot {what} while filling {}: {e}", source.display());
    let lock = fs::File::create(root.join("vendor/llama.cpp.lock")).map_err(|e| io("create a lock file", e))?;
    lock.lock().map_err(|e| io("take the lock", e))?;
    // Another build may have filled it while this one waited.
    if is_source(source) && fs::read_to_string(source.join(".pin")).is_ok_and(|found| found.trim() == wanted) {
        return Ok(());
    }

    let temp = root.join("vendor/llama.cpp.tmp");
    let _ = fs::remove_dir_all(&temp);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["vendor", "--locked", "--versioned-dirs", "--manifest-path"])
        .arg(pin)
        .arg(&temp)
        .current_dir(pin.parent().expect("a file has a folder"))
        .output()
        .map_err(|e| io("run cargo vendor", e))?;
    if !output.status.success() {
        let _ = fs::remove_dir_all(&temp);
        return Err(format!(
            "the llama.cpp source is not in {} and could not be fetched.\n\
             With a network, run:  make vendor\n\
             Without one, set LLAMAPEN_LLAMA_CPP_DIR to a copy of it.\n\
             cargo vendor said:\n{}",
            source.display(),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let package = fs::read_dir(&temp)
        .map_err(|e| io("list what was vendored", e))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{PACKAGE}-"))))
        .ok_or_else(|| format!("cargo vendor fetched no {PACKAGE}"))?;
    let fresh = package.join(FOLDER);
    fs::write(fresh.join(".pin"), format!("{wanted}\n")).map_err(|e| io("write the stamp", e))?;
    if source.exists() {
        fs::remove_dir_all(source).map_err(|e| io("remove the old source", e))?;
    }
    fs::rename(&fresh, source).map_err(|e| io("move the source into place", e))?;
    let _ = fs::remove_dir_all(&temp);
    Ok(())
}
