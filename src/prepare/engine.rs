//! [`PreparedEngine`]: the checked configuration of one model on this machine.

use crate::build_info::build_info;
use crate::config::{EngineConfig, from_json};
use crate::error::{Error, Result};
use crate::model::ModelInfo;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Number of the serialized form; another one is refused.
pub const SCHEMA: u32 = 1;

/// What [`prepare`](crate::prepare()) decided. Immutable; serializes to JSON and back; cheap to clone and to share.
///
/// One that was deserialized is not trusted: [`Supervisor::start`](crate::Supervisor::start) checks again that it fits
/// this build and that its file is still the one that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PreparedEngine {
    schema: u32,
    model: PathBuf,
    file: FileIdentity,
    info: ModelInfo,
    n_ctx: u32,
    n_ubatch: u32,
    threads: u32,
    workers: u32,
    slots: u32,
    use_mmap: bool,
    use_mlock: bool,
    engine_version: String,
    engine_digest: String,
}

/// Which file was looked at: enough to notice that another one is in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileIdentity {
    /// Size in bytes.
    pub bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system.
    pub device: u64,
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let found =
            path.metadata().map_err(|e| Error::ModelNotFound { path: path.to_owned(), problem: e.to_string() })?;
        let mtime_ns = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
        Ok(Self { bytes: found.len(), mtime_ns, inode: found.ino(), device: found.dev() })
    }
}

pub(super) struct Topology {
    pub n_ctx: u32,
    pub n_ubatch: u32,
    pub threads: u32,
    pub workers: u32,
    pub slots: u32,
}

impl PreparedEngine {
    pub(super) fn new(
        model: PathBuf,
        file: FileIdentity,
        info: ModelInfo,
        topology: Topology,
        config: &EngineConfig,
    ) -> Self {
        let Topology { n_ctx, n_ubatch, threads, workers, slots } = topology;
        Self {
            schema: SCHEMA,
            model,
            file,
            info,
            n_ctx,
            n_ubatch,
            threads,
            workers,
            slots,
            use_mmap: config.use_mmap,
            use_mlock: config.use_mlock,
            engine_version: build_info().llama_cpp_version.into(),
            engine_digest: build_info().engine_digest.into(),
        }
    }

    /// Reads what [`to_json`](Self::to_json) wrote. It is checked against this build and this machine when it is started.
    pub fn from_json(json: &str) -> Result<Self> {
        from_json("prepared engine", json)
    }

    /// The whole of it as JSON: equal engines give equal bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data with string keys")
    }

    /// Absolute path of the model, without links.
    #[must_use]
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// The file as it was when it was looked at.
    #[must_use]
    pub fn file(&self) -> &FileIdentity {
        &self.file
    }

    /// What the header says.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Positions per slot.
    #[must_use]
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// Tokens per micro-batch.
    #[must_use]
    pub fn n_ubatch(&self) -> u32 {
        self.n_ubatch
    }

    /// Compute threads per worker.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Slots per worker.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Whether the weights are mapped from the file.
    #[must_use]
    pub fn use_mmap(&self) -> bool {
        self.use_mmap
    }

    /// Whether the weights are locked into memory.
    #[must_use]
    pub fn use_mlock(&self) -> bool {
        self.use_mlock
    }

    /// Digest of the engine it was prepared for.
    #[must_use]
    pub fn engine_digest(&self) -> &str {
        &self.engine_digest
    }

    /// Checks that this still fits: it may come from another build, another machine, another day, or a text editor.
    ///
    /// What the engine would do with it is decided again from the file itself, by `prepare`, and must come out the same.
    pub(crate) fn verify(&self) -> Result<()> {
        let stale = |why: String| Err(Error::StaleEngine(why));
        if self.schema != SCHEMA {
            return stale(format!("its schema is {}, this build reads {SCHEMA}", self.schema));
        }
        let digest = build_info().engine_digest;
        if self.engine_digest != digest {
            return stale(format!("it was prepared for engine {}, this build is {digest}", self.engine_digest));
        }
        let found = FileIdentity::of(&self.model)?;
        if found != self.file {
            return stale(format!("the file {} has changed since", self.model.display()));
        }
        let again = super::prepare(&self.config())?;
        if again != *self {
            return stale(format!("{} or this machine is not what it describes", self.model.display()));
        }
        Ok(())
    }

    /// The configuration that leads to this engine.
    fn config(&self) -> EngineConfig {
        EngineConfig {
            model: self.model.clone(),
            n_ctx: Some(self.n_ctx),
            n_ubatch: Some(self.n_ubatch),
            threads: Some(self.threads),
            workers: Some(self.workers),
            slots: Some(self.slots),
            use_mmap: self.use_mmap,
            use_mlock: self.use_mlock,
        }
    }
}
