//! Meaning: each header here once made llama.cpp assert, divide by zero, loop or allocate without measure.

use crate::model::gguf::builder::{ARRAY, Builder, STRING, U64};
use crate::model::{GgmlType, GgufError, ModelInfo};

fn judge(builder: &Builder) -> Result<ModelInfo, GgufError> {
    ModelInfo::from_gguf(&builder.read().expect("the syntax is sound"))
}

#[track_caller]
fn accepted(builder: &Builder) {
    if let Err(error) = judge(builder) {
        panic!("{error}");
    }
}

#[track_caller]
fn refused(builder: &Builder, fragment: &str) {
    let gguf = builder.read().expect("the syntax is sound");
    let error = ModelInfo::from_gguf(&gguf).expect_err("the file should be refused");
    assert!(matches!(error, GgufError::Malformed { .. }), "{error}");
    assert!(error.offset() > 0 && error.offset() <= gguf.data_offset(), "{error}");
    let message = error.to_string();
    assert!(message.contains(fragment), "{message:?} should contain {fragment:?}");
}

/// A model like [`Builder::llama`], of another architecture.
fn of(architecture: &str) -> Builder {
    let key = |suffix: &str| format!("{architecture}.{suffix}");
    Builder::llama()
        .text("general.architecture", architecture)
        .u32(&key("context_length"), 128)
        .u32(&key("embedding_length"), 64)
        .u32(&key("block_count"), 2)
        .u32(&key("attention.head_count"), 4)
}

#[test]
fn the_tiny_model_passes() {
    accepted(&Builder::llama());
}

#[test]
fn required_keys() {
    for key in [
        "general.architecture",
        "llama.context_length",
        "llama.embedding_length",
        "llama.block_count",
        "llama.attention.head_count",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
    ] {
        refused(&Builder::llama().without(key), key);
    }
    refused(&Builder::llama().text("general.architecture", ""), "the name of an architecture");
    refused(&Builder::llama().text("general.architecture", "a b"), "the name of an architecture");
}

#[test]
fn wrong_types_and_arrays_where_scalars_belong() {
    for key in ["llama.context_length", "llama.embedding_length", "llama.block_count"] {
        refused(&Builder::llama().i32(key, 64), "expected u32, found i32");
        refused(&Builder::llama().u32s(key, &[64, 64]), "expected u32, found arr[u32]");
        refused(&Builder::llama().raw(key, U64, &[64, 0, 0, 0, 0, 0, 0, 0]), "found u64");
    }
    refused(&Builder::llama().u32("general.architecture", 1), "expected str, found u32");
    refused(&Builder::llama().u32("general.name", 1), "expected str, found u32");
    refused(&Builder::llama().texts("tokenizer.chat_template", &["x"]), "found arr[str]");
    refused(&Builder::llama().text("tokenizer.ggml.tokens", "x"), "expected arr[str], found str");
    refused(&Builder::llama().u32s("tokenizer.ggml.tokens", &[1]), "found arr[u32]");
    refused(&Builder::llama().f32s("llama.attention.head_count", &[4.0, 4.0]), "found arr[f32]");
    refused(&Builder::llama().u32("llama.attention.causal", 1), "expected bool");
    refused(&Builder::llama().text("general.file_type", "Q4"), "expected u32");
}

#[test]
fn absurd_numbers() {
    for (key, values) in [
        ("llama.context_length", &[0, 1 << 31, u32::MAX][..]),
        ("llama.embedding_length", &[0, u32::MAX]),
        ("llama.block_count", &[0, 513, u32::MAX]),
        ("llama.feed_forward_length", &[u32::MAX]),
        ("llama.attention.head_count", &[0, 3, 5, u32::MAX]),
        ("llama.attention.head_count_kv", &[0, 3, 8, u32::MAX]),
        ("llama.attention.key_length", &[0, 1, 15, 17, u32::MAX]),
        ("llama.attention.value_length", &[0, 32, u32::MAX]),
        ("llama.rope.dimension_count", &[1, 8, 18, u32::MAX]),
        ("llama.attention.sliding_window", &[u32::MAX]),
        ("llama.pooling_type", &[5, u32::MAX]),
        ("llama.vocab_size", &[u32::MAX]),
        ("llama.nextn_predict_layers", &[2, 3]),
    ] {
        for &value in values {
            refused(&Builder::llama().u32(key, value), key);
        }
    }
}

#[test]
fn numbers_per_layer() {
    let openelm = of("openelm").u32("openelm.attention.head_count_kv", 2);
    let heads = |n: &[u32]| openelm.clone().u32s("openelm.attention.head_count", n);
    accepted(&heads(&[4, 4]));
    accepted(&heads(&[4, 2]));
    refused(&Builder::llama().u32s("llama.attention.head_count", &[4, 2]), "4 in every layer, found 2");
    refused(&Builder::llama().u32s("llama.attention.head_count_kv", &[2, 4]), "2 in every layer, found 4");
    refused(&heads(&[4]), "one number for each of 2 layers");
    refused(&heads(&[4, 4, 4]), "one number for each of 2 layers");
    refused(&heads(&[]), "one number for each of 2 layers");
    refused(&heads(&[4, 0]), "at least 1 head");
    refused(&heads(&[4, 3]), "a divisor of the 3 heads of layer 1");
    refused(&heads(&[4, u32::MAX]), "0 to 16384");
    let kv = |n: &[i32]| of("openelm").i32s("openelm.attention.head_count_kv", n);
    accepted(&kv(&[2, 4]));
    refused(&kv(&[2, -1]), "0 to 16384, found -1");
    // Hybrid models have layers without attention, but not the first alone.
    accepted(&of("jamba").u32s("jamba.attention.head_count_kv", &[0, 2]));
    refused(&of("jamba").u32s("jamba.attention.head_count", &[0, 4]), "heads in the first layer");
    accepted(&of("mamba").u32("mamba.attention.head_count", 0));
    accepted(&of("mamba").without("mamba.attention.head_count"));
}

#[test]
fn head_sizes() {
    // Stated sizes free the width from being divisible.
    let odd = Builder::llama().u32("llama.attention.head_count", 6);
    refused(&odd, "a divisor of the embedding length 64");
    let key = "llama.attention.key_length";
    refused(&odd.clone().u32(key, 16), "a divisor of the embedding length 64");
    accepted(&odd.u32(key, 16).u32("llama.attention.value_length", 16));
    // Only some architectures let them differ.
    let gemma = |v| of("gemma").u32("gemma.attention.value_length", v);
    accepted(&gemma(32));
    refused(&Builder::llama().u32("llama.attention.value_length", 32), "the key length 16");
    refused(&Builder::llama().u32("llama.rope.dimension_count", 8), "the head size 16");
    accepted(&of("gemma").u32("gemma.rope.dimension_count", 8));
    refused(&of("gemma").u32("gemma.rope.dimension_count", 0), "an even number from 2 to 16");
    accepted(&of("gpt2").u32("gpt2.rope.dimension_count", 0));
}

#[test]
fn experts() {
    let moe = |count, used| Builder::llama().u32("llama.expert_count", count).u32("llama.expert_used_count", used);
    accepted(&moe(0, 0));
    accepted(&moe(8, 8));
    refused(&moe(8, 0), "1 to 8 experts");
    refused(&moe(8, 9), "1 to 8 experts");
    refused(&moe(0, 1), "0 of 0 experts");
    refused(&moe(1025, 1), "0 to 1024");
    refused(&moe(8, 2).without("llama.expert_used_count"), "1 to 8 experts");

    let groups =
        |groups, used| moe(8, 2).u32("llama.expert_group_count", groups).u32("llama.expert_group_used_count", used);
    accepted(&groups(4, 2));
    accepted(&groups(1, 0));
    refused(&groups(8, 2), "less than 8 experts");
    refused(&groups(3, 2), "a divisor of 8");
    refused(&groups(4, 0), "1 to 3");
    refused(&groups(4, 4), "1 to 3");
    refused(&Builder::llama().u32("llama.expert_group_count", 1), "less than 0 experts");
}

#[test]
fn floating_point_numbers() {
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        refused(&Builder::llama().f32(epsilon, bad), "a finite number");
        refused(&Builder::llama().f32("llama.rope.freq_base", bad), "a finite number");
    }
    refused(&Builder::llama().f32(epsilon, -1.0), "at least 0");
    refused(&Builder::llama().u32(epsilon, 1), "expected f32");
    refused(&Builder::llama().text("llama.rope.scaling.type", "cubic"), "'yarn'");
    accepted(&Builder::llama().text("llama.rope.scaling.type", "yarn"));
}

#[test]
fn tokens() {
    let tokens =
        |list: &[&str]| Builder::llama().without("tokenizer.ggml.token_type").texts("tokenizer.ggml.tokens", list);
    accepted(&tokens(&["a", "b"]));
    refused(&tokens(&[]), "at least one token");
    refused(&tokens(&["a", "b", "a"]), "'a' more than once");
    // llama.cpp cuts tokens at a NUL byte and names empty ones.
    refused(&tokens(&["a\0x", "b", "a\0y"]), "'a' more than once");
    refused(&tokens(&["a", "", "[EMPTY_1]"]), "'[EMPTY_1]' more than once");
    accepted(&tokens(&["a", "", "\0"]));

    accepted(&Builder::llama().text("tokenizer.ggml.model", "no_vocab").u32("llama.vocab_size", 9));
    refused(
        &Builder::llama().text("tokenizer.ggml.model", "no_vocab").u32("llama.vocab_size", 1 << 30),
        "0 to 16777216",
    );
}

#[test]
fn scores_and_types() {
    let spm = Builder::llama().text("tokenizer.ggml.model", "llama");
    let scores = "tokenizer.ggml.scores";
    accepted(&spm.clone().f32s(scores, &[0.0; 4]));
    accepted(&spm.clone().i32s(scores, &[0; 5]));
    refused(&spm.clone().f32s(scores, &[0.0; 3]), "one for each of 4 tokens");
    refused(&spm.clone().f32s(scores, &[0.0, f32::NAN, 0.0, 0.0]), "NaN");
    refused(&spm.clone().u32s(scores, &[0; 4]), "arr[f32] or arr[i32]");
    refused(&spm.u32(scores, 0), "arr[f32] or arr[i32]");

    let types = "tokenizer.ggml.token_type";
    refused(&Builder::llama().i32s(types, &[1; 3]), "one for each of 4 tokens");
    refused(&Builder::llama().u32s(types, &[1; 4]), "expected arr[i32]");
    let words = Builder::llama().text("tokenizer.ggml.model", "bert").u32("tokenizer.ggml.seperator_token_id", 1);
    accepted(&words);
    refused(&words.i32s(types, &[1, 1, 6, 1]), "no byte tokens");
}

#[test]
fn added_tokens_exist() {
    let bos = "tokenizer.ggml.bos_token_id";
    let add_bos = Builder::llama().bool("tokenizer.ggml.add_bos_token", true);
    accepted(&add_bos);
    refused(&add_bos.clone().u32(bos, 4), "one of 4 tokens");
    // Without an id llama.cpp assumes 11, which this vocabulary does not have.
    refused(&add_bos.clone().without(bos), "one of 4 tokens");
    // But after some pre-tokenizers it assumes none, however many tokens there are.
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    let many = add_bos.without(bos).without("tokenizer.ggml.token_type").texts("tokenizer.ggml.tokens", &letters);
    accepted(&many);
    refused(&many.text("tokenizer.ggml.pre", "glm4"), "bos_token_id");
    refused(&Builder::llama().text("tokenizer.ggml.pre", "tekken").without(bos), "bos_token_id");
    refused(&Builder::llama().bool("tokenizer.ggml.add_eos_token", true), "eos_token_id");
    refused(&Builder::llama().text("tokenizer.ggml.pre", "llama-bpe").without(bos), "bos_token_id");
    refused(&Builder::llama().text("tokenizer.ggml.model", "bert"), "seperator_token_id");
}

#[test]
fn rwkv_tokens_end_the_matching() {
    let rwkv = |tokens: &[&str]| {
        Builder::llama()
            .without("tokenizer.ggml.token_type")
            .text("tokenizer.ggml.model", "rwkv")
            .texts("tokenizer.ggml.tokens", tokens)
    };
    accepted(&rwkv(&["a", "ab", "\\n", "\\n\\n", "\\x00", "\\x00a", "\\\\", ""]));
    refused(&rwkv(&["\\n\\n", "a"]), "byte 10 as a token");
    refused(&rwkv(&["a", "\\x0a\\x0a"]), "byte 10 as a token");
    refused(&rwkv(&["ab"]), "byte 97 as a token");
}

#[test]
fn tensor_types() {
    let vector = |name, ggml_type| Builder::llama().tensor(name, ggml_type, &[256]);
    for (name, ggml_type) in [
        ("blk.0.ffn_norm.weight", GgmlType::F16),
        ("blk.0.attn_q.bias", GgmlType::BF16),
        ("rope_freqs.weight", GgmlType::F16),
        ("blk.0.rope_factors_long.weight", GgmlType::F16),
        ("blk.0.ssm_d", GgmlType::I32),
        ("blk.0.layer_output_scale.weight", GgmlType::Q8_0),
        ("blk.0.attn_q.scale", GgmlType::F16),
    ] {
        refused(&vector(name, ggml_type), &format!("expected F32, found {ggml_type}"));
    }
    accepted(&vector("d2t", GgmlType::I64));
    accepted(&vector("blk.0.ffn_gate_tid2eid.weight", GgmlType::I32));

    let weight = |ggml_type| Builder::llama().tensor("blk.0.attn_q.weight", ggml_type, &[256, 2]);
    for unfit in [GgmlType::I8, GgmlType::I64, GgmlType::F64, GgmlType::Q8_1, GgmlType::Q8_K] {
        refused(&weight(unfit), "one that weights can have");
    }
    for fit in [GgmlType::F32, GgmlType::BF16, GgmlType::Q4_K, GgmlType::NVFP4, GgmlType::TQ1_0] {
        accepted(&weight(fit));
    }

    let tied = Builder::llama().without_tensors().tensor("token_embd.weight", GgmlType::NVFP4, &[64, 4]).tensor(
        "output.scale",
        GgmlType::F32,
        &[1],
    );
    refused(&tied, "an output layer");
    accepted(&tied.tensor("output.weight", GgmlType::F16, &[64, 4]));
}

#[test]
fn tensors_are_aligned_for_mapping() {
    let mut builder = Builder::llama().u32("general.alignment", 8).without_tensors();
    builder.alignment = 8;
    let builder = builder.tensor("a", GgmlType::F32, &[2]).tensor("b", GgmlType::F32, &[2]);
    refused(&builder, "a multiple of 32");
}

#[test]
fn single_architectures() {
    let moe = |architecture: &str| {
        of(architecture)
            .u32(&format!("{architecture}.expert_count"), 4)
            .u32(&format!("{architecture}.expert_used_count"), 2)
    };
    refused(&of("qwen3moe"), "'qwen3moe.expert_count'");
    accepted(&moe("qwen3moe"));
    refused(&moe("qwen3next").u32("qwen3next.full_attention_interval", 0), "full_attention");
    refused(&moe("grovemoe").u32("grovemoe.experts_per_group", 0), "experts_per_group");
    refused(&of("mamba2").u32("mamba2.ssm.group_count", 0), "ssm.group_count");
    refused(&of("hrm_text").u32("hrm_text.hrm.h_cycles", 0), "h_cycles");
    refused(&of("nanbeige").u32("nanbeige.num_loops", 300), "at most 512 layers");
    refused(&of("lfm2").u32("lfm2.shortconv.l_cache", 1), "shortconv.l_cache");
    refused(&of("t5").u32("t5.decoder_block_count", 3), "decoder_block_count");
    refused(&of("gemma4").u32("gemma4.attention.shared_kv_layers", 1), "at least 2 of 2 layers");
    refused(&of("gemma-embedding").u32("gemma-embedding.dense_2_feat_in", 3), "dense_2_feat_in");
    refused(&of("deepseek2").u32("deepseek2.attention.key_length_mla", 16), "rotated");
    refused(&of("deepseek4").u32s("deepseek4.attention.compress_ratios", &[1; 513]), "512");
    refused(&of("bailingmoe3").bool("bailingmoe3.kda.safe_gate", false), "safe_gate");
    refused(&of("bailingmoe3").f32("bailingmoe3.kda.gate_lower_bound", 0.0), "less than 0");
    refused(&of("glm5-next").u32("glm5-next.hyper_connection.count", 3), "hyper_connection");

    let pattern = "gemma3.attention.sliding_window_pattern";
    accepted(&of("gemma3").u32(pattern, 6));
    refused(&of("gemma3").u32(pattern, 1), "a layer with a sliding window");
    refused(&of("gemma3").u32s(pattern, &[0, 0]), "a layer with a sliding window");

    let block = |n| of("wavtokenizer-dec").u32("wavtokenizer-dec.posnet.block_count", n);
    accepted(&block(2));
    refused(&block(3), "posnet.block_count");
    let up = |width| {
        of("jina-bert-v2").u32("jina-bert-v2.feed_forward_length", 96).tensor(
            "blk.0.ffn_up.weight",
            GgmlType::F32,
            &[64, width],
        )
    };
    accepted(&up(96));
    accepted(&up(192));
    refused(&up(64), "96 or 192");
}

#[test]
fn state_space_sizes() {
    let ssm = |architecture: &str, inner, rank, groups| {
        let key = |suffix: &str| format!("{architecture}.ssm.{suffix}");
        of(architecture)
            .u32(&key("conv_kernel"), 4)
            .u32(&key("inner_size"), inner)
            .u32(&key("state_size"), 16)
            .u32(&key("time_step_rank"), rank)
            .u32(&key("group_count"), groups)
    };
    let info = judge(&ssm("mamba2", 128, 8, 2)).unwrap();
    let sizes = info.ssm.unwrap();
    assert_eq!((sizes.d_conv, sizes.d_inner, sizes.d_state), (4, 128, 16));
    assert_eq!((sizes.dt_rank, sizes.n_group), (8, 2));
    refused(&ssm("mamba2", 128, 7, 2), "time_step_rank");
    refused(&ssm("mamba2", 128, 8, 3), "group_count");
    refused(&ssm("mamba2", 0, 8, 2), "inner_size");
    refused(&ssm("mamba2", u32::MAX, 8, 2), "inner_size");
    let vast = ssm("mamba2", 1 << 20, 8, 2).u32("mamba2.ssm.state_size", 1 << 14);
    refused(&vast, "a state below 2^31");
    accepted(&ssm("jamba", 128, 8, 1).u32s("jamba.attention.head_count_kv", &[0, 2]));
    refused(&ssm("jamba", 64, 8, 1), "'jamba.ssm.inner_size': expected 128");
    let qwen = ssm("qwen35", 128, 8, 2).u32("qwen35.full_attention_interval", 2);
    refused(&qwen, "a tensor 'blk.0.attn_qkv.weight'");
    let qwen = qwen.tensor("blk.0.attn_qkv.weight", GgmlType::F32, &[64, 192]);
    refused(&qwen, "a tensor 'blk.0.attn_gate.weight'");
    accepted(&qwen.tensor("blk.0.attn_gate.weight", GgmlType::F32, &[64, 128]));
    refused(&ssm("qwen35", 64, 8, 2), "8 heads of 16");
    refused(&ssm("qwen35", 128, 8, 3), "a divisor of 8 heads");
}

#[test]
fn rwkv_sizes() {
    let rwkv = of("rwkv7").u32("rwkv7.wkv.head_size", 64);
    assert_eq!(judge(&rwkv).unwrap().wkv_head_size, Some(64));
    refused(&of("rwkv7").u32("rwkv7.wkv.head_size", 16), "a multiple of 64");
    refused(&of("rwkv7").u32("rwkv7.wkv.head_size", 0), "wkv.head_size");
    refused(&of("rwkv7").u32("rwkv7.wkv.head_size", 48), "a divisor of the width 64");
    refused(&rwkv.u32("rwkv7.token_shift_count", 1), "token_shift_count");
    refused(&of("rwkv6"), "time_mix_lerp_fused");
}

#[test]
fn unused_metadata_is_nobodys_business() {
    accepted(&Builder::llama().raw("other.key", STRING, &[0; 8]).f32("other.nan", f32::NAN));
    accepted(&Builder::llama().raw("other.list", ARRAY, &[0; 12]));
}
