//! Transformers that are no more than that.

use super::*;

pub(super) fn llama() -> Builder {
    // Wide enough for quantized weights.
    let model =
        Model::new("llama", Words::Bpe).heads().rms().u32("embedding_length", 32).u32("rope.dimension_count", 16);
    let vocab = model.vocab;
    let mut model = model
        .f32("rope.freq_base", 10_000.0)
        .typed("token_embd.weight", GgmlType::Q8_0, &[32, vocab])
        .tensor("output_norm.weight", &[32])
        .typed("output.weight", GgmlType::Q4_0, &[32, vocab])
        .tensor("rope_freqs.weight", &[8]);
    for layer in 0..LAYERS {
        for (name, ggml_type, dims) in [
            ("attn_norm.weight", GgmlType::F32, &[32][..]),
            ("attn_q.weight", GgmlType::Q4_0, &[32, 32]),
            ("attn_k.weight", GgmlType::Q8_0, &[32, 16]),
            ("attn_v.weight", GgmlType::F16, &[32, 16]),
            ("attn_output.weight", GgmlType::BF16, &[32, 32]),
            ("ffn_norm.weight", GgmlType::F32, &[32]),
            ("ffn_gate.weight", GgmlType::Q5_1, &[32, FF]),
            ("ffn_up.weight", GgmlType::IQ4_NL, &[32, FF]),
            ("ffn_down.weight", GgmlType::F32, &[FF, 32]),
        ] {
            model = model.typed(&format!("blk.{layer}.{name}"), ggml_type, dims);
        }
    }
    model.build()
}

pub(super) fn qwen2() -> Builder {
    Model::new("qwen2", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "qwen2"))
        .heads()
        .rms()
        .f32("rope.freq_base", 1e6)
        .text("rope.scaling.type", "yarn")
        .f32("rope.scaling.factor", 4.0)
        .u32("rope.scaling.original_context_length", 16)
        .ends()
        .layers(&[NORM, Q, K, V, ("attn_q.bias", &[8]), ("attn_k.bias", &[4]), ("attn_v.bias", &[4]), OUT])
        .layers(&[FFN_NORM, GATE, UP, DOWN])
        .build()
}

pub(super) fn gemma2() -> Builder {
    Model::new("gemma2", Words::SentencePiece)
        .heads()
        .rms()
        .u32("attention.key_length", 4)
        .u32("attention.value_length", 4)
        .u32("attention.sliding_window", 8)
        .f32("attn_logit_softcapping", 50.0)
        .f32("final_logit_softcapping", 30.0)
        .ends()
        .layers(&[NORM, Q, K, V, OUT, ("post_attention_norm.weight", &[WIDTH])])
        .layers(&[FFN_NORM, GATE, UP, DOWN, ("post_ffw_norm.weight", &[WIDTH])])
        .build()
}

pub(super) fn gemma3() -> Builder {
    Model::new("gemma3", Words::SentencePiece)
        .heads()
        .rms()
        .u32("attention.sliding_window", 16)
        .u32("attention.sliding_window_pattern", 2)
        .f32("rope.freq_base_swa", 10_000.0)
        .ends()
        .layers(&[NORM, Q, K, V, OUT, ("post_attention_norm.weight", &[WIDTH])])
        .layers(&[("attn_q_norm.weight", &[4]), ("attn_k_norm.weight", &[4])])
        .layers(&[FFN_NORM, GATE, UP, DOWN, ("post_ffw_norm.weight", &[WIDTH])])
        .build()
}

pub(super) fn phi3() -> Builder {
    Model::new("phi3", Words::SentencePiece)
        .heads()
        .rms()
        .u32("rope.scaling.original_context_length", 32)
        .f32("rope.scaling.attn_factor", 1.2)
        .u32("attention.sliding_window", 16)
        .ends()
        .tensor("rope_factors_long.weight", &[2])
        .tensor("rope_factors_short.weight", &[2])
        .layers(&[NORM, ("attn_qkv.weight", &[WIDTH, 16]), OUT, FFN_NORM, ("ffn_up.weight", &[WIDTH, 2 * FF]), DOWN])
        .build()
}

pub(super) fn gpt2() -> Builder {
    Model::new("gpt2", Words::Bpe)
        .u32("attention.head_count", 2)
        .epsilon()
        .ends()
        .tensor("output_norm.bias", &[WIDTH])
        .tensor("position_embd.weight", &[WIDTH, 64])
        .layers(&[NORM, ("attn_norm.bias", &[WIDTH]), ("attn_qkv.weight", &[WIDTH, 24]), ("attn_qkv.bias", &[24])])
        .layers(&[OUT, ("attn_output.bias", &[WIDTH]), FFN_NORM, ("ffn_norm.bias", &[WIDTH])])
        .layers(&[UP, ("ffn_up.bias", &[FF]), DOWN, ("ffn_down.bias", &[WIDTH])])
        .build()
}

pub(super) fn cohere2() -> Builder {
    Model::new("cohere2", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "command-r"))
        .heads()
        .epsilon()
        .u32("attention.sliding_window", 8)
        .u32("attention.sliding_window_pattern", 2)
        .f32("logit_scale", 0.5)
        .ends()
        .layers(&[NORM, Q, K, V, OUT, GATE, UP, DOWN])
        .build()
}

/// Positions by a slope, not by rotation.
pub(super) fn bloom() -> Builder {
    Model::new("bloom", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "bloom"))
        .u32("attention.head_count", 2)
        .epsilon()
        .ends()
        .tensor("output_norm.bias", &[WIDTH])
        .tensor("token_embd_norm.weight", &[WIDTH])
        .tensor("token_embd_norm.bias", &[WIDTH])
        .layers(&[NORM, ("attn_norm.bias", &[WIDTH]), ("attn_qkv.weight", &[WIDTH, 24]), ("attn_qkv.bias", &[24])])
        .layers(&[OUT, ("attn_output.bias", &[WIDTH]), FFN_NORM, ("ffn_norm.bias", &[WIDTH])])
        .layers(&[UP, ("ffn_up.bias", &[FF]), DOWN, ("ffn_down.bias", &[WIDTH])])
        .build()
}

pub(super) fn falcon() -> Builder {
    Model::new("falcon", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "falcon"))
        .heads()
        .epsilon()
        .ends()
        .tensor("output_norm.bias", &[WIDTH])
        .layers(&[NORM, ("attn_norm.bias", &[WIDTH]), ("attn_norm_2.weight", &[WIDTH]), ("attn_norm_2.bias", &[WIDTH])])
        .layers(&[("attn_qkv.weight", &[WIDTH, 16]), OUT, UP, DOWN])
        .build()
}

/// Other numbers of heads in each layer.
pub(super) fn openelm() -> Builder {
    Model::new("openelm", Words::SentencePiece)
        .u32s("attention.head_count", &[2, 4])
        .u32s("attention.head_count_kv", &[1, 2])
        .u32s("feed_forward_length", &[FF as u32, 2 * FF as u32])
        .u32("attention.key_length", 4)
        .u32("attention.value_length", 4)
        .rms()
        .ends()
        .layers(&[NORM, ("attn_q_norm.weight", &[4]), ("attn_k_norm.weight", &[4]), FFN_NORM])
        .layer(0, &[("attn_qkv.weight", &[WIDTH, 16]), OUT, GATE, UP, DOWN])
        .layer(1, &[("attn_qkv.weight", &[WIDTH, 32]), ("attn_output.weight", &[16, WIDTH])])
        .layer(1, &[("ffn_gate.weight", &[WIDTH, 2 * FF]), ("ffn_up.weight", &[WIDTH, 2 * FF])])
        .layer(1, &[("ffn_down.weight", &[2 * FF, WIDTH])])
        .build()
}

/// Latent attention that keeps a key and a value for every head.
pub(super) fn minicpm3() -> Builder {
    Model::new("minicpm3", Words::SentencePiece)
        .u32("attention.head_count", 2)
        .rms()
        .u32("attention.q_lora_rank", 4)
        .u32("attention.kv_lora_rank", 4)
        .u32("attention.key_length", 6)
        .u32("attention.value_length", 4)
        .u32("rope.dimension_count", 2)
        .ends()
        .layers(&[NORM, ("attn_q_a_norm.weight", &[4]), ("attn_kv_a_norm.weight", &[4])])
        .layers(&[("attn_q_a.weight", &[WIDTH, 4]), ("attn_q_b.weight", &[4, 12])])
        .layers(&[("attn_kv_a_mqa.weight", &[WIDTH, 6]), ("attn_kv_b.weight", &[4, 16]), OUT])
        .layers(&[FFN_NORM, GATE, UP, DOWN])
        .build()
}
