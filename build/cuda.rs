//! The CUDA part of the engine. Not in this version: asking for it stops the build with a reason.

/// Refuses the `cuda` feature, rather than building a library that silently runs on the CPU.
pub fn refuse() -> Result<(), String> {
    match std::env::var_os("CARGO_FEATURE_CUDA") {
        None => Ok(()),
        Some(_) => Err("the `cuda` feature is not in this version: the CUDA kernels are not compiled yet.\n\
             Build without `--features cuda` (and without `--all-features`) for the CPU engine."
            .into()),
    }
}
