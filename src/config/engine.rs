//! [`EngineConfig`]: which model, and how to run it.

use super::{Isolation, KvType, Tuning, from_json};
use crate::device::{DeviceMask, SplitRatios};
use crate::error::{Error, Result};
use crate::model::Digest;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Fewest positions a slot can have: below, a chat template alone does not fit.
pub const MIN_CTX: u32 = 16;
/// What a slot gets when nothing is asked for, unless the model was trained with less.
pub const DEFAULT_CTX: u32 = 4096;
/// Tokens per micro-batch when nothing is asked for: a cancelled or stopped prefill ends within one.
pub const DEFAULT_UBATCH: u32 = 256;

/// Which model to run, and how: the input of [`prepare`](crate::prepare()).
///
/// What is `None` is chosen by `prepare` and can be read off the [`PreparedEngine`](crate::PreparedEngine). The same
/// configuration can be written as a builder, as JSON or TOML (with serde), or as flags
/// ([`from_flags`](Self::from_flags)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Which model: the path of a GGUF file, or another [`ModelReference`](crate::model::ModelReference).
    pub model: PathBuf,
    /// `sha256:…` that the file must have; of a model split over several files, one per file, in order. It is read whole
    /// and checked. Default: not checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub digest: Vec<Digest>,
    /// Positions (prompt and generated tokens) that each slot holds. Default: what the model was trained with, at most 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_ctx: Option<u32>,
    /// Tokens per micro-batch, 1 to 4096. Default: 256, and 512 on GPUs. Smaller reacts faster, larger prefills faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_ubatch: Option<u32>,
    /// Compute threads: with `share_threads` of all workers together, else of each. Default: the cores this process may use, in
    /// the second case divided by `workers`; hyper-threads of one core count once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Whether the compute threads are those of all workers together: one that is alone computes with all of them, and several with
    /// a share each, as many as have requests at that moment. Default: where `threads` is left out and there are several workers,
    /// but not with `deterministic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_threads: Option<bool>,
    /// Workers on shared weights, each with a context of its own. Default: as `streams` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Requests that are expected to run at a time, 1 to 64. It chooses `workers` and `slots` where they are left out: on the CPU a
    /// worker for each, at most 4 and no more than cores, and as many slots as that needs; with GPUs, one worker. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// What workers, slots and micro-batches are chosen for where they are left out, with `streams` in mind (for
    /// `throughput`: 8 without). Default: `workers` and `slots` as `streams` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// With [`Tuning::Auto`]: a folder in which supervisors keep what they have measured, so that the next `prepare` chooses by it and
    /// the next start measures nothing. Made when it is needed; what is damaged in it is ignored and written anew. Default: none,
    /// nothing is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning_cache: Option<PathBuf>,
    /// Where workers run: as threads of this process, or as child processes. Default: `thread` on the CPU, `process` with
    /// GPUs, where an error of the driver cannot be contained otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// With `process`: one child more than there are workers is kept loaded, and takes the place of one that dies without
    /// having to load. It takes as much memory as a worker, and no time. Default: false.
    #[serde(default)]
    pub warm_spare: bool,
    /// Requests that one worker runs at a time, 1 to 64. Default: as `streams` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Element type of the keys in the KV cache. Default: `f16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_type_k: Option<KvType>,
    /// Element type of the values in the KV cache. Default: `f16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_type_v: Option<KvType>,
    /// Flash attention. Default: on, but for models that cannot, and on GPUs for sizes of heads that have no kernel there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flash_attention: Option<bool>,
    /// Whether layers with a sliding window remember every position and not only the window. Default: false.
    #[serde(default)]
    pub swa_full: bool,
    /// Whether slots keep what they computed, so that a request which begins as an earlier one decodes only the rest. Where
    /// requests are not `deterministic`, that may change late bits of long answers. Default: true.
    #[serde(default = "yes")]
    pub prefix_cache: bool,
    /// Bytes of host memory, for all workers together, that saved beginnings may take whose slots were needed for other
    /// requests; 0: none are saved. Default: 0.
    #[serde(default)]
    pub prefix_store_bytes: u64,
    /// Most tokens that are guessed ahead from the text itself and checked in one decode (n-gram speculation, prompt
    /// lookup), 0 to 15; 0: none. The answer is the same bit by bit: a worker where it would not be makes no guesses, see
    /// [`WorkerHealth::draft_max`](crate::WorkerHealth::draft_max). It is faster where the answer repeats its prompt or
    /// itself. Default: 0.
    #[serde(default)]
    pub draft_max: u32,
    /// GPUs that may be used: `auto`, `none`, or indices such as `0,1`. Default: `auto`.
    #[serde(default)]
    pub devices: DeviceMask,
    /// Fail where there is no usable GPU, and never fall back to the CPU. Default: false.
    #[serde(default)]
    pub require_gpu: bool,
    /// Layers on GPUs, the output layer counted as one. Default: all, where there are GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_gpu_layers: Option<u32>,
    /// How the layers are divided over several GPUs, such as `3,1`. Default: by their memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_split: Option<SplitRatios>,
    /// Bytes of memory that the model may take in all, besides weights mapped from the file. Default: what the machine
    /// and its limits allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// What `prepare` may reduce where memory does not suffice. Default: nothing, so that it fails.
    #[serde(default, skip_serializing_if = "Shrink::is_nothing")]
    pub shrink: Shrink,
    /// Equal requests give equal answers, bit by bit, also after a restart: one slot per worker, micro-batches of at most
    /// 63 tokens, flash attention, and a fixed seed for requests without one. Default: false.
    #[serde(default)]
    pub deterministic: bool,
    /// Seed of requests that have none. Default: drawn anew for each; 0 if `deterministic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Map the weights from the file instead of reading them into memory. Default: true.
    #[serde(default = "yes")]
    pub use_mmap: bool,
    /// Rearrange weights in memory where that makes faster kernels. Each process holds such weights for itself, and the last bits of
    /// logits differ from those of llama.cpp's plain kernels. Default: if they fit into memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_repack: Option<bool>,
    /// Lock the weights into memory. Default: false.
    #[serde(default)]
    pub use_mlock: bool,
    /// Name of the pool that will run it, for logs and records: letters, digits, `.`, `_` and `-`. Default: the model's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    /// Which of several equal pools it is. Default: 0.
    #[serde(default)]
    pub replica_id: u32,
}

/// What [`prepare`](crate::prepare()) may reduce, and how far, where memory does not suffice. It goes in this order, and
/// says what it did in [`PreparedEngine::adjustments`](crate::PreparedEngine::adjustments).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Shrink {
    /// Element type that the KV cache may go down to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_type: Option<KvType>,
    /// Slots that must be left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Positions per slot that must be left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_ctx: Option<u32>,
    /// Layers that must stay on GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_gpu_layers: Option<u32>,
}

impl Shrink {
    /// Whether nothing may be reduced.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Allows `kv_type`.
    #[must_use]
    pub fn with_kv_type(mut self, least: KvType) -> Self {
        self.kv_type = Some(least);
        self
    }

    /// Allows fewer slots, down to `least`.
    #[must_use]
    pub fn with_slots(mut self, least: u32) -> Self {
        self.slots = Some(least);
        self
    }

    /// Allows a smaller context, down to `least` positions per slot.
    #[must_use]
    pub fn with_n_ctx(mut self, least: u32) -> Self {
        self.n_ctx = Some(least);
        self
    }

    /// Allows fewer layers on GPUs, down to `least`.
    #[must_use]
    pub fn with_n_gpu_layers(mut self, least: u32) -> Self {
        self.n_gpu_layers = Some(least);
        self
    }
}

fn yes() -> bool {
    true
}

/// One digest, or a list of them.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Digest>, D::Error> {
    /// Not an untagged enum, whose errors would not say what is wrong with a digest.
    struct OneOrMany;

    impl<'de> serde::de::Visitor<'de> for OneOrMany {
        type Value = Vec<Digest>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a digest, or a list with one digest per file")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.split(',').map(|digest| digest.trim().parse().map_err(E::custom)).collect()
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            std::iter::from_fn(|| list.next_element().transpose()).collect()
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(vec![])
        }
    }
    deserializer.deserialize_any(OneOrMany)
}

impl EngineConfig {
    /// A configuration for the GGUF file at `model`, everything else left to `prepare`.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            digest: vec![],
            n_ctx: None,
            n_ubatch: None,
            threads: None,
            share_threads: None,
            workers: None,
            streams: None,
            tuning: None,
            tuning_cache: None,
            isolation: None,
            warm_spare: false,
            slots: None,
            kv_type_k: None,
            kv_type_v: None,
            flash_attention: None,
            swa_full: false,
            prefix_cache: true,
            prefix_store_bytes: 0,
            draft_max: 0,
            devices: DeviceMask::Auto,
            require_gpu: false,
            n_gpu_layers: None,
            tensor_split: None,
            memory_limit: None,
            shrink: Shrink::default(),
            deterministic: false,
            seed: None,
            use_mmap: true,
            use_repack: None,
            use_mlock: false,
            pool_id: None,
            replica_id: 0,
        }
    }

    /// Reads a configuration from JSON.
    pub fn from_json(json: &str) -> Result<Self> {
        from_json("engine config", json)
    }

    /// The same configuration for another [`model`](Self::model).
    #[must_use]
    pub fn with_model(mut self, model: impl Into<PathBuf>) -> Self {
        self.model = model.into();
        self
    }

    /// Sets [`digest`](Self::digest) to one digest, or to several with commas between them.
    ///
    /// # Errors
    /// `InvalidParams` for what is no digest.
    pub fn with_digest(mut self, digest: &str) -> Result<Self> {
        self.digest = digest.split(',').map(|one| one.trim().parse()).collect::<Result<_, Error>>()?;
        Ok(self)
    }

    setters! {
        with_n_ctx, n_ctx: u32 => Some(n_ctx);
        with_n_ubatch, n_ubatch: u32 => Some(n_ubatch);
        with_threads, threads: u32 => Some(threads);
        with_share_threads, share_threads: bool => Some(share_threads);
        with_workers, workers: u32 => Some(workers);
        with_streams, streams: u32 => Some(streams);
        with_tuning, tuning: Tuning => Some(tuning);
        with_isolation, isolation: Isolation => Some(isolation);
        with_warm_spare, warm_spare: bool => warm_spare;
        with_slots, slots: u32 => Some(slots);
        with_flash_attention, flash_attention: bool => Some(flash_attention);
        with_swa_full, swa_full: bool => swa_full;
        with_prefix_cache, prefix_cache: bool => prefix_cache;
        with_prefix_store_bytes, prefix_store_bytes: u64 => prefix_store_bytes;
        with_draft_max, draft_max: u32 => draft_max;
        with_devices, devices: DeviceMask => devices;
        with_require_gpu, require_gpu: bool => require_gpu;
        with_n_gpu_layers, n_gpu_layers: u32 => Some(n_gpu_layers);
        with_tensor_split, tensor_split: SplitRatios => Some(tensor_split);
        with_memory_limit, memory_limit: u64 => Some(memory_limit);
        with_shrink, shrink: Shrink => shrink;
        with_deterministic, deterministic: bool => deterministic;
        with_seed, seed: u64 => Some(seed);
        with_mmap, use_mmap: bool => use_mmap;
        with_repack, use_repack: bool => Some(use_repack);
        with_mlock, use_mlock: bool => use_mlock;
        with_replica_id, replica_id: u32 => replica_id;
    }

    /// Sets [`tuning_cache`](Self::tuning_cache).
    #[must_use]
    pub fn with_tuning_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.tuning_cache = Some(folder.into());
        self
    }

    /// Sets [`kv_type_k`](Self::kv_type_k) and [`kv_type_v`](Self::kv_type_v).
    #[must_use]
    pub fn with_kv_types(mut self, keys: KvType, values: KvType) -> Self {
        (self.kv_type_k, self.kv_type_v) = (Some(keys), Some(values));
        self
    }

    /// Sets [`pool_id`](Self::pool_id).
    #[must_use]
    pub fn with_pool_id(mut self, pool_id: impl Into<String>) -> Self {
        self.pool_id = Some(pool_id.into());
        self
    }
}
