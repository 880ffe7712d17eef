//! What single architectures assert on top of the common rules.
//!
//! Collected from the assertions and divisions in llama.cpp's `src/models`: all of those that loading reaches, and of
//! those that building a graph reaches, the ones on head sizes. An architecture that llama.cpp doesn't know, it refuses
//! with a plain error.

use std::collections::BTreeSet;

use super::Keys;
use super::hparams::Hparams;
use crate::model::gguf::{Array, GgufError, TensorInfo, Value};

/// How an architecture treats the common hyperparameters.
#[derive(Clone, Copy)]
pub(super) struct Traits {
    /// Some layers may have no attention, and then no heads.
    pub(super) layers_without_attention: bool,
    /// Key and value heads must have the same size.
    pub(super) equal_head_sizes: bool,
    /// Heads are rotated by their position, so there must be something to rotate.
    pub(super) rope: bool,
    /// Rotary embeddings must cover the whole head.
    pub(super) rope_fills_head: bool,
}

impl Traits {
    pub(super) fn of(architecture: &str) -> Self {
        Self {
            layers_without_attention: listed(WITHOUT_ATTENTION, architecture),
            equal_head_sizes: listed(EQUAL_HEAD_SIZES, architecture),
            rope: !listed(WITHOUT_ROPE, architecture),
            rope_fills_head: listed(ROPE_FILLS_HEAD, architecture),
        }
    }
}

/// Whether a list of names, parted by spaces, holds an architecture.
pub(super) fn listed(list: &str, architecture: &str) -> bool {
    list.split(' ').any(|name| name == architecture)
}

/// Recurrent, hybrid and pruned architectures.
const WITHOUT_ATTENTION: &str = "\
    mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7 jamba falcon-h1 plamo2 granitehybrid lfm2 lfm2moe nemotron_h \
    nemotron_h_moe qwen3next kimi-linear bailingmoe3 kimi-k3 glm5-next qwen35 qwen35moe qwen4exp deepseek4 \
    minimax-01 deci wavtokenizer-dec";

const EQUAL_HEAD_SIZES: &str = "\
    afmoe apertus arcee arctic baichuan bailingmoe2 bert bitnet bloom chameleon chatglm clef codeshell cogvlm \
    cohere2 cohere2moe command-r dbrx deci deepseek dots1 dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone \
    falcon glm4 glm4moe gpt-oss gpt2 gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe \
    hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 jina-bert-v2 jina-bert-v3 laguna lfm2 \
    lfm2moe llada llada-moe llama llama-embed llama4 maincoder mellum minimax-01 minimax-m2 minimax-m3 mistral3 \
    modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe \
    olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo pockettts qwen qwen2 qwen2moe \
    qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 seed_oss \
    smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 t5 t5encoder xverse";

const ROPE_FILLS_HEAD: &str = "\
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek dots1 dream ernie4_5 \
    ernie4_5-moe exaone exaone-moe exaone4 falcon gpt-oss granite granite_swa granitemoe graniteswitch grok grovemoe \
    hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama-embed llama4 \
    maincoder mellum mistral3 olmo olmo2 olmoe orion paddleocr pangu-embedded plamo pockettts qwen2 qwen2moe \
    qwen2vl qwen3 qwen3moe qwen3tts qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3 starcoder2 talkie \
    xverse";

const WITHOUT_ROPE: &str = "\
    arwkv7 bert bloom glm5-next gpt2 jais jamba jina-bert-v2 kimi-k3 kimi-linear mamba mamba2 mpt nemotron_h \
    nemotron_h_moe refact rwkv6 rwkv6qwen2 rwkv7 starcoder t5 t5encoder wavtokenizer-dec";

/// Architectures that take from the file which layers have a sliding window, and assert that some have.
const WITH_WINDOW_PATTERN: &str = "\
    afmoe cohere2 cohere2moe dflash dots3note exaone-moe exaone4 gemma-embedding gemma2 gemma3 gemma3n gemma4 \
    gemma4-assistant gpt-oss granite_swa laguna llama4 maple mellum mimo2 modern-bert muse-glimmer olmo2 plamo3 \
    smallthinker spark2_5 step35";

/// Numbers that an architecture divides by or asserts to be positive, where they are stated.
const POSITIVE: &[(&str, &str)] = &[
    ("qwen35 qwen35moe qwen3next qwen4exp minimax-01", "full_attention_interval"),
    ("falcon-h1 mamba2 granitehybrid nemotron_h nemotron_h_moe", "ssm.group_count"),
    ("qwen35 qwen35moe qwen3next qwen4exp clef", "ssm.group_count"),
    ("rwkv6 rwkv6qwen2 rwkv7 arwkv7", "wkv.head_size"),
    ("grovemoe", "experts_per_group"),
    ("ernie4_5-moe", "interleave_moe_layer_step"),
    ("minimax-m3", "attention.indexer.block_size"),
    ("deepseek4 dflash", "attention.output_group_count"),
    ("dflash", "conv_group_size"),
    ("hrm_text", "hrm.layers_per_stack"),
    ("hrm_text", "hrm.h_cycles"),
    ("hrm_text", "hrm.l_cycles"),
    ("nanbeige", "num_loops"),
    ("wavtokenizer-dec", "attention.group_norm_groups"),
    ("hy_v4 dots3note", "attention.key_length_mla"),
    ("hy_v4 dots3note", "attention.value_length_mla"),
];

/// Architectures that are nothing without experts.
const NEED_EXPERTS: &str = "\
    bailingmoe2 glm4moe grovemoe lfm2moe llada-moe mellum qwen2moe qwen35moe qwen3moe qwen3next qwen3vlmoe \
    qwen4exp rnd1 smallthinker";

pub(super) fn check(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    let architecture = keys.architecture;
    for (architectures, suffix) in POSITIVE {
        if listed(architectures, architecture) {
            keys.within(suffix, 1..=u32::MAX)?;
        }
    }
    if listed(WITH_WINDOW_PATTERN, architecture) {
        window_pattern(keys)?;
    }
    if listed(NEED_EXPERTS, architecture) && hparams.expert_count == 0 {
        return Err(keys.fault("expert_count", "at least 1", 0));
    }
    match architecture {
        "deepseek2" | "mistral4" | "hy_v4" => latent_attention(keys, hparams),
        "granitehybrid" | "jamba" => inner_width(keys, hparams),
        "plamo2" => keys.within("ssm.group_count", 0..=0).map(drop),
        "qwen35" | "qwen35moe" | "qwen3next" | "qwen4exp" | "clef" => delta_net(keys, hparams),
        "gemma-embedding" => dense_modules(keys, hparams),
        "gemma4" => shared_layers(keys, hparams),
        "hrm_text" => cycles(keys, hparams),
        "nanbeige" => loops(keys, hparams),
        "glm5-next" => pooled_indexer(keys, hparams),
        "bailingmoe3" => delta_gate(keys),
        "lfm2" | "lfm2moe" => keys.within("shortconv.l_cache", 2..=1 << 16).map(drop),
        "rwkv6" | "rwkv6qwen2" | "rwkv7" | "arwkv7" => rwkv(keys, hparams),
        "t5" => keys.within("decoder_block_count", 0..=hparams.n_layer).map(drop),
        "wavtokenizer-dec" => decoder_blocks(keys, hparams),
        "deepseek4" => compress_ratios(keys),
        "jina-bert-v2" => width_of(keys, hparams, ".ffn_up.weight", |layer| {
            let n_ff = u64::from(hparams.n_ff.get(layer));
            [n_ff, 2 * n_ff]
        }),
        "laguna" => width_of(keys, hparams, ".attn_gate.weight", |layer| {
            let heads = u64::from(hparams.n_head.get(layer));
            [heads, heads * u64::from(hparams.n_embd_head_k)]
        }),
        _ => Ok(()),
    }?;
    if matches!(architecture, "falcon-h1" | "mamba2" | "granitehybrid" | "nemotron_h" | "nemotron_h_moe") {
        mamba2(keys, hparams)?;
    }
    Ok(())
}

/// A pattern of 1 gives no layer a window, and so does a list of zeros.
fn window_pattern(keys: &Keys<'_>) -> Result<(), GgufError> {
    const SUFFIX: &str = "attention.sliding_window_pattern";
    let none = match keys.gguf.get(&keys.key(SUFFIX)) {
        Some(Value::U32(period)) => *period == 1,
        Some(Value::Array(Array::Bool(layers))) => !layers.contains(&true),
        Some(Value::Array(Array::U32(layers))) => layers.iter().all(|&n| n == 0),
        Some(Value::Array(Array::I32(layers))) => layers.iter().all(|&n| n == 0),
        _ => false,
    };
    if none {
        return Err(keys.fault(SUFFIX, "a layer with a sliding window", "none"));
    }
    Ok(())
}

/// Part of the key must be left without rotation.
fn latent_attention(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    const KEY: &str = "attention.key_length_mla";
    let key = keys.u32(KEY)?.filter(|&n| n > 0).unwrap_or(hparams.n_embd_head_k);
    if key <= hparams.n_rot {
        let expected = format_args!("more than {} rotated dimensions", hparams.n_rot).to_string();
        return Err(keys.fault(KEY, expected, key));
    }
    Ok(())
}

fn inner_width(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    let expected = 2 * hparams.n_embd;
    match hparams.ssm {
        Some(ssm) if ssm.d_inner != expected => Err(keys.fault("ssm.inner_size", expected, ssm.d_inner)),
        _ => Ok(()),
    }
}

fn mamba2(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    let Some(ssm) = hparams.ssm else {
        return Ok(());
    };
    for (suffix, divisor) in [("ssm.time_step_rank", ssm.dt_rank), ("ssm.group_count", ssm.n_group)] {
        // Neither is 0 where it is stated; where it is not, llama.cpp says so.
        if divisor > 0 && !ssm.d_inner.is_multiple_of(divisor) {
            let expected = format_args!("a divisor of the inner size {}", ssm.d_inner).to_string();
            return Err(keys.fault(suffix, expected, divisor));
        }
    }
    Ok(())
}

fn delta_net(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    let Some(ssm) = hparams.ssm else {
        return Ok(());
    };
    if ssm.dt_rank > 0 && u64::from(ssm.dt_rank) * u64::from(ssm.d_state) != u64::from(ssm.d_inner) {
        let expected = format_args!("{} heads of {}", ssm.dt_rank, ssm.d_state).to_string();
        return Err(keys.fault("ssm.inner_size", expected, ssm.d_inner));
    }
    if ssm.n_group > 0 && !ssm.dt_rank.is_multiple_of(ssm.n_group) {
        let expected = format_args!("a divisor of {} heads", ssm.dt_rank).to_string();
        return Err(keys.fault("ssm.group_count", expected, ssm.n_group));
    }
    Ok(())
}

fn dense_modules(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    for suffix in ["dense_2_feat_in", "dense_3_feat_out"] {
        if let Some(width) = keys.u32(suffix)?
            && width != 0
            && width != hparams.n_embd
        {
            return Err(keys.fault(suffix, hparams.n_embd, width));
        }
    }
    Ok(())
}

fn shared_layers(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    const SUFFIX: &str = "attention.shared_kv_layers";
    let shared = keys.u32(SUFFIX)?.unwrap_or(0);
    if hparams.n_layer.checked_sub(shared).is_none_or(|own| own < 2) {
        let expected = format_args!("at least 2 of {} layers left", hparams.n_layer).to_string();
        return Err(keys.fault(SUFFIX, expected, shared));
    }
    Ok(())
}

fn cycles(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    let (stack, high, low) = (keys.u32("hrm.layers_per_stack")?, keys.u32("hrm.h_cycles")?, keys.u32("hrm.l_cycles")?);
    let (Some(stack), Some(high), Some(low)) = (stack, high, low) else {
        return Ok(());
    };
    let slots = low.checked_add(1).and_then(|low| stack.checked_mul(high)?.checked_mul(low));
    let layers = hparams.n_layer - keys.u32("nextn_predict_layers")?.unwrap_or(0);
    if slots != Some(layers) {
        let expected = "layers per stack times cycles";
        return Err(keys.fault("block_count", expected, layers));
    }
    Ok(())
}

fn loops(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    let loops = keys.u32("num_loops")?.unwrap_or(1);
    if hparams.n_layer.checked_mul(loops).is_none_or(|layers| layers > 512) {
        return Err(keys.fault("num_loops", "at most 512 layers in all", loops));
    }
    Ok(())
}

fn pooled_indexer(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    const POOL: &str = "attention.indexer.kpool";
    keys.within("hyper_connection.count", 4..=4)?;
    if hparams.n_rot != 0 {
        return Err(keys.fault("rope.dimension_count", 0, hparams.n_rot));
    }
    let (Some(pool), Some(top)) = (keys.u32(POOL)?, keys.u32("attention.indexer.top_k")?) else {
        return Ok(());
    };
    if pool < 2 || !top.is_multiple_of(pool) {
        let expected = format_args!("a divisor of {top} from 2 up").to_string();
        return Err(keys.fault(POOL, expected, pool));
    }
    Ok(())
}

fn delta_gate(keys: &Keys<'_>) -> Result<(), GgufError> {
    const BOUND: &str = "kda.gate_lower_bound";
    const SAFE: &str = "kda.safe_gate";
    if keys.gguf.typed::<bool>(&keys.key(SAFE))? == Some(false) {
        return Err(keys.fault(SAFE, true, false));
    }
    match keys.gguf.typed::<f32>(&keys.key(BOUND))? {
        Some(bound) if bound >= 0.0 => Err(keys.fault(BOUND, "less than 0", bound)),
        _ => Ok(()),
    }
}

fn rwkv(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    const HEAD: &str = "wkv.head_size";
    const SHIFTS: &str = "token_shift_count";
    // The plain models shift twice and may leave it unsaid; those on a transformer's feed-forward part shift once.
    let shifts = if matches!(keys.architecture, "rwkv6" | "rwkv7") { 2 } else { 1 };
    let stated = keys.u32(SHIFTS)?.unwrap_or(2);
    if stated != shifts {
        return Err(keys.fault(SHIFTS, shifts, stated));
    }
    if let Some(head) = keys.u32(HEAD)? {
        if !hparams.n_embd.is_multiple_of(head) {
            let expected = format_args!("a divisor of the width {}", hparams.n_embd).to_string();
            return Err(keys.fault(HEAD, expected, head));
        }
        // The kernels go through a head in steps of up to 64 and write past the end of one that is no multiple.
        if !head.is_multiple_of(64) {
            return Err(keys.fault(HEAD, "a multiple of 64", head));
        }
    }
    if keys.architecture != "rwkv6" || keys.incomplete() {
        return Ok(());
    }
    let names: BTreeSet<&str> = keys.tensors().map(|t| t.name.as_str()).collect();
    for layer in 0..hparams.n_layer {
        let fused = format!("blk.{layer}.time_mix_lerp_fused.weight");
        let single = format!("blk.{layer}.time_mix_lerp_w.weight");
        if !names.contains(fused.as_str()) && !names.contains(single.as_str()) {
            let expected = format_args!("a tensor '{fused}'").to_string();
            return Err(keys.fault("block_count", expected, "none"));
        }
    }
    Ok(())
}

fn decoder_blocks(keys: &Keys<'_>, hparams: &Hparams) -> Result<(), GgufError> {
    // There is code for six blocks of the first kind.
    keys.within("posnet.block_count", 0..=hparams.n_layer.min(6))?;
    keys.within("convnext.block_count", 0..=hparams.n_layer)?;
    const WIDTH: &str = "posnet.embedding_length";
    let (posnet, convnext) = (keys.u32(WIDTH)?, keys.u32("convnext.embedding_length")?);
    match (posnet, convnext) {
        (Some(posnet), Some(convnext)) if posnet != convnext => Err(keys.fault(WIDTH, convnext, posnet)),
        _ => Ok(()),
    }
}

fn compress_ratios(keys: &Keys<'_>) -> Result<(), GgufError> {
    const SUFFIX: &str = "attention.compress_ratios";
    match keys.gguf.get(&keys.key(SUFFIX)) {
        Some(Value::Array(Array::U32(_) | Array::I32(_))) | None => {}
        Some(other) => return Err(keys.fault(SUFFIX, "arr[u32]", other.type_name())),
    }
    match keys.gguf.get(&keys.key(SUFFIX)) {
        Some(Value::Array(ratios)) if ratios.len() > 512 => {
            Err(keys.fault(SUFFIX, "at most 512 numbers", ratios.len()))
        }
        _ => Ok(()),
    }
}

/// The output width of one tensor per layer must be one of two.
fn width_of(
    keys: &Keys<'_>,
    hparams: &Hparams,
    suffix: &str,
    widths: impl Fn(u32) -> [u64; 2],
) -> Result<(), GgufError> {
    let layer_of =
        |tensor: &TensorInfo| -> Option<u32> { tensor.name.strip_prefix("blk.")?.strip_suffix(suffix)?.parse().ok() };
    for tensor in keys.tensors() {
        let Some(layer) = layer_of(tensor).filter(|&layer| layer < hparams.n_layer) else {
            continue;
        };
        let width = tensor.dims.get(1).copied().unwrap_or(1);
        let [one, other] = widths(layer);
        if width != one && width != other {
            return Err(GgufError::malformed(
                tensor.entry_offset,
                format_args!("the width of tensor '{}'", tensor.name),
                format_args!("{one} or {other}"),
                width,
            ));
        }
    }
    Ok(())
}
