//! The plan with GPUs: which layers go where, and what each place takes.
//!
//! llama.cpp puts the last `n_gpu_layers` layers on GPUs, the output layer counted as one, and keeps the embeddings on
//! the host. The cache of a layer lies where its weights lie. The compute buffers of both places are those that the host would
//! have for everything: of that, a GPU took all but a micro-batch of embeddings, and the host a third (docs/gpu.md).

use super::cache::Memory;
use super::{Demand, MemoryPlan, PlacePlan, compute, on_host, weights};
use crate::device::{DeviceRoom, LayerSplit, SplitRatios, split_layers};
use crate::error::Result;
use crate::model::{Header, TensorInfo};

/// What a process has of a device beside all buffers: CUDA's context, the kernels' code, cublas, pools. 598 to 710 MiB on an H200
/// (docs/gpu.md).
const CONTEXT_OVERHEAD: u64 = 768 << 20;

/// A GPU that is used, and its memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub index: u32,
    pub bytes: u64,
}

/// The layer that a tensor is of, the output layer being number `n_layer`; `None`: it is looked up by the host.
fn layer_of(tensor: &TensorInfo, n_layer: usize) -> Option<usize> {
    let layer = match tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, _)) => layer.parse().unwrap_or(n_layer),
        None if tensor.name.contains("_embd.") || tensor.name.starts_with("token_types") => return None,
        None => n_layer,
    };
    Some(layer.min(n_layer))
}

/// Weights of one layer in bytes; the layers are followed by the output layer.
fn layer_weights(model: &Header) -> Vec<u64> {
    let n_layer = model.info().n_layer as usize;
    let mut layers = vec![0u64; n_layer + 1];
    for tensor in model.tensors() {
        if let Some(layer) = layer_of(tensor, n_layer) {
            layers[layer] += tensor.bytes;
        }
    }
    if model.tensor("output.weight").is_none() {
        // Embeddings that are the output layer too are copied.
        layers[n_layer] += model.tensor("token_embd.weight").map_or(0, |t| t.bytes);
    }
    layers
}

/// The plan with the last `n_gpu_layers` layers on `rooms`, and how they are divided.
///
/// # Errors
/// `DeviceError` with the bytes per device where it does not fit, `InvalidParams` where a device would get no layer.
pub(crate) fn on_devices(
    model: &Header,
    demand: &Demand,
    rooms: &[Room],
    n_gpu_layers: u32,
    ratios: Option<&SplitRatios>,
) -> Result<(MemoryPlan, LayerSplit)> {
    let memory = Memory::of(model);
    let by_layer = layer_weights(model);
    let (contexts, copies) = (u64::from(demand.contexts), u64::from(demand.copies));
    let cached = |layer: usize| match layer < memory.layers.len() {
        true => memory.layer_bytes(model, layer as u32, demand).saturating_mul(contexts),
        false => 0,
    };
    let first = by_layer.len().saturating_sub(n_gpu_layers as usize);
    let (everything, _) = compute::bytes(model, &memory, demand);
    // What comes from layers on the host is copied: one micro-batch between two layers, and as much again for what else goes
    // in. A GPU with some of the layers had up to one more than the plan for all (docs/gpu.md).
    let compute = match first {
        0 => everything,
        _ => everything.saturating_add(2 * compute::micro_batch_bytes(model, &memory, demand)),
    };
    let fixed = compute.saturating_mul(contexts).saturating_add(CONTEXT_OVERHEAD * copies);
    let left: Vec<_> = rooms.iter().map(|room| DeviceRoom::new(room.index, room.bytes.saturating_sub(fixed))).collect();
    let layers: Vec<u64> =
        (first..by_layer.len()).map(|layer| (by_layer[layer] * copies).saturating_add(cached(layer))).collect();
    let split = split_layers(&left, &layers, ratios)?;

    let mut plan = on_host(model, demand);
    let n_layer = by_layer.len() - 1;
    let stays = |tensor: &TensorInfo| layer_of(tensor, n_layer).is_none_or(|layer| layer < first);
    // The mapping is cut down to what stays when all others have been copied.
    let kept = weights::on_host(model, demand.cpu_features, demand.use_mmap, stays, first > n_layer);
    plan.places[0].weights_mapped = kept.mapped;
    plan.places[0].weights = kept.allocated.saturating_mul(copies);
    let mut layer = first;
    for (share, room) in split.shares.iter().zip(rooms) {
        let mine = layer..layer + share.layers as usize;
        layer = mine.end;
        let place = PlacePlan {
            place: format!("GPU{}", room.index),
            weights: mine.clone().map(|layer| by_layer[layer] * copies).sum(),
            cache: mine.map(cached).sum(),
            compute: compute.saturating_mul(contexts),
            overhead: CONTEXT_OVERHEAD * copies,
            capacity: Some(room.bytes),
            ..PlacePlan::default()
        };
        plan.places[0].cache = plan.places[0].cache.saturating_sub(place.cache);
        plan.places.push(place);
    }
    plan.estimates
        .push("GPUs: what a context of CUDA takes beside its buffers; several GPUs were never compared".into());
    Ok((plan, split))
}

/// The largest context per slot up to the demanded one with which every device holds its layers as they are divided now.
pub(crate) fn largest_ctx(model: &Header, demand: &Demand, split: &LayerSplit, least: u32) -> Result<u32> {
    let memory = Memory::of(model);
    let weights = layer_weights(model);
    let on_gpus: usize = split.shares.iter().map(|share| share.layers as usize).sum();
    let first = weights.len() - on_gpus;
    split.largest_ctx(least..=demand.n_ctx, |layer, n_ctx| {
        let (layer, demand) = (first + layer, Demand { n_ctx, ..demand.clone() });
        let cached = match layer < memory.layers.len() {
            true => memory.layer_bytes(model, layer as u32, &demand),
            false => 0,
        };
        weights[layer] * u64::from(demand.copies) + cached * u64::from(demand.contexts)
    })
}
