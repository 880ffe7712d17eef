//! What `prepare` chooses: context, batches, threads, cache, devices, and whether it fits.

use super::fit::{self, Fitted};
use super::memory::{self, Demand, MemoryPlan};
use super::rates::Rates;
use super::topology::{self, Computes, Shape};
use crate::build_info::{CpuLevel, build_info};
use crate::config::{DEFAULT_CTX, EngineConfig, Isolation, KvType, MIN_CTX, in_range};
use crate::device::{DeviceDecision, DeviceMask, LayerSplit, decide};
use crate::error::{Error, Result};
use crate::machine::MachineSnapshot;
use crate::model::{Header, ModelInfo};

/// Largest context per slot: llama.cpp counts positions in 32 bits, and a cache of more has never been tried.
const MAX_CTX: u32 = 1 << 24;
const MAX_UBATCH: u32 = 4096;
/// Longer guesses come true too seldom to be worth their outputs.
pub(crate) const MAX_DRAFT: u32 = 15;
/// Micro-batch on GPUs, where smaller ones leave them idle (docs/gpu.md). A worker takes smaller pieces where a cancel would
/// have to wait for long.
const GPU_UBATCH: u32 = 512;
/// Longest micro-batch with which prefill and decode give equal bits: from 64 rows on, flash attention on the CPU takes
/// another path.
const MAX_EXACT_UBATCH: u32 = 63;
/// Architectures whose attention llama.cpp's flash attention cannot compute.
const WITHOUT_FLASH_ATTENTION: &[&str] = &["grok"];

/// Everything that is decided, checked and fitting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choices {
    pub n_ctx: u32,
    pub n_ubatch: u32,
    pub threads: u32,
    pub share_threads: bool,
    pub workers: u32,
    pub isolation: Isolation,
    pub slots: u32,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    pub flash_attention: bool,
    pub use_repack: bool,
    pub seed: Option<u64>,
    /// Indices of the GPUs that are used, the main one first.
    pub devices: Vec<u32>,
    pub device_reason: String,
    pub n_gpu_layers: u32,
    pub split: Option<LayerSplit>,
    pub memory: MemoryPlan,
    /// Of the CPU kernels, where there are several.
    pub cpu_level: Option<&'static CpuLevel>,
    /// What was reduced, and why.
    pub adjustments: Vec<String>,
    /// Why so many workers and slots.
    pub topology: String,
}

/// Chooses what `config` leaves open, for a build with or without `cuda`.
pub(super) fn choose(
    config: &EngineConfig,
    model: &Header,
    machine: &MachineSnapshot,
    cuda: bool,
    rates: Option<&Rates>,
) -> Result<Choices> {
    let info = model.info();
    generates_text(info)?;
    drafts(config, model)?;
    if config.prefix_store_bytes > 0 && !config.prefix_cache {
        return Err(Error::invalid("prefix_store_bytes", "nothing is saved without prefix_cache"));
    }
    let decision = decide(config.require_gpu, &config.devices, &machine.devices, cuda)?;
    let n_gpu_layers = gpu_layers(config, info, &decision)?;
    let features = machine.kernel_features(&build_info())?;
    let computes = match n_gpu_layers > 0 {
        true => Computes::OnGpus,
        false if memory::batches_are_cheap(model, config.use_repack.unwrap_or(true), features) => {
            Computes::InCheapBatches
        }
        false => Computes::TokenByToken,
    };
    let shapes = topology::shapes(config, info, machine, computes, rates)?;
    let (last, first) = shapes.split_last().expect("one at least");
    for shape in first {
        match choose_for(config, model, machine, &decision, n_gpu_layers, shape, false) {
            Err(Error::DoesNotFit { .. }) => {}
            chosen => return chosen,
        }
    }
    choose_for(config, model, machine, &decision, n_gpu_layers, last, true)
}

/// The same for workers and slots that are decided; for the last ones, weights may stay as they are in the file.
fn choose_for(
    config: &EngineConfig,
    model: &Header,
    machine: &MachineSnapshot,
    decision: &DeviceDecision,
    n_gpu_layers: u32,
    shape: &Shape,
    last: bool,
) -> Result<Choices> {
    let info = model.info();
    let (workers, slots) = (shape.workers, shape.slots);
    let (threads, share_threads) = topology::threads(config, machine, workers)?;
    let n_ctx = context(config, info, slots)?;
    let n_ubatch = micro_batch(config, n_ctx, slots, n_gpu_layers > 0)?;
    let flash_attention = flash_attention(config, info, n_gpu_layers > 0)?;
    let (kv_type_k, kv_type_v) = cache_types(config, model, flash_attention, n_gpu_layers > 0)?;
    let isolation = isolation(config, n_gpu_layers > 0)?;
    let contexts = workers + u32::from(config.warm_spare);
    let cpu_level = machine.level_of(&build_info())?;
    let demand = Demand {
        n_ctx,
        n_ubatch,
        slots,
        contexts,
        copies: if isolation == Isolation::Process { contexts } else { 1 },
        flash_attention,
        kv_type_k: kv_type_k.ggml(),
        kv_type_v: kv_type_v.ggml(),
        swa_full: config.swa_full,
        prefix_store_bytes: config.prefix_store_bytes,
        draft_max: config.draft_max,
        use_mmap: config.use_mmap,
        use_repack: config.use_repack.unwrap_or(true),
        cpu_features: machine.kernel_features(&build_info())?,
    };
    // Fewer workers that nobody asked for cost less than the kernels.
    let may_leave = last && config.use_repack.is_none();
    let wanted = fit::Wanted {
        demand,
        kv_types: (kv_type_k, kv_type_v),
        devices: decision.devices.clone(),
        n_gpu_layers,
        may_leave,
    };
    let Fitted { demand, kv_types, n_gpu_layers, memory, split, adjustments } =
        fit::fit(config, model, machine, wanted)?;
    Ok(Choices {
        n_ctx: demand.n_ctx,
        // Fewer slots or positions may leave less for a batch to hold.
        n_ubatch: demand.n_ubatch,
        threads,
        share_threads,
        workers,
        isolation,
        slots: demand.slots,
        kv_type_k: kv_types.0,
        kv_type_v: kv_types.1,
        flash_attention,
        use_repack: demand.use_repack,
        seed: config.seed.or(config.deterministic.then_some(0)),
        devices: if n_gpu_layers == 0 { vec![] } else { decision.devices.clone() },
        device_reason: decision.reason.clone(),
        n_gpu_layers,
        split,
        memory,
        cpu_level,
        adjustments,
        topology: shape.reason.clone(),
    })
}

/// Refuses what this version could load but not generate with.
fn generates_text(info: &ModelInfo) -> Result<()> {
    let refuse = |why: &str| Err(Error::Unsupported(format!("{why}; this version runs text-generating models only")));
    if info.reads_as_a_whole() {
        return refuse(&format!("this {} model reads texts as a whole, as an encoder does", info.architecture));
    }
    if info.tokenizer_model.as_deref().is_none_or(|kind| kind == "none" || kind == "no_vocab") || info.n_vocab == 0 {
        return refuse("the file has no vocabulary");
    }
    Ok(())
}

/// How many layers go to the devices that were decided on, the output layer counted as one.
fn gpu_layers(config: &EngineConfig, info: &ModelInfo, decision: &DeviceDecision) -> Result<u32> {
    let all_layers = info.n_layer + 1;
    let n_gpu_layers = match (decision.devices.is_empty(), config.n_gpu_layers) {
        (true, Some(layers)) if layers > 0 && !matches!(config.devices, DeviceMask::None) => {
            let problem = format!("{layers} layers on GPUs, but none is used: {}", decision.reason);
            return Err(Error::invalid("n_gpu_layers", problem));
        }
        (true, _) => 0,
        // More than there are means all, as llama.cpp's users are used to say.
        (false, layers) => layers.unwrap_or(all_layers).min(all_layers),
    };
    if config.require_gpu && n_gpu_layers < all_layers {
        let problem = format!("{n_gpu_layers} of {all_layers} layers on GPUs contradict require_gpu");
        return Err(Error::invalid("n_gpu_layers", problem));
    }
    Ok(n_gpu_layers)
}

/// An error of a GPU's driver cannot be contained in the process where it happened.
fn isolation(config: &EngineConfig, on_gpus: bool) -> Result<Isolation> {
    let isolation = config.isolation.unwrap_or(if on_gpus { Isolation::Process } else { Isolation::Thread });
    match config.warm_spare && isolation == Isolation::Thread {
        true => Err(Error::invalid(
            "warm_spare",
            "a worker that is a thread loads nothing when it is restarted; a spare needs isolation \"process\"",
        )),
        false => Ok(isolation),
    }
}

fn context(config: &EngineConfig, info: &ModelInfo, slots: u32) -> Result<u32> {
    let n_ctx = config.n_ctx.unwrap_or_else(|| info.n_ctx_train.clamp(MIN_CTX, DEFAULT_CTX));
    in_range("n_ctx", n_ctx, MIN_CTX..=MAX_CTX)?;
    if u64::from(n_ctx) * u64::from(slots) > u64::from(MAX_CTX) {
        let problem = format!("{n_ctx} for each of {slots} slots is more than {MAX_CTX} in all");
        return Err(Error::invalid("n_ctx", problem));
    }
    if n_ctx > info.n_ctx_train {
        let problem = format!("{n_ctx} is more than the {} positions this model was trained with", info.n_ctx_train);
        return Err(Error::invalid("n_ctx", problem));
    }
    Ok(n_ctx)
}

/// Guesses need a memory that can be taken back.
fn drafts(config: &EngineConfig, model: &Header) -> Result<()> {
    in_range("draft_max", config.draft_max, 0..=MAX_DRAFT)?;
    if config.draft_max > 0 && memory::recurs(model) {
        let architecture = &model.info().architecture;
        return Err(Error::Unsupported(format!(
            "draft_max: a {architecture} model keeps a state that cannot go back to before a guess that was wrong; use 0"
        )));
    }
    Ok(())
}

fn micro_batch(config: &EngineConfig, n_ctx: u32, slots: u32, on_gpus: bool) -> Result<u32> {
    let most = if config.deterministic { MAX_EXACT_UBATCH } else { MAX_UBATCH };
    // A token for every slot, and a whole guess for one.
    let least = slots + config.draft_max;
    let usual = if on_gpus { GPU_UBATCH } else { topology::usual_micro_batch(config, slots) };
    let n_ubatch = config.n_ubatch.unwrap_or(usual.min(most).min(n_ctx).max(least));
    in_range("n_ubatch", n_ubatch, least..=most)?;
    Ok(n_ubatch)
}

fn flash_attention(config: &EngineConfig, info: &ModelInfo, on_gpus: bool) -> Result<bool> {
    let (keys, values) = (info.n_embd_head_k, info.n_embd_head_v);
    let queries_per_key = info.n_head / info.n_head_kv.max().max(1);
    let refused = match info.architecture.as_str() {
        without if WITHOUT_FLASH_ATTENTION.contains(&without) => {
            Some(format!("a {without} model cannot be run with it"))
        }
        _ if on_gpus && !gpus_have_flash_attention(keys, values, queries_per_key) => Some(format!(
            "for heads of {keys} and {values} elements GPUs have none, and the CPU would compute it between two layers of a GPU"
        )),
        _ => None,
    };
    match (config.flash_attention, refused) {
        (Some(true), Some(why)) => Err(Error::invalid("flash_attention", why)),
        (Some(false), _) if config.deterministic => Err(Error::invalid(
            "flash_attention",
            "deterministic needs it: without, batches of other sizes give other bits",
        )),
        (wanted, refused) => Ok(wanted.unwrap_or(refused.is_none())),
    }
}

/// The sizes of heads that have a kernel: `ggml_cuda_get_best_fattn_kernel` in ggml-cuda/fattn.cu.
fn gpus_have_flash_attention(keys: u32, values: u32, queries_per_key: u32) -> bool {
    match (keys, values) {
        // Without attention there is nothing to compute.
        (0, _) => true,
        (40 | 64 | 72 | 80 | 96 | 112 | 128 | 256, _) => values == keys,
        (192, 128) => queries_per_key.is_multiple_of(8),
        (320, 256) => queries_per_key.is_multiple_of(32),
        (512 | 576, 512) => queries_per_key >= 2,
        _ => false,
    }
}

fn cache_types(config: &EngineConfig, model: &Header, flash: bool, on_gpus: bool) -> Result<(KvType, KvType)> {
    let (k, v) = (config.kv_type_k.unwrap_or_default(), config.kv_type_v.unwrap_or_default());
    check_cache_types(model, flash, k, v)?;
    for (what, kind) in [("kv_type_k", k), ("kv_type_v", v)] {
        if on_gpus && kind == KvType::IQ4_NL {
            let problem =
                "GPUs cannot compute attention over iq4_nl, and the CPU would do it; q4_0 is of the same size";
            return Err(Error::invalid(what, problem));
        }
    }
    Ok((k, v))
}

/// What llama.cpp demands of the types of the cache.
pub(super) fn check_cache_types(model: &Header, flash_attention: bool, k: KvType, v: KvType) -> Result<()> {
    let info = model.info();
    if v.ggml().is_quantized() && !flash_attention {
        let problem = format!("{v} needs flash attention, which is off, or not to be had here for this model");
        return Err(Error::invalid("kv_type_v", problem));
    }
    for (what, kind, head) in [("kv_type_k", k, info.n_embd_head_k), ("kv_type_v", v, info.n_embd_head_v)] {
        let block = kind.ggml().block_elements();
        if !u64::from(head).is_multiple_of(block) {
            let problem =
                format!("{kind} has blocks of {block} elements, which do not divide this model's heads of {head}");
            return Err(Error::invalid(what, problem));
        }
    }
    let latent = model.u32("attention.key_length_mla").is_some_and(|n| n > 0);
    if latent && k != v {
        return Err(Error::invalid("kv_type_v", format!("{v} differs from {k}, but this model keeps both in one")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flash_attention_is_on_gpus_where_they_have_kernels_for_it() {
        let has = [(64, 64, 3), (128, 128, 1), (256, 256, 4), (192, 128, 16), (512, 512, 2), (576, 512, 16), (0, 0, 1)];
        let has_not =
            [(32, 32, 4), (48, 48, 1), (128, 64, 4), (192, 192, 8), (192, 128, 4), (576, 512, 1), (320, 256, 8)];
        for (keys, values, queries) in has {
            assert!(gpus_have_flash_attention(keys, values, queries), "{keys}, {values}, {queries}");
        }
        for (keys, values, queries) in has_not {
            assert!(!gpus_have_flash_attention(keys, values, queries), "{keys}, {values}, {queries}");
        }
    }
}
