//! What was built: constants that `llamapen::build_info()` returns.

use crate::compile::Engine;
use crate::cuda::Cuda;
use crate::sources::Sources;
use crate::target::Target;
use std::path::PathBuf;

pub fn write(sources: &Sources, target: &Target, engine: &Engine, cuda: Option<&Cuda>) -> Result<(), String> {
    let features: Vec<_> = [("CARGO_FEATURE_CUDA", "cuda"), ("CARGO_FEATURE_FAULT_INJECTION", "fault-injection")]
        .iter()
        .filter(|(var, _)| std::env::var_os(var).is_some())
        .map(|(_, name)| *name)
        .collect();
    let triple = std::env::var("TARGET").map_err(|_| "TARGET is not set")?;
    let levels: String = target
        .levels
        .iter()
        .filter(|_| target.dispatches())
        .map(|level| {
            let (name, flags, features) = (&level.name, &level.flags, level.features());
            format!("CpuLevel {{ name: {name:?}, flags: &{flags:?}, features: &{features:?} }},")
        })
        .collect();
    let strings = [
        ("LLAMA_CPP_VERSION", &sources.llama_version),
        ("GGML_VERSION", &sources.ggml_version),
        ("COMPILER", &target.compiler),
        ("TARGET", &triple),
        ("TARGET_CPU", &target.cpu),
        ("ENGINE_DIGEST", &format!("sha256:{}", engine.digest)),
    ];
    let mut text: String =
        strings.iter().map(|(name, value)| format!("pub const {name}: &str = {value:?};\n")).collect();
    text += &format!(
        "pub const COMMIT: Option<&str> = {:?};\npub const CUDA_VERSION: Option<u32> = {:?};\npub const CUDA_ARCHS: Option<&str> = {:?};\npub const FLAGS: &[&str] = &{:?};\n\
         pub const FEATURES: &[&str] = &{features:?};\npub const CPU_FEATURES: &[&str] = &{:?};\n\
         pub const CPU_LEVELS: &[CpuLevel] = &[{levels}];\n",
        sources.commit,
        cuda.map(|cuda| cuda.version),
        cuda.map(|cuda| &cuda.archs),
        engine.flags,
        target.least().features(),
    );
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    std::fs::write(out.join("build_info.rs"), text).map_err(|e| format!("cannot write the build information: {e}"))
}
