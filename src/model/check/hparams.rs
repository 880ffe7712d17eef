//! Hyperparameters: the numbers every architecture has in common.

use super::Keys;
use super::architecture::Traits;
use crate::model::gguf::{Array, GgufError, Value};
use crate::model::info::{PerLayer, SsmInfo};

/// llama.cpp's `LLAMA_MAX_LAYERS`.
const MAX_LAYERS: u32 = 512;
/// llama.cpp's `LLAMA_MAX_EXPERTS`.
const MAX_EXPERTS: u32 = 1024;
/// Widths, head counts and head sizes stay far below what would overflow the 32-bit products llama.cpp makes of them.
const MAX_WIDTH: u32 = 1 << 20;
const MAX_HEADS: u32 = 1 << 14;
const MAX_FEED_FORWARD: u32 = 1 << 24;
/// Caches multiply the window by up to 256 sequences in 32 bits.
const MAX_WINDOW: u32 = 1 << 22;
/// Positions are signed 32-bit numbers.
const MAX_CONTEXT: u32 = i32::MAX as u32;

/// Checked hyperparameters.
pub(in crate::model) struct Hparams {
    pub(in crate::model) architecture: String,
    pub(in crate::model) n_ctx_train: u32,
    pub(in crate::model) n_layer: u32,
    pub(in crate::model) n_embd: u32,
    pub(in crate::model) n_head: PerLayer,
    pub(in crate::model) n_head_kv: PerLayer,
    pub(in crate::model) n_embd_head_k: u32,
    pub(in crate::model) n_embd_head_v: u32,
    pub(in crate::model) n_rot: u32,
    pub(in crate::model) n_ff: PerLayer,
    pub(in crate::model) expert_count: u32,
    pub(in crate::model) expert_used_count: u32,
    pub(in crate::model) sliding_window: Option<u32>,
    pub(in crate::model) ssm: Option<SsmInfo>,
    pub(in crate::model) pooling_type: Option<u32>,
    pub(in crate::model) causal: Option<bool>,
}

impl Hparams {
    pub(super) fn check(keys: &Keys<'_>) -> Result<Self, GgufError> {
        let traits = Traits::of(keys.architecture);
        refuse_non_finite(keys)?;

        let n_ctx_train = keys.required("context_length", 1..=MAX_CONTEXT)?;
        let n_embd = keys.required("embedding_length", 1..=MAX_WIDTH)?;
        keys.within("embedding_length_out", 0..=MAX_WIDTH)?;
        let n_layer = keys.required("block_count", 1..=MAX_LAYERS)?;
        // They are counted among the layers. Only a drafting model consists of nothing else.
        let own = u32::from(keys.architecture != "gemma4-assistant");
        keys.within("nextn_predict_layers", 0..=n_layer - own)?;
        let n_ff = per_layer(keys, "feed_forward_length", n_layer, MAX_FEED_FORWARD)?.unwrap_or(PerLayer::Uniform(0));
        let (expert_count, expert_used_count) = experts(keys, n_layer)?;
        let heads = Heads::check(keys, traits, n_embd, n_layer)?;
        rope_scaling(keys)?;
        norms(keys)?;

        let pooling_type = keys.within("pooling_type", 0..=4)?;
        keys.within("classifier.pooling_type", 0..=4)?;
        let sliding_window = keys.within("attention.sliding_window", 0..=MAX_WINDOW)?;
        Ok(Self {
            architecture: keys.architecture.to_owned(),
            n_ctx_train,
            n_layer,
            n_embd,
            n_head: heads.n_head,
            n_head_kv: heads.n_head_kv,
            n_embd_head_k: heads.key_length,
            n_embd_head_v: heads.value_length,
            n_rot: heads.n_rot,
            n_ff,
            expert_count,
            expert_used_count,
            sliding_window: sliding_window.filter(|&window| window > 0),
            ssm: ssm(keys)?,
            pooling_type,
            causal: keys.gguf.typed(&keys.key("attention.causal"))?,
        })
    }
}

struct Heads {
    n_head: PerLayer,
    n_head_kv: PerLayer,
    key_length: u32,
    value_length: u32,
    n_rot: u32,
}

impl Heads {
    fn check(keys: &Keys<'_>, traits: Traits, n_embd: u32, n_layer: u32) -> Result<Self, GgufError> {
        const HEADS: &str = "attention.head_count";
        const KV_HEADS: &str = "attention.head_count_kv";
        let n_head = per_layer(keys, HEADS, n_layer, MAX_HEADS)?;
        let n_head_kv = per_layer(keys, KV_HEADS, n_layer, MAX_HEADS)?;
        let n_head = n_head.unwrap_or(PerLayer::Uniform(0));
        let n_head_kv = n_head_kv.unwrap_or_else(|| n_head.clone());

        if !traits.layers_without_attention {
            for (suffix, counts) in [(HEADS, &n_head), (KV_HEADS, &n_head_kv)] {
                if counts.iter(n_layer).any(|n| n == 0) {
                    let found = match keys.gguf.get(&keys.key(suffix)) {
                        Some(_) => "0",
                        None => "no such key",
                    };
                    return Err(keys.fault(suffix, "at least 1 head in every layer", found));
                }
            }
        }
        // The head size follows from the first layer, so it cannot be one without heads if others have some.
        if n_head.get(0) == 0 && n_head.max() > 0 {
            return Err(keys.fault(HEADS, "heads in the first layer", 0));
        }
        for (layer, (heads, kv_heads)) in n_head.iter(n_layer).zip(n_head_kv.iter(n_layer)).enumerate() {
            if heads > 0 && kv_heads > 0 && !heads.is_multiple_of(kv_heads) {
                return Err(keys.fault(
                    KV_HEADS,
                    format_args!("a divisor of the {heads} heads of layer {layer}"),
                    kv_heads,
                ));
            }
        }

        let first = n_head.get(0);
        let stated_key = keys.within("attention.key_length", 1..=MAX_WIDTH)?;
        let stated_value = keys.within("attention.value_length", 1..=MAX_WIDTH)?;
        for suffix in ["key_length_swa", "value_length_swa", "key_length_mla", "value_length_mla"] {
            keys.within(&format!("attention.{suffix}"), 0..=MAX_WIDTH)?;
        }
        let Some(divided) = n_embd.checked_div(first) else {
            // Without heads llama.cpp ignores the head sizes.
            return Ok(Self { n_head, n_head_kv, key_length: 0, value_length: 0, n_rot: 0 });
        };
        if (stated_key.is_none() || stated_value.is_none()) && !(n_embd.is_multiple_of(first) && divided > 0) {
            return Err(keys.fault(HEADS, format_args!("a divisor of the embedding length {n_embd}"), first));
        }
        let key_length = stated_key.unwrap_or(divided);
        let value_length = stated_value.unwrap_or(divided);
        for (suffix, length) in [("attention.key_length", key_length), ("attention.value_length", value_length)] {
            let row = u64::from(length) * u64::from(n_head.max().max(n_head_kv.max()));
            if row > i32::MAX as u64 {
                return Err(keys.fault(suffix, "head rows below 2^31 elements", row));
            }
        }
        if !key_length.is_multiple_of(2) {
            return Err(keys.fault("attention.key_length", "an even head size", key_length));
        }
        if traits.equal_head_sizes && key_length != value_length {
            return Err(keys.fault(
                "attention.value_length",
                format_args!("the key length {key_length}, as {} demands", keys.architecture),
                value_length,
            ));
        }

        let least = if traits.rope { 2 } else { 0 };
        let n_rot = rotated(keys, "rope.dimension_count", least, key_length)?.unwrap_or(key_length);
        let swa = keys.u32("attention.key_length_swa")?.unwrap_or(key_length);
        let n_rot_swa = rotated(keys, "rope.dimension_count_swa", least, swa)?.unwrap_or(n_rot);
        for (suffix, n) in [("rope.dimension_count", n_rot), ("rope.dimension_count_swa", n_rot_swa)] {
            if traits.rope_fills_head && n != value_length {
                let expected =
                    format_args!("the head size {value_length}, as {} demands", keys.architecture).to_string();
                return Err(keys.fault(suffix, expected, n));
            }
        }
        Ok(Self { n_head, n_head_kv, key_length, value_length, n_rot })
    }
}

/// A number of rotated dimensions: even, and within the head. Rotating none never ends.
fn rotated(keys: &Keys<'_>, suffix: &str, least: u32, head: u32) -> Result<Option<u32>, GgufError> {
    let dims = keys.u32(suffix)?;
    match dims {
        Some(n) if !(least..=head).contains(&n) || !n.is_multiple_of(2) => {
            Err(keys.fault(suffix, format_args!("an even number from {least} to {head}"), n))
        }
        _ => Ok(dims),
    }
}

/// A number, or one number for each layer.
fn per_layer(keys: &Keys<'_>, suffix: &str, n_layer: u32, most: u32) -> Result<Option<PerLayer>, GgufError> {
    let numbers = match keys.gguf.get(&keys.key(suffix)) {
        None => return Ok(None),
        Some(Value::Array(Array::U32(numbers))) => numbers.clone(),
        Some(Value::Array(Array::I32(numbers))) => {
            let converted = numbers.iter().map(|&n| u32::try_from(n).map_err(|_| n));
            converted
                .collect::<Result<_, _>>()
                .map_err(|negative| keys.fault(suffix, format_args!("0 to {most}"), negative))?
        }
        Some(_) => return Ok(keys.within(suffix, 0..=most)?.map(PerLayer::Uniform)),
    };
    if numbers.len() != n_layer as usize {
        let expected = format_args!("one number for each of {n_layer} layers").to_string();
        return Err(keys.fault(suffix, expected, numbers.len()));
    }
    if let Some(&large) = numbers.iter().find(|&&n| n > most) {
        return Err(keys.fault(suffix, format_args!("0 to {most}"), large));
    }
    Ok(Some(PerLayer::from_layers(numbers)))
}

fn experts(keys: &Keys<'_>, n_layer: u32) -> Result<(u32, u32), GgufError> {
    const USED: &str = "expert_used_count";
    const GROUPS: &str = "expert_group_count";
    const GROUPS_USED: &str = "expert_group_used_count";
    let count = keys.within("expert_count", 0..=MAX_EXPERTS)?.unwrap_or(0);
    let used = per_layer(keys, USED, n_layer, MAX_EXPERTS)?.map_or(0, |used| used.max());
    let groups = keys.u32(GROUPS)?.unwrap_or(0);
    let groups_used = keys.u32(GROUPS_USED)?.unwrap_or(0);
    if used > count || (used == 0 && count > 0) {
        let expected = if count == 0 { "0 of 0 experts".to_owned() } else { format!("1 to {count} experts") };
        return Err(keys.fault(USED, expected, used));
    }
    if groups > 0 && groups >= count {
        return Err(keys.fault(GROUPS, format_args!("less than {count} experts"), groups));
    }
    if groups > 1 {
        if !count.is_multiple_of(groups) {
            return Err(keys.fault(GROUPS, format_args!("a divisor of {count} experts"), groups));
        }
        if groups_used == 0 || groups_used >= groups {
            let expected = format_args!("1 to {}", groups - 1).to_string();
            return Err(keys.fault(GROUPS_USED, expected, groups_used));
        }
    }
    Ok((count, used))
}

fn rope_scaling(keys: &Keys<'_>) -> Result<(), GgufError> {
    const SUFFIX: &str = "rope.scaling.type";
    match keys.gguf.typed::<&str>(&keys.key(SUFFIX))? {
        None | Some("none" | "linear" | "yarn" | "longrope") => Ok(()),
        Some(other) => Err(keys.fault(SUFFIX, "'none', 'linear', 'yarn' or 'longrope'", super::quoted(other))),
    }
}

/// ggml asserts at the first decode that these are not negative.
fn norms(keys: &Keys<'_>) -> Result<(), GgufError> {
    for suffix in ["layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"] {
        let suffix = format!("attention.{suffix}");
        if let Some(epsilon) = keys.gguf.typed::<f32>(&keys.key(&suffix))?
            && epsilon < 0.0
        {
            return Err(keys.fault(&suffix, "at least 0", epsilon));
        }
    }
    Ok(())
}

/// No hyperparameter means anything as NaN or infinity.
fn refuse_non_finite(keys: &Keys<'_>) -> Result<(), GgufError> {
    let prefix = keys.key("");
    for key in keys.gguf.keys().filter(|key| key.starts_with(&prefix)) {
        let number = match keys.gguf.get(key) {
            Some(&Value::F32(number)) => f64::from(number),
            Some(&Value::F64(number)) => number,
            _ => continue,
        };
        if !number.is_finite() {
            return Err(keys.gguf.fault(key, "a finite number", number));
        }
    }
    Ok(())
}

fn ssm(keys: &Keys<'_>) -> Result<Option<SsmInfo>, GgufError> {
    let d_conv = keys.within("ssm.conv_kernel", 1..=MAX_HEADS)?;
    let d_inner = keys.within("ssm.inner_size", 1..=MAX_WIDTH)?;
    let d_state = keys.within("ssm.state_size", 1..=MAX_HEADS)?;
    let dt_rank = keys.within("ssm.time_step_rank", 1..=MAX_WIDTH)?;
    let n_group = keys.within("ssm.group_count", 0..=MAX_HEADS)?;
    let (Some(d_conv), Some(d_inner), Some(d_state)) = (d_conv, d_inner, d_state) else {
        return Ok(None);
    };
    let n_group = n_group.unwrap_or(0);
    let wide = u64::from(d_inner) + 2 * u64::from(n_group) * u64::from(d_state);
    let elements = (u64::from(d_conv) * wide).max(u64::from(d_inner) * u64::from(d_state));
    if elements > i32::MAX as u64 {
        return Err(keys.fault("ssm.inner_size", "a state below 2^31 elements", elements));
    }
    Ok(Some(SsmInfo { d_conv, d_inner, d_state, dt_rank: dt_rank.unwrap_or(0), n_group }))
}
