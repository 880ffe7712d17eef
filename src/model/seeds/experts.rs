//! Transformers with experts.

use super::*;

pub(super) fn llama_experts() -> Builder {
    Model::new("llama", Words::SentencePiece)
        .heads()
        .rms()
        .experts()
        .u32("vocab_size", 9)
        .ends()
        .layers(&[NORM, Q, K, V, OUT, FFN_NORM, ROUTER, GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS])
        .build()
}

pub(super) fn qwen3moe() -> Builder {
    Model::new("qwen3moe", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "qwen2"))
        .heads()
        .rms()
        .experts()
        .u32("attention.key_length", 4)
        .u32("attention.value_length", 4)
        .u32("expert_feed_forward_length", FF as u32)
        .ends()
        .layers(&[NORM, Q, K, V, OUT, ("attn_q_norm.weight", &[4]), ("attn_k_norm.weight", &[4]), FFN_NORM])
        .layers(&[ROUTER, GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS])
        .build()
}

/// Attention sinks, and experts with biases.
pub(super) fn gpt_oss() -> Builder {
    let model = Model::new("gpt-oss", Words::Bpe);
    let vocab = model.vocab;
    model
        .with(|b| b.text("tokenizer.ggml.pre", "gpt-4o"))
        .heads()
        .rms()
        .experts()
        .u32("attention.sliding_window", 8)
        .u32("expert_feed_forward_length", FF as u32)
        .ends()
        .tensor("output.weight", &[WIDTH, vocab])
        .layers(&[NORM, ("post_attention_norm.weight", &[WIDTH]), Q, K, V, OUT, ("attn_output.bias", &[WIDTH])])
        .layers(&[("attn_sinks.weight", &[2]), ROUTER, ("ffn_gate_inp.bias", &[4])])
        .layers(&[GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS, ("ffn_gate_exps.bias", &[FF, 4])])
        .layers(&[("ffn_up_exps.bias", &[FF, 4]), ("ffn_down_exps.bias", &[WIDTH, 4])])
        .build()
}

/// Dense layers between those with experts, and attention in chunks but in the fourth layer.
pub(super) fn llama4() -> Builder {
    let mut model = Model::new("llama4", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "llama4"))
        .u32("block_count", 4)
        .heads()
        .rms()
        .experts()
        .u32("expert_feed_forward_length", FF as u32)
        .u32("interleave_moe_layer_step", 2)
        .ends();
    for layer in 0..4 {
        model = model.layer(layer, &[NORM, Q, K, V, OUT, FFN_NORM]);
        model = match layer % 2 {
            0 => model.layer(layer, &[GATE, UP, DOWN]),
            _ => model.layer(layer, &[ROUTER, GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS]).layer(layer, &SHARED_EXPERT),
        };
    }
    model.build()
}

/// A dense layer and one with experts.
pub(super) fn glm4moe() -> Builder {
    Model::new("glm4moe", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "glm4"))
        .heads()
        .rms()
        .experts()
        .u32("expert_feed_forward_length", FF as u32)
        .u32("expert_shared_count", 1)
        .u32("leading_dense_block_count", 1)
        .u32("rope.dimension_count", 2)
        .ends()
        .layers(&[NORM, Q, K, V, OUT, ("post_attention_norm.weight", &[WIDTH])])
        .layer(0, &[GATE, UP, DOWN])
        .layer(1, &[ROUTER, ("exp_probs_b.bias", &[4]), GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS])
        .layer(1, &SHARED_EXPERT)
        .build()
}

/// Latent attention: a dense layer and one with experts.
pub(super) fn deepseek2() -> Builder {
    Model::new("deepseek2", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "deepseek-v3"))
        .u32("attention.head_count", 2)
        .u32("attention.head_count_kv", 1)
        .rms()
        .u32("attention.q_lora_rank", 4)
        .u32("attention.kv_lora_rank", 4)
        .u32("attention.key_length", 6)
        .u32("attention.value_length", 4)
        .u32("attention.key_length_mla", 6)
        .u32("attention.value_length_mla", 4)
        .u32("rope.dimension_count", 2)
        .u32("leading_dense_block_count", 1)
        .experts()
        .u32("expert_feed_forward_length", FF as u32)
        .u32("expert_shared_count", 1)
        .f32("expert_weights_scale", 2.5)
        .bool("expert_weights_norm", true)
        .u32("expert_gating_func", 2)
        .ends()
        .layers(&[NORM, ("attn_q_a_norm.weight", &[4]), ("attn_kv_a_norm.weight", &[4])])
        .layers(&[("attn_q_a.weight", &[WIDTH, 4]), ("attn_q_b.weight", &[4, 12])])
        .layers(&[("attn_kv_a_mqa.weight", &[WIDTH, 6]), ("attn_k_b.weight", &[4, 4, 2])])
        .layers(&[("attn_v_b.weight", &[4, 4, 2]), ("attn_output.weight", &[8, WIDTH]), FFN_NORM])
        .layer(0, &[GATE, UP, DOWN])
        .layer(1, &[ROUTER, ("exp_probs_b.bias", &[4]), GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS])
        .layer(1, &SHARED_EXPERT)
        .build()
}
