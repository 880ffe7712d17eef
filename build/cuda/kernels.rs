//! What is compiled for CUDA, with which defines: the same files that llama.cpp's own CMake files choose for a Release build
//! with CUDA graphs, flash attention and virtual memory, and without NCCL.

use crate::sources::{Group, Sources, files_with};
use std::path::PathBuf;

/// The pairs of KV cache types that flash attention is compiled for, of [`FA_TYPES`]: upstream's GGML_CUDA_FA_QUANTS.
const FA_PAIRS: [(&str, &str); 4] = [("q4_0", "q4_0"), ("q8_0", "q8_0"), ("f16", "f16"), ("bf16", "bf16")];
const FA_TYPES: [&str; 7] = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16"];

/// The kernels.
pub fn kernels(sources: &Sources) -> Result<Group, String> {
    let ggml = sources.llama_cpp.join("ggml/src");
    let cuda = ggml.join("ggml-cuda");
    let mut files = files_with(&cuda, &["cu"])?;
    let instances = files_with(&cuda.join("template-instances"), &["cu"])?;
    let vec = FA_PAIRS.map(|(k, v)| format!("fattn-vec-instance-{k}-{v}.cu"));
    files.extend(instances.into_iter().filter(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ["fattn-tile", "fattn-mma", "mmq", "mmf"].iter().any(|kind| name.starts_with(kind)) || vec.contains(&name)
    }));
    if files.iter().filter(|file| file.to_string_lossy().contains("fattn-vec-instance")).count() != FA_PAIRS.len() {
        return Err("this llama.cpp has not the flash attention kernels that build/cuda/kernels.rs lists".into());
    }
    if std::env::var_os("CARGO_FEATURE_FAULT_INJECTION").is_some() {
        files.push("src/native/cuda/inject.cu".into());
    }
    let mut defines = vec![
        ("GGML_CUDA_USE_GRAPHS", None),
        ("GGML_CUDA_FA_QUANTS", Some("\"q4_0-q4_0,q8_0-q8_0,f16-f16,bf16-bf16\"")),
        ("GGML_SCHED_MAX_COPIES", Some("4")),
        ("_GNU_SOURCE", None),
        ("_XOPEN_SOURCE", Some("600")),
    ];
    for v in FA_TYPES {
        for k in FA_TYPES {
            let name = format!("GGML_CUDA_FA_{}_{}", k.to_uppercase(), v.to_uppercase());
            // Leaked: a build script lives for a moment.
            defines.push((&*name.leak(), Some(if FA_PAIRS.contains(&(k, v)) { "1" } else { "0" })));
        }
    }
    Ok(Group {
        name: "ggml-cuda",
        files,
        includes: vec![ggml.clone(), cuda, sources.llama_cpp.join("ggml/include")],
        defines,
        arch_flags: false,
        forced_include: None,
    })
}

/// Every header that a kernel may read.
pub fn headers(sources: &Sources) -> Result<Vec<PathBuf>, String> {
    let ggml = sources.llama_cpp.join("ggml");
    let mut all = Vec::new();
    for dir in ["src", "src/ggml-cuda", "src/ggml-cuda/vendors", "include"] {
        all.extend(files_with(&ggml.join(dir), &["h", "hpp", "cuh"])?);
    }
    Ok(all)
}

/// What of ggml the kernels call, without the pen's hooks, and the way in.
pub fn base(sources: &Sources) -> Group {
    let ggml = sources.llama_cpp.join("ggml/src");
    let mut files: Vec<_> =
        ["ggml.c", "ggml-alloc.c", "ggml-backend.cpp", "ggml-backend-meta.cpp", "ggml-quants.c", "ggml-threading.cpp"]
            .map(|name| ggml.join(name))
            .into();
    files.extend(["backend.cpp", "driver.cpp"].map(|name| PathBuf::from("src/native/cuda").join(name)));
    Group {
        name: "ggml-cuda-base",
        files,
        includes: vec![ggml.clone(), sources.llama_cpp.join("ggml/include")],
        defines: vec![("_GNU_SOURCE", None), ("_XOPEN_SOURCE", Some("600")), ("GGML_SCHED_MAX_COPIES", Some("4"))],
        arch_flags: false,
        forced_include: None,
    }
}
