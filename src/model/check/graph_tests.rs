//! What a graph takes for granted: one change each to a model that llama.cpp runs. Those that are in the corpus too are
//! left to it.

use crate::model::gguf::builder::Builder;
use crate::model::{GgmlType, ModelInfo, seeds};

fn seed(name: &str) -> Builder {
    seeds::all().into_iter().find(|(known, _)| *known == name).expect("a seed of this name").1
}

fn without_tensor(mut builder: Builder, name: &str) -> Builder {
    let all = builder.tensors.len();
    builder.tensors.retain(|tensor| tensor.name != name.as_bytes());
    assert_eq!(builder.tensors.len(), all - 1, "there was such a tensor");
    builder.lay_out();
    builder
}

fn with_type(mut builder: Builder, name: &str, ggml_type: GgmlType) -> Builder {
    let tensor = builder.tensors.iter_mut().find(|t| t.name == name.as_bytes()).expect("a tensor of this name");
    tensor.number = ggml_type.number();
    builder.lay_out();
    builder
}

#[track_caller]
fn refused(builder: &Builder, fragment: &str) {
    let gguf = builder.read().expect("the syntax is sound");
    let error = ModelInfo::from_gguf(&gguf).expect_err("the file should be refused");
    assert!(error.offset() > 0 && error.offset() <= gguf.data_offset(), "{error}");
    let message = error.to_string();
    assert!(message.contains(fragment), "{message:?} should contain {fragment:?}");
}

#[test]
fn every_seed_is_sound() {
    for (name, builder) in seeds::all() {
        let info = builder.read().and_then(|gguf| ModelInfo::from_gguf(&gguf));
        assert!(info.is_ok(), "{name}: {}", info.unwrap_err());
    }
}

#[test]
fn heads_fit_the_cache() {
    refused(
        &seed("gpt2").u32s("gpt2.attention.head_count", &[2, 1]),
        "'gpt2.attention.head_count': expected 2 in every",
    );
    refused(&seed("falcon-h1").u32s("falcon-h1.attention.head_count_kv", &[1, 0]), "1 in every layer");
    refused(&seed("gemma3").u32("gemma3.attention.key_length_swa", 2), "4 to 4, found 2");
    refused(&seed("gpt-oss").u32("gpt-oss.attention.value_length_swa", 5), "4 to 4, found 5");
    refused(&seed("llama4").u32("llama4.rope.dimension_count_swa", 2), "the head size 4, as llama4 demands, found 2");
    refused(&seed("gpt-oss").u32("gpt-oss.attention.value_length", 3), "the key length 4");
    refused(&seed("minicpm3").u32("minicpm3.attention.head_count_kv", 1), "2, one for each query head");
    let old = seed("deepseek2").without("deepseek2.attention.key_length_mla");
    refused(&old, "2, one for each query head");
    refused(&seed("deepseek2").u32("deepseek2.attention.head_count_kv", 2), "'deepseek2.attention.head_count_kv'");
}

#[test]
fn both_kinds_of_layers() {
    refused(&seed("jamba").u32s("jamba.attention.head_count_kv", &[0, 0]), "a layer with attention");
    refused(&seed("jamba").u32s("jamba.attention.head_count_kv", &[1, 1]), "a recurrent layer");
    refused(
        &seed("nemotron_h_moe").u32s("nemotron_h_moe.attention.head_count_kv", &[0, 0, 0]),
        "attention, found none",
    );
    refused(&seed("qwen3next").u32("qwen3next.full_attention_interval", 3), "'qwen3next.full_attention_interval'");
    refused(&seed("qwen3next").without("qwen3next.full_attention_interval"), "a layer with attention");
    refused(&seed("qwen3next").u32("qwen3next.full_attention_interval", 1), "a recurrent layer");
    refused(&seed("qwen3next").u32s("qwen3next.attention.recurrent_layers", &[1, 1]), "recurrent_layers");
}

#[test]
fn tensors_that_are_not_optional() {
    refused(&without_tensor(seed("qwen3next"), "blk.0.attn_gate.weight"), "'blk.0.attn_gate.weight'");
    refused(&without_tensor(seed("granitehybrid"), "blk.0.ssm_conv1d.bias"), "'blk.0.ssm_conv1d.bias'");
    refused(&without_tensor(seed("nemotron_h_moe"), "blk.0.ssm_conv1d.bias"), "'blk.0.ssm_conv1d.bias'");
    refused(&without_tensor(seed("t5"), "enc.blk.0.attn_rel_b.weight"), "'enc.blk.0.attn_rel_b.weight'");
    refused(&without_tensor(seed("t5"), "dec.blk.0.attn_rel_b.weight"), "'dec.blk.0.attn_rel_b.weight'");
}

#[test]
fn types_that_can_be_added() {
    refused(&with_type(seed("falcon-h1"), "blk.1.ffn_norm", GgmlType::I32), "expected F32, found I32");
    for name in ["time_mix_lerp_fused", "channel_mix_lerp_k"] {
        let name = format!("blk.1.{name}.weight");
        refused(&with_type(seed("rwkv7"), &name, GgmlType::IQ4_NL), "expected F32, found IQ4_NL");
    }
}

#[test]
fn single_numbers() {
    refused(&seed("deepseek2").f32("deepseek2.attention.temperature_scale", 1.0), "temperature_length");
    refused(&seed("llama4").u32("llama4.attention.sliding_window", 0), "'llama4.attention.sliding_window'");
    refused(&seed("llama4").u32("llama4.block_count", 3), "'llama4.block_count'");
    refused(&seed("plamo2").u32("plamo2.ssm.group_count", 1), "0 to 0, found 1");

    // Whatever such a file says.
    let mut plm = seed("llama").text("general.architecture", "plm");
    for (key, _) in &mut plm.entries {
        *key = key.replace("llama.", "plm.");
    }
    refused(&plm, "one that llama.cpp can run, found 'plm'");
}
