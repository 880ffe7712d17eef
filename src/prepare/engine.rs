//! [`PreparedEngine`]: the checked configuration of one model on this machine.

use super::choose::Choices;
use super::files::{FileIdentity, Found};
use super::memory::MemoryPlan;
use super::rates::Rates;
use super::{decide, in_names};
use crate::build_info::build_info;
use crate::config::{EngineConfig, Isolation, KvType, Tuning, from_json};
use crate::device::{DeviceMask, LayerSplit};
use crate::error::{Error, Result};
use crate::machine::MachineSnapshot;
use crate::model::{Digest, ModelInfo};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Number of the serialized form; another one is refused.
pub const SCHEMA: u32 = 7;

/// What [`prepare`](crate::prepare()) decided. Immutable; serializes to JSON and back; cheap to clone and to share.
///
/// One that was deserialized is not trusted: [`Supervisor::start`](crate::Supervisor::start) checks again that it fits
/// this build and this machine, and that its files are still those that were looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PreparedEngine {
    schema: u32,
    pool_id: String,
    replica_id: u32,
    model_id: String,
    files: Vec<FileIdentity>,
    digest: Vec<Digest>,
    info: ModelInfo,
    n_ctx: u32,
    n_ubatch: u32,
    threads: u32,
    share_threads: bool,
    workers: u32,
    isolation: Isolation,
    warm_spare: bool,
    slots: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tuning: Option<Tuning>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tuning_cache: Option<PathBuf>,
    /// What supervisors measured before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
    kv_type_k: KvType,
    kv_type_v: KvType,
    flash_attention: bool,
    swa_full: bool,
    prefix_cache: bool,
    prefix_store_bytes: u64,
    draft_max: u32,
    devices: Vec<u32>,
    device_mask: DeviceMask,
    require_gpu: bool,
    n_gpu_layers: u32,
    split: Option<LayerSplit>,
    memory: MemoryPlan,
    memory_limit: Option<u64>,
    adjustments: Vec<String>,
    deterministic: bool,
    seed: Option<u64>,
    use_mmap: bool,
    use_repack: bool,
    use_mlock: bool,
    flags: Vec<String>,
    machine: MachineSnapshot,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu_level: Option<String>,
    llamapen_version: String,
    engine_version: String,
    engine_digest: String,
    build_flags: Vec<String>,
}

/// A pool's name from a model's.
fn pool_of(model_id: &str) -> String {
    let name: String = model_id.chars().map(|c| if in_names(c) { c } else { '-' }).take(128).collect();
    name.trim_start_matches('.').to_owned()
}

impl PreparedEngine {
    pub(super) fn new(
        config: &EngineConfig,
        machine: &MachineSnapshot,
        found: &Found,
        choices: Choices,
        rates: Option<Rates>,
    ) -> Self {
        let build = build_info();
        let device_mask = match choices.devices.is_empty() {
            true => DeviceMask::None,
            false => DeviceMask::Indices(choices.devices.clone()),
        };
        let mut engine = Self {
            schema: SCHEMA,
            pool_id: config.pool_id.clone().unwrap_or_else(|| pool_of(&found.id)),
            replica_id: config.replica_id,
            model_id: found.id.clone(),
            files: found.files.clone(),
            digest: config.digest.clone(),
            info: found.header.info().clone(),
            n_ctx: choices.n_ctx,
            n_ubatch: choices.n_ubatch,
            threads: choices.threads,
            share_threads: choices.share_threads,
            workers: choices.workers,
            isolation: choices.isolation,
            warm_spare: config.warm_spare,
            slots: choices.slots,
            tuning: config.tuning,
            tuning_cache: config.tuning_cache.clone(),
            rates,
            kv_type_k: choices.kv_type_k,
            kv_type_v: choices.kv_type_v,
            flash_attention: choices.flash_attention,
            swa_full: config.swa_full,
            prefix_cache: config.prefix_cache,
            prefix_store_bytes: config.prefix_store_bytes,
            draft_max: config.draft_max,
            devices: choices.devices,
            device_mask,
            require_gpu: config.require_gpu,
            n_gpu_layers: choices.n_gpu_layers,
            split: choices.split,
            memory: choices.memory,
            memory_limit: config.memory_limit,
            adjustments: choices.adjustments,
            deterministic: config.deterministic,
            seed: choices.seed,
            use_mmap: config.use_mmap,
            use_repack: choices.use_repack,
            use_mlock: config.use_mlock,
            flags: vec![],
            machine: machine.clone(),
            cpu_level: choices.cpu_level.map(|level| level.name.into()),
            llamapen_version: build.llamapen_version.into(),
            engine_version: build.llama_cpp_version.into(),
            engine_digest: build.engine_digest.into(),
            build_flags: build.flags.iter().map(|&flag| flag.into()).collect(),
        };
        engine.flags = engine.config().to_flags();
        engine
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

    /// Name of the pool that runs it.
    #[must_use]
    pub fn pool_id(&self) -> &str {
        &self.pool_id
    }

    /// Which of several equal pools it is.
    #[must_use]
    pub fn replica_id(&self) -> u32 {
        self.replica_id
    }

    /// What to call the model, see [`ModelFiles::id`](crate::model::ModelFiles::id).
    #[must_use]
    pub fn model_id(&self) -> &str {
        &self.model_id
    }

    /// Absolute path of the model: of the file that llama.cpp is given, the first of a split model.
    #[must_use]
    pub fn model(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |file| &file.path)
    }

    /// The model's files as they were when they were looked at, in order.
    #[must_use]
    pub fn files(&self) -> &[FileIdentity] {
        &self.files
    }

    /// The digests that were given and that the files had, one per file; empty if none was given.
    #[must_use]
    pub fn digest(&self) -> &[Digest] {
        &self.digest
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

    /// Compute threads: of all workers together where they are shared, else of each.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Whether the compute threads are those of all workers together, see
    /// [`EngineConfig::share_threads`](crate::EngineConfig::share_threads).
    #[must_use]
    pub fn share_threads(&self) -> bool {
        self.share_threads
    }

    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Where workers run.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Whether a child process more than there are workers is kept loaded.
    #[must_use]
    pub fn warm_spare(&self) -> bool {
        self.warm_spare
    }

    /// Contexts that there are at a time.
    pub(crate) fn contexts(&self) -> u32 {
        self.workers + u32::from(self.warm_spare)
    }

    /// Slots per worker.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// What workers, slots and micro-batches were chosen for.
    #[must_use]
    pub fn tuning(&self) -> Option<Tuning> {
        self.tuning
    }

    /// Folder in which supervisors keep what they measured.
    #[must_use]
    pub fn tuning_cache(&self) -> Option<&Path> {
        self.tuning_cache.as_deref()
    }

    /// Whether a supervisor measures over how many workers requests are best spread.
    pub(crate) fn is_to_be_measured(&self) -> bool {
        self.tuning == Some(Tuning::Auto) && self.workers > 1 && self.devices.is_empty() && self.rates.is_none()
    }

    /// What supervisors measured before, if that was found.
    pub(crate) fn rates(&self) -> Option<&Rates> {
        self.rates.as_ref()
    }

    /// Element types of the keys and the values in the KV cache.
    #[must_use]
    pub fn kv_types(&self) -> (KvType, KvType) {
        (self.kv_type_k, self.kv_type_v)
    }

    /// Whether flash attention is used.
    #[must_use]
    pub fn flash_attention(&self) -> bool {
        self.flash_attention
    }

    /// Whether layers with a sliding window remember every position.
    #[must_use]
    pub fn swa_full(&self) -> bool {
        self.swa_full
    }

    /// Whether slots keep what they computed for requests that begin alike.
    #[must_use]
    pub fn prefix_cache(&self) -> bool {
        self.prefix_cache
    }

    /// Bytes of host memory for saved beginnings, for all workers together.
    #[must_use]
    pub fn prefix_store_bytes(&self) -> u64 {
        self.prefix_store_bytes
    }

    /// Most tokens that are guessed ahead; 0: none.
    #[must_use]
    pub fn draft_max(&self) -> u32 {
        self.draft_max
    }

    /// Most tokens of a batch that can have logits.
    pub(crate) fn n_outputs(&self) -> u32 {
        (self.slots * (1 + self.draft_max)).min(self.n_ubatch)
    }

    /// Indices of the GPUs that are used, the main one first; empty on the CPU.
    #[must_use]
    pub fn devices(&self) -> &[u32] {
        &self.devices
    }

    /// The same in the form of a configuration.
    #[must_use]
    pub fn device_mask(&self) -> &DeviceMask {
        &self.device_mask
    }

    /// Whether a GPU is a must.
    #[must_use]
    pub fn require_gpu(&self) -> bool {
        self.require_gpu
    }

    /// Layers on GPUs, the output layer counted as one.
    #[must_use]
    pub fn n_gpu_layers(&self) -> u32 {
        self.n_gpu_layers
    }

    /// How those layers are divided; `None` on the CPU.
    #[must_use]
    pub fn split(&self) -> Option<&LayerSplit> {
        self.split.as_ref()
    }

    /// What it takes, and where.
    #[must_use]
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// What was reduced so that it fits, and why; empty if nothing was. Only what
    /// [`EngineConfig::shrink`](crate::EngineConfig::shrink) allows, and a context that nobody asked for.
    #[must_use]
    pub fn adjustments(&self) -> &[String] {
        &self.adjustments
    }

    /// Whether equal requests give equal answers, bit by bit.
    #[must_use]
    pub fn deterministic(&self) -> bool {
        self.deterministic
    }

    /// Seed of requests that have none; `None`: drawn for each.
    #[must_use]
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// Whether the weights are mapped from the file.
    #[must_use]
    pub fn use_mmap(&self) -> bool {
        self.use_mmap
    }

    /// Whether weights are rearranged where that makes faster kernels.
    #[must_use]
    pub fn use_repack(&self) -> bool {
        self.use_repack
    }

    /// Whether the weights are locked into memory.
    #[must_use]
    pub fn use_mlock(&self) -> bool {
        self.use_mlock
    }

    /// Everything that was decided as flags in normal form, which lead to this engine again.
    #[must_use]
    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    /// The machine that it was prepared for.
    #[must_use]
    pub fn machine(&self) -> &MachineSnapshot {
        &self.machine
    }

    /// Level of the CPU kernels that it was prepared for; `None` of a build that has one only.
    #[must_use]
    pub fn cpu_level(&self) -> Option<&str> {
        self.cpu_level.as_deref()
    }

    /// Version of this library that prepared it.
    pub(super) fn llamapen_version(&self) -> &str {
        &self.llamapen_version
    }

    /// Version of llama.cpp it was prepared for.
    #[must_use]
    pub fn engine_version(&self) -> &str {
        &self.engine_version
    }

    /// Digest of the engine it was prepared for.
    #[must_use]
    pub fn engine_digest(&self) -> &str {
        &self.engine_digest
    }

    /// Flags that the engine was compiled with.
    #[must_use]
    pub fn build_flags(&self) -> &[String] {
        &self.build_flags
    }

    /// Whether it would run the same files in the same way, whatever machine it was prepared for.
    pub(crate) fn is_same_plan(&self, other: &Self) -> bool {
        let mut other = other.clone();
        other.machine.clone_from(&self.machine);
        other.adjustments.clone_from(&self.adjustments);
        other.rates.clone_from(&self.rates);
        // It follows from all else, but for what the machine has.
        other.memory.clone_from(&self.memory);
        *self == other
    }

    /// Checks that this still fits: it may come from another build, another machine, another day, or a text editor.
    ///
    /// What the engine would do with it is decided again, from the files themselves, and must come out the same on the
    /// machine that it names; and this machine must allow it.
    pub(crate) fn verify(&self) -> Result<()> {
        let stale = |why: String| Err(Error::StaleEngine(why));
        if self.schema != SCHEMA {
            return stale(format!("its schema is {}, this build reads {SCHEMA}", self.schema));
        }
        let digest = build_info().engine_digest;
        if self.engine_digest != digest {
            return stale(format!("it was prepared for engine {}, this build is {digest}", self.engine_digest));
        }
        let changed = |file: &FileIdentity| stale(format!("the file {} has changed since", file.path.display()));
        // Before it is read: what replaced it may be no model at all.
        for file in &self.files {
            if !file.is_there()? {
                return changed(file);
            }
        }
        // By the paths that were found then: a reference may lead elsewhere by now.
        let paths: Vec<&PathBuf> = self.files.iter().map(|file| &file.path).collect();
        let found = Found::at(self.model_id.clone(), &paths)?;
        if let Some((_, then)) = found.files.iter().zip(&self.files).find(|(now, then)| now != then) {
            return changed(then);
        }
        let config = self.config();
        let mut again = decide(&config, &self.machine, &found, self.rates.as_ref())?;
        // What was reduced then is asked for now.
        again.adjustments.clone_from(&self.adjustments);
        if again != *self {
            return stale(format!("it is not what {} leads to", self.model().display()));
        }
        let here = MachineSnapshot::observe();
        if here != self.machine {
            let moved = |e: Error| Error::StaleEngine(format!("this machine is not the one it was prepared for: {e}"));
            let there = decide(&config, &here, &found, self.rates.as_ref()).map_err(moved)?;
            if self.deterministic && there.cpu_level != self.cpu_level {
                let level = |engine: &Self| engine.cpu_level().unwrap_or("none").to_owned();
                return stale(format!(
                    "it is deterministic and was prepared for CPU kernels of level {}; here run those of {}, which give other bits",
                    level(self),
                    level(&there)
                ));
            }
        }
        Ok(())
    }

    /// The configuration that leads to this engine, with everything chosen.
    fn config(&self) -> EngineConfig {
        let mut config = EngineConfig::new(self.model())
            .with_n_ctx(self.n_ctx)
            .with_n_ubatch(self.n_ubatch)
            .with_threads(self.threads)
            .with_share_threads(self.share_threads)
            .with_workers(self.workers)
            .with_isolation(self.isolation)
            .with_warm_spare(self.warm_spare)
            .with_slots(self.slots)
            .with_kv_types(self.kv_type_k, self.kv_type_v)
            .with_flash_attention(self.flash_attention)
            .with_swa_full(self.swa_full)
            .with_prefix_cache(self.prefix_cache)
            .with_prefix_store_bytes(self.prefix_store_bytes)
            .with_draft_max(self.draft_max)
            .with_devices(self.device_mask.clone())
            .with_require_gpu(self.require_gpu)
            .with_n_gpu_layers(self.n_gpu_layers)
            .with_deterministic(self.deterministic)
            .with_mmap(self.use_mmap)
            .with_repack(self.use_repack)
            .with_mlock(self.use_mlock)
            .with_pool_id(&self.pool_id)
            .with_replica_id(self.replica_id);
        (config.tuning, config.tuning_cache) = (self.tuning, self.tuning_cache.clone());
        config.digest.clone_from(&self.digest);
        config.memory_limit = self.memory_limit;
        config.seed = self.seed;
        config.tensor_split = self.split.as_ref().filter(|split| split.shares.len() > 1).map(LayerSplit::ratios);
        config
    }
}
