//! The plan with GPUs: which layers go where, and what each place takes.
//!
//! llama.cpp puts the last `n_gpu_layers` layers on GPUs, the output layer counted as one, and keeps the embeddings on
//! the host. The cache of a layer lies where its weights lie. None of it has been compared with a real device yet, and the
//! plan says so.

use super::cache::Memory;
use super::{Demand, MemoryPlan, PlacePlan, compute, on_host};
use crate::device::{DeviceRoom, LayerSplit, SplitRatios, split_layers};
use crate::error::Result;
use crate::model::Header;

/// What a CUDA context takes of a device before anything is put there. An estimate.
const CONTEXT_OVERHEAD: u64 = 512 << 20;

/// A GPU that is used, and its memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub index: u32,
    pub bytes: u64,
}

/// Weights of one layer in bytes; the layers are followed by the output layer.
fn layer_weights(model: &Header) -> Vec<u64> {
    let n_layer = model.info().n_layer as usize;
    let mut layers = vec![0u64; n_layer + 1];
    for tensor in model.tensors() {
        let layer = match tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, _)) => layer.parse().unwrap_or(n_layer),
            // Looked up by the host.
            None if tensor.name.contains("_embd.") || tensor.name.starts_with("token_types") => continue,
            None => n_layer,
        };
        layers[layer.min(n_layer)] += tensor.bytes;
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
    let weights = layer_weights(model);
    let (contexts, copies) = (u64::from(demand.contexts), u64::from(demand.copies));
    let first = weights.len().saturating_sub(n_gpu_layers as usize);
    let cached = |layer: usize| match layer < memory.layers.len() {
        true => memory.layer_bytes(model, layer as u32, demand).saturating_mul(contexts),
        false => 0,
    };
    let (compute, _) = compute::bytes(model, &memory, demand);
    let fixed = compute.saturating_mul(contexts).saturating_add(CONTEXT_OVERHEAD * copies);
    let left: Vec<_> = rooms.iter().map(|room| DeviceRoom::new(room.index, room.bytes.saturating_sub(fixed))).collect();
    let layers: Vec<u64> =
        (first..weights.len()).map(|layer| (weights[layer] * copies).saturating_add(cached(layer))).collect();
    let split = split_layers(&left, &layers, ratios)?;

    let mut plan = on_host(model, demand);
    let mut layer = first;
    for (share, room) in split.shares.iter().zip(rooms) {
        let mine = layer..layer + share.layers as usize;
        layer = mine.end;
        let place = PlacePlan {
            place: format!("GPU{}", room.index),
            weights: mine.clone().map(|layer| weights[layer] * copies).sum(),
            cache: mine.map(cached).sum(),
            compute: compute.saturating_mul(contexts),
            overhead: CONTEXT_OVERHEAD * copies,
            capacity: Some(room.bytes),
            ..PlacePlan::default()
        };
        let host = &mut plan.places[0];
        // What is on a device is not in the host's buffers. Mapped pages are dropped after copying.
        host.cache = host.cache.saturating_sub(place.cache);
        let mapped = host.weights_mapped.min(place.weights / copies);
        host.weights_mapped -= mapped;
        host.weights = host.weights.saturating_sub(place.weights - mapped * copies);
        plan.places.push(place);
    }
    plan.estimates.push("everything on GPUs: compared with no real device yet".into());
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
