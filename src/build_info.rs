//! What this library was built from.

use serde::Serialize;

mod built {
    use super::CpuLevel;

    include!(concat!(env!("OUT_DIR"), "/build_info.rs"));
}

/// Versions, compiler and flags of this build. Serializes to JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BuildInfo {
    /// Version of this crate.
    pub llamapen_version: &'static str,
    /// Version of llama.cpp, as its sources state it.
    pub llama_cpp_version: &'static str,
    /// Version of ggml, as its sources state it.
    pub ggml_version: &'static str,
    /// Commit of llama.cpp where the sources state one; the pinned package does not.
    pub commit: Option<&'static str>,
    /// First line of the C compiler's `--version`.
    pub compiler: &'static str,
    /// Flags of the CPU kernels; those of a level are in `cpu_levels`.
    pub flags: &'static [&'static str],
    /// Cargo features.
    pub features: &'static [&'static str],
    /// Target triple.
    pub target: &'static str,
    /// `LLAMAPEN_TARGET_CPU`: `native`, `dispatch` or a level.
    pub target_cpu: &'static str,
    /// Instruction sets that the kernels use: those that a machine must have.
    pub cpu_features: &'static [&'static str],
    /// What the kernels were compiled for several times, from the least to the best (`LLAMAPEN_TARGET_CPU=dispatch`). The best
    /// that a machine has is chosen when the library is loaded: [`MachineSnapshot::cpu_level`](crate::MachineSnapshot::cpu_level).
    /// Empty: they were compiled once.
    pub cpu_levels: &'static [CpuLevel],
    /// Version of CUDA that it was built with, 1000 · major + 10 · minor. `None`: without CUDA.
    pub cuda_version: Option<u32>,
    /// GPUs that its kernels were compiled for, such as `90-real`: `LLAMAPEN_CUDA_ARCHS`. `None`: without CUDA.
    pub cuda_archs: Option<&'static str>,
    /// `sha256:` over the engine's sources, flags and compiler: equal digests compute the same, with kernels of the same level.
    pub engine_digest: &'static str,
}

/// One of several instruction sets that the CPU kernels of this build were compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CpuLevel {
    /// Such as `x86-64-v3`.
    pub name: &'static str,
    /// What the compiler was told.
    pub flags: &'static [&'static str],
    /// Instruction sets that the kernels of this level use.
    pub features: &'static [&'static str],
}

/// What this library was built from.
#[must_use]
pub const fn build_info() -> BuildInfo {
    BuildInfo {
        llamapen_version: env!("CARGO_PKG_VERSION"),
        llama_cpp_version: built::LLAMA_CPP_VERSION,
        ggml_version: built::GGML_VERSION,
        commit: built::COMMIT,
        compiler: built::COMPILER,
        flags: built::FLAGS,
        features: built::FEATURES,
        target: built::TARGET,
        target_cpu: built::TARGET_CPU,
        cpu_features: built::CPU_FEATURES,
        cpu_levels: built::CPU_LEVELS,
        cuda_version: built::CUDA_VERSION,
        cuda_archs: built::CUDA_ARCHS,
        engine_digest: built::ENGINE_DIGEST,
    }
}
