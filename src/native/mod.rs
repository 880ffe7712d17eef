//! Safe wrappers over the C++ shim, which is the only door to llama.cpp. All calls into it are here. Beside it, NVIDIA's
//! driver and management library, which are asked for devices and their free memory.
//!
//! Every wrapper is a plain owner: it frees what it made, when it is dropped, in an order that the types enforce.

mod context;
mod cuda;
mod cuda_driver;
mod dry;
mod error;
mod level;
mod log;
mod model;
mod nvml;
mod sampler;

#[cfg(test)]
pub(crate) use context::MemoryUse;
pub(crate) use context::{Batch, Context, ContextParams, Kernels};
pub(crate) use cuda::{find as find_cuda, start as start_cuda};
pub(crate) use cuda_driver::CudaDriver;
pub(crate) use error::{NativeError, NativeStatus};
pub(crate) use level::cpu_level;
pub(crate) use model::{LoadParams, LoadTimes, Model, apply_chat_template};
pub(crate) use nvml::free_on_gpus;
pub(crate) use sampler::{Draw, LogitBias, Sampler, Sampling, SamplingParams};

#[allow(non_camel_case_types, non_upper_case_globals, dead_code, missing_docs, clippy::all)]
pub(crate) mod sys {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

use std::sync::OnceLock;

/// Initialises llama.cpp, once per process and not before the first supervisor needs it.
pub(crate) fn init_backend() -> Result<(), NativeError> {
    static DONE: OnceLock<Result<(), NativeError>> = OnceLock::new();
    DONE.get_or_init(|| {
        level::check()?;
        error::status(|e| {
            // SAFETY: `log::line` has the signature of lp_log_fn, does not unwind and lives for ever.
            unsafe { sys::lp_backend_init(Some(log::line), e) }
        })
    })
    .clone()
}

/// A thread that used a GPU has died: models and contexts on GPUs are not freed from then on. A destructor could wait for a
/// lock that is held for ever, or end its thread because CUDA refuses.
pub(crate) fn gpus_lost() {
    // SAFETY: sets a flag.
    unsafe { sys::lp_gpus_lost() }
}

/// Gives the system what the C library has kept of freed memory: a vocabulary is many small blocks. Where that library has
/// no such function, nothing.
pub(crate) fn return_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number; any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Throws a C++ exception inside the shim and returns what came of it.
#[cfg(feature = "fault-injection")]
pub(crate) fn throw_exception() -> Result<(), NativeError> {
    // SAFETY: takes nothing but the error to fill.
    error::status(|e| unsafe { sys::lp_fault_throw(e) })
}
