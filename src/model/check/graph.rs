//! What a model's graph takes for granted.
//!
//! llama.cpp builds a graph when it makes a context, and runs it at the first decode. Both use numbers that loading
//! read apart from each other, and tensors that loading took as optional, without a look: what does not fit asserts, or
//! is a null pointer. Here is what single architectures need to be consistent.

use std::collections::BTreeSet;

use super::Keys;
use super::architecture::listed;
use super::hparams::Hparams;
use crate::model::gguf::{Array, GgufError, Value};

/// Architectures that look up the number of heads layer by layer. All others take that of the first layer, while their
/// KV cache has the size of each layer's own.
const HEADS_PER_LAYER: &str = "\
    bailingmoe3 deci dots3note gemma4 gemma4-assistant glm5-next granite granite_swa granitehybrid granitemoe \
    graniteswitch jamba kimi-k3 kimi-linear laguna lfm2 lfm2moe mimo2 minimax-01 nemotron_h nemotron_h_moe openelm \
    plamo2 plamo3 spark2_5 step35 wavtokenizer-dec";

/// Architectures whose query or output projection has the model's width on both sides.
const HEADS_FILL_WIDTH: &str = "\
    arctic baichuan bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cohere2 command-r dbrx deepseek dream \
    eurobert exaone4 falcon gpt2 gptneox grok internlm2 jais jamba jina-bert-v2 jina-bert-v3 lfm2 lfm2moe llada-moe \
    modern-bert mpt nemotron neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe orion phi2 phi3 phimoe plamo pockettts \
    qwen qwen2 qwen2moe qwen2vl stablelm starcoder starcoder2 xverse";

/// Architectures whose heads may have another size in layers with a sliding window.
const HEADS_BY_WINDOW: &str = "\
    deci dots3note gemma4 gemma4-assistant laguna maple mimo2 muse-glimmer plamo3 spark2_5 step35";

/// Architectures that may use another number of experts in each layer.
const EXPERTS_PER_LAYER: &str = "nemotron_h nemotron_h_moe";

/// Architectures that have no default for how experts are weighed.
const NEED_GATING: &str = "\
    bailingmoe2 bailingmoe3 deepseek32 dots1 dots3note exaone-moe hy_v4 kimi-k3 kimi-linear lfm2moe minimax-m2 \
    minimax-m3 smallthinker";

/// Architectures whose graph asserts whatever the file says: their values have the wrong shape for the KV cache.
const BROKEN: &str = "plm";

pub(super) fn check(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    let architecture = keys.architecture;
    if listed(BROKEN, architecture) {
        const KEY: &str = "general.architecture";
        return Err(keys.gguf.fault(KEY, "one that llama.cpp can run", format_args!("'{architecture}'")));
    }
    heads(keys, hparams)?;
    experts(keys, hparams)?;
    if listed("deepseek2 mistral4 deepseek32 glm-dsa minicpm3", architecture) {
        latent_cache(keys, hparams)?;
    }
    if listed("deepseek2 mistral4", architecture) {
        temperature(keys)?;
    }
    if architecture == "llama4" {
        // Every fourth layer is scaled by position: that input must be there, and used.
        keys.within("block_count", 4..=u32::MAX)?;
        keys.within("attention.sliding_window", 1..=u32::MAX)?;
    }
    let kinds = Kinds::of(keys, hparams)?;
    if let Some(kinds) = &kinds {
        kinds.check(keys)?;
    }
    if !keys.incomplete() {
        tensors(keys, hparams, kinds.as_ref())?;
    }
    Ok(())
}

fn heads(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    if !listed(HEADS_PER_LAYER, keys.architecture) {
        for (suffix, counts) in
            [("attention.head_count", &hparams.n_head), ("attention.head_count_kv", &hparams.n_head_kv)]
        {
            let first = counts.get(0);
            if let Some(other) = counts.iter(hparams.n_layer).find(|&n| n != first) {
                // The key-value heads follow the query heads where they are not stated.
                let suffix = if keys.has(suffix) { suffix } else { "attention.head_count" };
                return Err(keys.fault(suffix, format_args!("{first} in every layer"), other));
            }
        }
    }
    if !listed(HEADS_BY_WINDOW, keys.architecture) {
        for (suffix, length) in [("key_length", hparams.n_embd_head_k), ("value_length", hparams.n_embd_head_v)] {
            keys.within(&format!("attention.{suffix}_swa"), length..=length)?;
        }
    }
    if listed(HEADS_FILL_WIDTH, keys.architecture) {
        let width = u64::from(hparams.n_embd_head_k) * u64::from(hparams.n_head.get(0));
        if width != u64::from(hparams.n_embd) && hparams.n_head.get(0) > 0 {
            let expected = format_args!("heads that fill the width {}", hparams.n_embd).to_string();
            return Err(keys.fault("attention.key_length", expected, format_args!("{width} in all")));
        }
    }
    Ok(())
}

fn experts(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    const USED: &str = "expert_used_count";
    const GATING: &str = "expert_gating_func";
    if hparams.expert_count == 0 {
        return Ok(());
    }
    let least = u32::from(listed(NEED_GATING, keys.architecture));
    // 1 to 4 are ways to weigh experts, 0 stands for the architecture's own.
    if keys.within(GATING, least..=4)?.is_none() && keys.architecture == "dots1" {
        return Err(keys.fault(GATING, "1 to 4", "no such key"));
    }
    let used = match keys.gguf.get(&keys.key(USED)) {
        Some(Value::Array(Array::U32(used))) => used.clone(),
        Some(Value::Array(Array::I32(used))) => used.iter().map(|&n| n as u32).collect(),
        _ => return Ok(()),
    };
    let first = used.first().copied().unwrap_or_default();
    match used.iter().find(|&&n| n != first) {
        Some(other) if !listed(EXPERTS_PER_LAYER, keys.architecture) => {
            Err(keys.fault(USED, format_args!("{first} in every layer"), other))
        }
        _ => Ok(()),
    }
}

/// Latent attention keeps one row per token, of the latent and the rotated part, or with the older tensors one for
/// every head. The KV cache gets the size that the head count and key length say.
fn latent_cache(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    const KV_HEADS: &str = "attention.head_count_kv";
    const KEY: &str = "attention.key_length_mla";
    let stated = |suffix: &str| Ok(keys.u32(suffix)?.is_some_and(|n| n > 0));
    let kv_heads = hparams.n_head_kv.get(0);
    if stated(KEY)? && stated("attention.value_length_mla")? && keys.architecture != "minicpm3" {
        let Some(rank) = keys.u32("attention.kv_lora_rank")? else { return Ok(()) };
        if kv_heads != 1 {
            return Err(keys.fault(KV_HEADS, 1, kv_heads));
        }
        let row = u64::from(rank) + u64::from(hparams.n_rot);
        if u64::from(hparams.n_embd_head_k) != row {
            let expected = format_args!("{row}, the latent and the rotated part").to_string();
            return Err(keys.fault("attention.key_length", expected, hparams.n_embd_head_k));
        }
        return Ok(());
    }
    if listed("deepseek32 glm-dsa", keys.architecture) {
        return Err(keys.fault(KEY, "the length of a key head", "none"));
    }
    let heads = hparams.n_head.get(0);
    if kv_heads != heads {
        return Err(keys.fault(KV_HEADS, format_args!("{heads}, one for each query head"), kv_heads));
    }
    Ok(())
}

/// A temperature by position divides positions by a length.
fn temperature(keys: &Keys<'_>) -> Result<(), GgufError> {
    const LENGTH: &str = "attention.temperature_length";
    let scaled = keys.gguf.typed::<f32>(&keys.key("attention.temperature_scale"))?.is_some_and(|scale| scale != 0.0);
    let length = keys.u32(LENGTH)?.unwrap_or(0);
    if scaled && length == 0 {
        return Err(keys.fault(LENGTH, "at least 1, as there is a temperature", length));
    }
    Ok(())
}

/// Which layers of a hybrid model are recurrent, and which have attention.
struct Kinds {
    recurrent: Vec<bool>,
    attention: Vec<bool>,
    /// The key that decides it.
    decided_by: &'static str,
}

impl Kinds {
    /// None for other models, and for those hybrids that have both kinds in every layer.
    fn of(keys: &Keys<'_>, hparams: &Hparams) -> Result<Option<Self>, GgufError> {
        const BY_HEADS: &str = "attention.head_count_kv";
        const BY_INTERVAL: &str = "full_attention_interval";
        const BY_LIST: &str = "attention.recurrent_layers";
        let without_heads = |layer| hparams.n_head_kv.get(layer) == 0;
        let layers = 0..hparams.n_layer - keys.u32("nextn_predict_layers")?.unwrap_or(0);
        let (recurrent, decided_by): (Vec<bool>, _) = match keys.architecture {
            "jamba" | "granitehybrid" | "lfm2" | "lfm2moe" | "plamo2" | "bailingmoe3" | "kimi-linear" | "kimi-k3" => {
                (layers.map(without_heads).collect(), BY_HEADS)
            }
            "nemotron_h" | "nemotron_h_moe" => {
                let plain = |layer: &u32| hparams.n_ff.get(*layer) == 0;
                let recurrent: Vec<bool> = layers.clone().map(|n| plain(&n) && without_heads(n)).collect();
                let attention = layers.map(|n| plain(&n) && !without_heads(n)).collect();
                return Ok(Some(Self { recurrent, attention, decided_by: BY_HEADS }));
            }
            "qwen3next" | "qwen35" | "qwen35moe" | "qwen4exp" | "minimax-01" => match keys.gguf.get(&keys.key(BY_LIST))
            {
                Some(Value::Array(Array::Bool(list))) => (list.clone(), BY_LIST),
                Some(Value::Array(Array::U32(list))) => (list.iter().map(|&n| n != 0).collect(), BY_LIST),
                Some(Value::Array(Array::I32(list))) => (list.iter().map(|&n| n != 0).collect(), BY_LIST),
                Some(Value::U32(n)) => (layers.map(|_| *n != 0).collect(), BY_LIST),
                Some(other) => return Err(keys.fault(BY_LIST, "a truth value for each layer", other.type_name())),
                None => {
                    let interval = keys.u32(BY_INTERVAL)?.unwrap_or(4).max(1);
                    (layers.map(|layer| (layer + 1) % interval != 0).collect(), BY_INTERVAL)
                }
            },
            _ => return Ok(None),
        };
        let attention = recurrent.iter().map(|&recurrent| !recurrent).collect();
        Ok(Some(Self { recurrent, attention, decided_by }))
    }

    /// A cache without any layer has no buffer, which the first decode asserts.
    fn check(&self, keys: &Keys<'_>) -> Result<(), GgufError> {
        for (layers, kind) in [(&self.recurrent, "a recurrent layer"), (&self.attention, "a layer with attention")] {
            if !layers.contains(&true) {
                return Err(keys.fault(self.decided_by, kind, "none"));
            }
        }
        Ok(())
    }
}

/// Tensors that loading takes as optional and the graph does not.
fn tensors(keys: &Keys<'_>, hparams: &Hparams, kinds: Option<&Kinds>) -> Result<(), GgufError> {
    // The other layers borrow that of the first.
    let biases: &[&str] = match keys.architecture {
        "t5" => &["enc.blk.0.attn_rel_b.weight", "dec.blk.0.attn_rel_b.weight"],
        "t5encoder" => &["enc.blk.0.attn_rel_b.weight"],
        _ => &[],
    };
    for bias in biases {
        if keys.tensors().all(|tensor| tensor.name != *bias) {
            let expected = format_args!("a tensor '{bias}'").to_string();
            return Err(keys.fault("attention.relative_buckets_count", expected, "none"));
        }
    }
    layer_tensors(keys, hparams, kinds)
}

fn layer_tensors(keys: &Keys<'_>, hparams: &Hparams, kinds: Option<&Kinds>) -> Result<(), GgufError> {
    let recurrent = |layer: u32| kinds.is_none_or(|kinds| kinds.recurrent.get(layer as usize) == Some(&true));
    let qkv: &[&[&str]] = &[&["attn_qkv.weight"], &["attn_q.weight", "attn_k.weight", "attn_v.weight"]];
    let gated: &[&[&str]] = &[&["attn_qkv.weight", "attn_gate.weight"]];
    let (alternatives, everywhere): (&[&[&str]], bool) = match keys.architecture {
        "phi3" | "pockettts" => (qkv, true),
        "falcon-h1" => (&[&["ssm_conv1d.bias"]], true),
        "granitehybrid" | "nemotron_h" | "nemotron_h_moe" => (&[&["ssm_conv1d.bias"]], false),
        "qwen3next" => (&[gated[0], &["ssm_in.weight"]], false),
        "qwen35" | "qwen35moe" => (gated, false),
        _ => return Ok(()),
    };
    let names: BTreeSet<&str> = keys.tensors().map(|t| t.name.as_str()).collect();
    let there = |layer: u32, name: &str| names.contains(format!("blk.{layer}.{name}").as_str());
    let layers = 0..hparams.n_layer - keys.u32("nextn_predict_layers")?.unwrap_or(0);
    for layer in layers.filter(|&layer| everywhere || recurrent(layer)) {
        // One that is there decides which of the alternatives llama.cpp takes.
        let chosen = alternatives.iter().find(|names| there(layer, names[0])).unwrap_or(&alternatives[0]);
        if let Some(missing) = chosen.iter().find(|name| !there(layer, name)) {
            let expected = format_args!("a tensor 'blk.{layer}.{missing}'").to_string();
            return Err(keys.fault("block_count", expected, "none"));
        }
    }
    Ok(())
}
