//! From the text that names a model to its verified files, on the real model, by the public interface alone.

mod support;

use llamapen::Status;
use llamapen::model::{Digest, HashProgress, HubCache, ModelReference, hash_file, locate, read_header, verify_digests};
use std::fs;
use std::ops::ControlFlow;

fn on(_: HashProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_model_in_the_hub_cache_is_found_read_and_verified() {
    let cache = support::hub_cache();
    let reference = ModelReference::from_os(support::HUB_REFERENCE).unwrap();
    let files = locate(&reference, &HubCache::at(cache.path())).unwrap();
    assert_eq!(files.id, "HuggingFaceTB/SmolLM2/SmolLM2.Q4_1");
    assert_eq!(files.parts, [support::model().canonicalize().unwrap()]);
    assert!(!read_header(&files.parts[0]).unwrap().tensors().is_empty());

    let digest = hash_file(&files.parts[0], &mut on).unwrap();
    verify_digests(&files.parts, &[digest], None, &mut on).unwrap();
    let other: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let error = verify_digests(&files.parts, &[other], None, &mut on).unwrap_err();
    assert_eq!(error.status(), Status::DigestMismatch);
    assert!(error.to_string().ends_with(&format!("digest mismatch: expected {other}, got {digest}")), "{error}");
}

#[test]
fn looking_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    fs::write(&file, "bytes").unwrap();
    let before = support::descriptors();
    let reference = ModelReference::from_os(dir.path()).unwrap();
    for _ in 0..100 {
        let files = locate(&reference, &HubCache::from_env()).unwrap();
        verify_digests(&files.parts, &[hash_file(&file, &mut on).unwrap()], None, &mut on).unwrap();
    }
    // Other tests of this file hold a few.
    assert!(support::descriptors() < before + 50, "files stay open");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was written");
}
