//! `prepare`: decides and checks, and does nothing.
//!
//! It reads the header of the model's file and asks the system how many cores there are. It never loads weights,
//! starts a thread, opens a socket, writes a file or calls llama.cpp; equal input gives equal output.

mod engine;

pub use engine::{FileIdentity, PreparedEngine};

use crate::config::{DEFAULT_CTX, DEFAULT_UBATCH, EngineConfig, MIN_CTX, in_range};
use crate::error::{Error, Result};
use crate::model::{GgufError, ModelInfo, read_header};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest context per slot: llama.cpp counts positions in 32 bits, and a cache of more has never been tried.
const MAX_CTX: u32 = 1 << 24;
const MAX_UBATCH: u32 = 4096;
const MAX_SLOTS: u32 = 64;

/// Checks `config` against its model file and this machine, and chooses what it leaves open.
///
/// # Errors
/// `ModelNotFound` where there is no readable regular file, `ModelInvalid` where it is no GGUF, is damaged or describes
/// a model that llama.cpp cannot load safely, `InvalidParams` for values out of range, `Unsupported` for models that
/// this version does not run.
pub fn prepare(config: &EngineConfig) -> Result<PreparedEngine> {
    let path = resolve(&config.model)?;
    let invalid = |source: GgufError| match source {
        GgufError::Io { .. } => Error::ModelNotFound { path: config.model.clone(), problem: source.to_string() },
        _ => Error::ModelInvalid { path: config.model.clone(), source: Arc::new(source) },
    };
    let header = read_header(&path).map_err(invalid)?;
    let info = ModelInfo::from_gguf(&header).map_err(invalid)?;
    let file = FileIdentity::of(&path)?;
    generates_text(&info)?;

    let cores = cores();
    let workers = config.workers.unwrap_or(1);
    in_range("workers", workers, 1..=cores)?;
    let threads = config.threads.unwrap_or(cores / workers);
    in_range("threads", threads, 1..=cores)?;
    if threads * workers > cores {
        let problem = format!(
            "{workers} workers of {threads} threads are {} compute threads, but this process may use {cores} cores; more \
             threads than cores make decoding collapse. Use at most {} threads per worker",
            threads * workers,
            cores / workers
        );
        return Err(Error::invalid("threads", problem));
    }
    let slots = config.slots.unwrap_or(1);
    in_range("slots", slots, 1..=MAX_SLOTS)?;
    let n_ctx = config.n_ctx.unwrap_or_else(|| info.n_ctx_train.clamp(MIN_CTX, DEFAULT_CTX));
    in_range("n_ctx", n_ctx, MIN_CTX..=MAX_CTX)?;
    if u64::from(n_ctx) * u64::from(slots) > u64::from(MAX_CTX) {
        return Err(Error::invalid(
            "n_ctx",
            format!("{n_ctx} for each of {slots} slots is more than {MAX_CTX} in all"),
        ));
    }
    if n_ctx > info.n_ctx_train {
        let problem = format!("{n_ctx} is more than the {} positions this model was trained with", info.n_ctx_train);
        return Err(Error::invalid("n_ctx", problem));
    }
    let n_ubatch = config.n_ubatch.unwrap_or(DEFAULT_UBATCH.min(n_ctx).max(slots));
    in_range("n_ubatch", n_ubatch, slots..=MAX_UBATCH)?;

    Ok(PreparedEngine::new(path, file, info, engine::Topology { n_ctx, n_ubatch, threads, workers, slots }, config))
}

/// Cores that this process may use: affinity and the cgroup's CPU quota are respected.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

fn resolve(path: &Path) -> Result<PathBuf> {
    let missing = |problem: String| Error::ModelNotFound { path: path.to_owned(), problem };
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("model", "the path is empty; name a GGUF file"));
    }
    let resolved = path.canonicalize().map_err(|e| missing(e.to_string()))?;
    let kind = resolved.metadata().map_err(|e| missing(e.to_string()))?;
    if kind.is_dir() {
        return Err(missing("is a directory; name the GGUF file in it".into()));
    }
    if !kind.is_file() {
        return Err(missing("is not a regular file".into()));
    }
    // llama.cpp and JSON take paths as UTF-8 text.
    if resolved.to_str().is_none() {
        return Err(missing("the path is not UTF-8; rename it or link to it under a UTF-8 name".into()));
    }
    Ok(resolved)
}

/// Refuses what this version could load but not generate with.
fn generates_text(info: &ModelInfo) -> Result<()> {
    let refuse = |why: &str| Err(Error::Unsupported(format!("{why}; this version runs text-generating models only")));
    if info.split.as_ref().is_some_and(|split| split.count > 1) {
        return refuse("the model is split over several files");
    }
    if info.reads_as_a_whole() {
        return refuse(&format!("this {} model reads texts as a whole, as an encoder does", info.architecture));
    }
    if info.tokenizer_model.as_deref().is_none_or(|kind| kind == "none" || kind == "no_vocab") || info.n_vocab == 0 {
        return refuse("the file has no vocabulary");
    }
    Ok(())
}
