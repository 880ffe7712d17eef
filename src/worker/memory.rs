//! What the engine really allocated, by place, beside what was planned; and which weights are where.

use crate::error::{Error, Result};
use crate::native::{Context, Model, NativeError};
use crate::prepare::PreparedEngine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Memory of one worker in one place, once it has a context. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PlaceMemory {
    /// `host`, or a device such as `GPU0`, as in the plan.
    pub place: String,
    /// Cache and compute buffers of one worker, as they were planned.
    pub planned_bytes: u64,
    /// The same, as they were allocated.
    pub allocated_bytes: u64,
    /// Weights as they were planned, mapped ones included; those of the host are shared by all workers that are threads.
    pub weights_planned_bytes: u64,
    /// Weights that are there, by kind: `attention`, `embeddings`, `experts`, `feed_forward`, `norms`, `output`, `state`, `other`.
    pub weights: BTreeMap<String, u64>,
}

impl PlaceMemory {
    /// What [`weights`](Self::weights) may have.
    pub(crate) const KINDS: [&str; 8] =
        ["attention", "embeddings", "experts", "feed_forward", "norms", "output", "state", "other"];
}

/// Which kind of weights a tensor is, by its name in the file.
fn kind(tensor: &str) -> &'static str {
    // `blk.12.attn_q.weight` is `attn_q`.
    let name = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map_or(tensor, |(_, name)| name);
    let name = name.split('.').next().unwrap_or(name);
    match name {
        "token_embd" | "per_layer_token_embd" | "position_embd" | "token_types" => "embeddings",
        "output" => "output",
        _ if name.ends_with("_norm") || name.contains("_norm_") => "norms",
        _ if name.ends_with("_exps") || name.ends_with("_shexp") || name.starts_with("ffn_gate_inp") => "experts",
        _ if name.starts_with("ffn_") => "feed_forward",
        _ if name.starts_with("attn_") => "attention",
        _ if name.starts_with("ssm_") || name.starts_with("time_mix") || name.starts_with("channel_mix") => "state",
        _ => "other",
    }
}

/// Kinds that llama.cpp computes on the CPU, wherever the layers are.
const ON_THE_HOST: [&str; 1] = ["embeddings"];

/// Place and kind, and the bytes of such weights.
type Placement = BTreeMap<(Option<u32>, &'static str), u64>;

fn placement(model: &Model) -> std::result::Result<Placement, NativeError> {
    let mut found = Placement::new();
    model.tensors(|name, device, bytes| *found.entry((device, kind(name))).or_default() += bytes)?;
    Ok(found)
}

/// With `require_gpu`, all weights must be on GPUs, but for those of [`ON_THE_HOST`].
///
/// # Errors
/// Which are not.
pub(super) fn check_placement(engine: &PreparedEngine, model: &Model) -> Result<()> {
    if !engine.require_gpu() {
        return Ok(());
    }
    let found = placement(model).map_err(|e| Error::device(format!("where the weights are is not known: {e}")))?;
    let stayed =
        found.iter().filter(|((device, kind), bytes)| device.is_none() && **bytes > 0 && !ON_THE_HOST.contains(kind));
    let stayed: Vec<_> = stayed.map(|((_, kind), bytes)| format!("{kind} ({bytes} bytes)")).collect();
    match stayed.is_empty() {
        true => Ok(()),
        false => Err(Error::device(format!(
            "require_gpu, but llama.cpp left weights on the host: {}. It has no kernels for them on this GPU",
            stayed.join(", ")
        ))),
    }
}

/// What a worker with this context has.
pub(super) fn measure(
    engine: &PreparedEngine,
    model: &Model,
    context: &Context,
) -> std::result::Result<Vec<PlaceMemory>, NativeError> {
    let placement = placement(model)?;
    let contexts = u64::from(engine.contexts()).max(1);
    let devices = [None].into_iter().chain(engine.devices().iter().copied().map(Some));
    let places = devices.zip(&engine.memory().places).map(|(device, plan)| {
        let used = context.memory(device)?;
        let here = placement.iter().filter(|((at, _), _)| *at == device);
        Ok(PlaceMemory {
            place: plan.place.clone(),
            planned_bytes: (plan.cache + plan.compute) / contexts,
            allocated_bytes: used.cache + used.compute,
            weights_planned_bytes: plan.weights + plan.weights_mapped,
            weights: here.map(|((_, kind), bytes)| ((*kind).to_owned(), *bytes)).collect(),
        })
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::{PlaceMemory, kind};

    #[test]
    fn kinds_by_name() {
        let cases = [
            ("token_embd.weight", "embeddings"),
            ("output.weight", "output"),
            ("output_norm.weight", "norms"),
            ("blk.0.attn_norm.weight", "norms"),
            ("blk.11.attn_q.weight", "attention"),
            ("blk.11.attn_q_norm.weight", "norms"),
            ("blk.3.ffn_down.weight", "feed_forward"),
            ("blk.3.ffn_down_exps.weight", "experts"),
            ("blk.3.ffn_gate_inp.weight", "experts"),
            ("blk.3.ssm_in.weight", "state"),
            ("rope_freqs.weight", "other"),
            ("", "other"),
        ];
        for (name, expected) in cases {
            assert_eq!(kind(name), expected, "{name}");
            assert!(PlaceMemory::KINDS.contains(&kind(name)));
        }
    }
}
