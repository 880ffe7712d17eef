//! Recurrent and hybrid models.

use super::*;

/// Mamba 1 with an inner width of 16, a state of 4 and a rank of 2.
const MAMBA: [(&str, &[u64]); 9] = [
    ("ssm_in.weight", &[WIDTH, 32]),
    ("ssm_conv1d.weight", &[4, 16]),
    ("ssm_conv1d.bias", &[16]),
    ("ssm_x.weight", &[16, 10]),
    ("ssm_dt.weight", &[2, 16]),
    ("ssm_dt.bias", &[16]),
    ("ssm_a", &[4, 16]),
    ("ssm_d", &[16]),
    ("ssm_out.weight", &[16, WIDTH]),
];

/// Mamba 2 with an inner width of 16, a state of 4, four heads and two groups.
const MAMBA2: [(&str, &[u64]); 8] = [
    ("ssm_in.weight", &[WIDTH, 52]),
    ("ssm_conv1d.weight", &[4, 32]),
    ("ssm_conv1d.bias", &[32]),
    ("ssm_dt.bias", &[4]),
    ("ssm_a", &[1, 4]),
    ("ssm_d", &[1, 4]),
    ("ssm_norm.weight", &[8, 2]),
    ("ssm_out.weight", &[16, WIDTH]),
];

pub(super) fn mamba() -> Builder {
    Model::new("mamba", Words::Bpe)
        .u32("attention.head_count", 0)
        .rms()
        .ssm(16, 2)
        .bool("ssm.dt_b_c_rms", false)
        .ends()
        .layers(&[NORM])
        .layers(&MAMBA)
        .build()
}

pub(super) fn mamba2() -> Builder {
    Model::new("mamba2", Words::Bpe)
        .u32("attention.head_count", 0)
        .rms()
        .ssm(16, 4)
        .u32("ssm.group_count", 2)
        .ends()
        .layers(&[NORM])
        .layers(&MAMBA2)
        .build()
}

/// A recurrent layer with experts and an attention layer without.
pub(super) fn jamba() -> Builder {
    Model::new("jamba", Words::SentencePiece)
        .u32("attention.head_count", 2)
        .u32s("attention.head_count_kv", &[0, 1])
        .rms()
        .ssm(16, 2)
        .experts()
        .ends()
        .layers(&[NORM, FFN_NORM])
        .layer(0, &MAMBA)
        .layer(0, &[("ssm_dt_norm.weight", &[2]), ("ssm_b_norm.weight", &[4]), ("ssm_c_norm.weight", &[4])])
        .layer(0, &[ROUTER, GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS])
        .layer(1, &[Q, K, V, OUT, GATE, UP, DOWN])
        .build()
}

/// Both kinds in every layer.
pub(super) fn falcon_h1() -> Builder {
    Model::new("falcon-h1", Words::Bpe)
        .heads()
        .rms()
        .ssm(16, 4)
        .u32("ssm.group_count", 2)
        .ends()
        .layers(&[NORM, Q, K, V, OUT, ("ffn_norm", &[WIDTH]), GATE, UP, DOWN])
        .layers(&MAMBA2)
        .build()
}

pub(super) fn granite_hybrid() -> Builder {
    Model::new("granitehybrid", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "refact"))
        .u32("attention.head_count", 2)
        .u32s("attention.head_count_kv", &[0, 1])
        .rms()
        .ssm(16, 4)
        .u32("ssm.group_count", 2)
        .f32("logit_scale", 8.0)
        .f32("residual_scale", 0.2)
        .f32("embedding_scale", 12.0)
        .ends()
        .layers(&[NORM, FFN_NORM, GATE, UP, DOWN])
        .layer(0, &MAMBA2)
        .layer(1, &[Q, K, V, OUT])
        .build()
}

/// A recurrent layer, one that is nothing but experts, and one that is nothing but attention.
pub(super) fn nemotron_h_moe() -> Builder {
    let half = FF / 2;
    Model::new("nemotron_h_moe", Words::Bpe)
        .u32("attention.head_count", 2)
        .u32("block_count", 3)
        .u32s("attention.head_count_kv", &[0, 0, 1])
        .u32s("feed_forward_length", &[0, FF as u32, 0])
        .epsilon()
        .rms()
        .ssm(16, 4)
        .u32("ssm.group_count", 2)
        .experts()
        .u32("expert_feed_forward_length", half as u32)
        .u32("expert_shared_feed_forward_length", half as u32)
        .u32("expert_shared_count", 1)
        .bool("expert_weights_norm", true)
        .ends()
        .layers(&[NORM])
        .layer(0, &MAMBA2)
        .layer(1, &[ROUTER, ("exp_probs_b.bias", &[4])])
        .layer(1, &[("ffn_down_exps.weight", &[half, WIDTH, 4]), ("ffn_up_exps.weight", &[WIDTH, half, 4])])
        .layer(1, &[("ffn_down_shexp.weight", &[half, WIDTH]), ("ffn_up_shexp.weight", &[WIDTH, half])])
        .layer(2, &[NORM, Q, K, V, OUT])
        .build()
}

/// A short convolution and an attention layer.
pub(super) fn lfm2() -> Builder {
    let model = Model::new("lfm2", Words::Bpe);
    let vocab = model.vocab;
    model
        .with(|b| b.text("tokenizer.ggml.pre", "lfm2"))
        .u32("attention.head_count", 2)
        .u32s("attention.head_count_kv", &[0, 1])
        .rms()
        .u32("shortconv.l_cache", 3)
        .tensor("token_embd.weight", &[WIDTH, vocab])
        .tensor("token_embd_norm.weight", &[WIDTH])
        .layers(&[NORM, FFN_NORM, GATE, UP, DOWN])
        .layer(0, &[("shortconv.conv.weight", &[3, WIDTH]), ("shortconv.in_proj.weight", &[WIDTH, 24])])
        .layer(0, &[("shortconv.out_proj.weight", &[WIDTH, WIDTH])])
        .layer(1, &[Q, K, V, OUT, ("attn_q_norm.weight", &[4]), ("attn_k_norm.weight", &[4])])
        .build()
}

/// A recurrent layer with a fixed rank of 64, and an attention layer.
pub(super) fn plamo2() -> Builder {
    Model::new("plamo2", Words::SentencePiece)
        .u32("attention.head_count", 2)
        .u32s("attention.head_count_kv", &[0, 1])
        .rms()
        .ssm(16, 4)
        .u32("ssm.group_count", 0)
        .u32("attention.key_length", 4)
        .u32("attention.value_length", 4)
        .ends()
        .layers(&[NORM, ("post_attention_norm", &[WIDTH]), FFN_NORM, ("ffn_up.weight", &[WIDTH, 2 * FF]), DOWN])
        .layers(&[("post_ffw_norm", &[WIDTH])])
        .layer(0, &[("ssm_in.weight", &[WIDTH, 32]), ("ssm_conv1d.weight", &[4, 16]), ("ssm_x.weight", &[16, 72])])
        .layer(0, &[("ssm_dt.weight", &[64, 4]), ("ssm_dt.bias", &[4]), ("ssm_a", &[4]), ("ssm_d", &[4])])
        .layer(
            0,
            &[("ssm_out.weight", &[16, WIDTH]), ("ssm_dt_norm", &[64]), ("ssm_b_norm", &[4]), ("ssm_c_norm", &[4])],
        )
        .layer(1, &[("attn_qkv.weight", &[WIDTH, 16]), ("attn_q_norm.weight", &[4, 2])])
        .layer(1, &[("attn_k_norm.weight", &[4, 1]), OUT])
        .build()
}

/// A gated delta net and an attention layer with a gate.
pub(super) fn qwen3next() -> Builder {
    Model::new("qwen3next", Words::Bpe)
        .with(|b| b.text("tokenizer.ggml.pre", "qwen2"))
        .heads()
        .rms()
        .ssm(16, 4)
        .u32("ssm.group_count", 2)
        .u32("full_attention_interval", 2)
        .experts()
        .u32("expert_feed_forward_length", FF as u32)
        .u32("expert_shared_feed_forward_length", FF as u32)
        .ends()
        .layers(&[NORM, ("post_attention_norm.weight", &[WIDTH])])
        .layer(0, &[("attn_qkv.weight", &[WIDTH, 32]), ("attn_gate.weight", &[WIDTH, 16])])
        .layer(0, &[("ssm_conv1d.weight", &[4, 32]), ("ssm_dt.bias", &[4]), ("ssm_a", &[4])])
        .layer(0, &[("ssm_ba.weight", &[WIDTH, 8]), ("ssm_norm.weight", &[4]), ("ssm_out.weight", &[16, WIDTH])])
        .layer(1, &[("attn_q.weight", &[WIDTH, 16]), K, V, OUT])
        .layer(1, &[("attn_q_norm.weight", &[4]), ("attn_k_norm.weight", &[4])])
        .layers(&[ROUTER, GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS, ("ffn_gate_inp_shexp.weight", &[WIDTH])])
        .layers(&SHARED_EXPERT)
        .build()
}

/// The kernels take heads of 64 elements at least.
pub(super) fn rwkv7() -> Builder {
    const WIDTH: u64 = 64;
    let model = Model::new("rwkv7", Words::Rwkv);
    let vocab = model.vocab;
    let mut model = model
        .u32("embedding_length", WIDTH as u32)
        .u32("attention.head_count", 0)
        .epsilon()
        .u32("wkv.head_size", WIDTH as u32)
        .u32("token_shift_count", 2)
        .tensor("token_embd.weight", &[WIDTH, vocab])
        .tensor("output.weight", &[WIDTH, vocab]);
    for norm in ["token_embd_norm", "output_norm"] {
        model = model.tensor(&format!("{norm}.weight"), &[WIDTH]).tensor(&format!("{norm}.bias"), &[WIDTH]);
    }
    for rank in ["decay", "iclr", "value_residual_mix", "gate"] {
        model = model.u32(&format!("attention.{rank}_lora_rank"), 2);
    }
    for vector in ["w0", "a0", "v0", "k_k", "k_a", "r_k", "ln"] {
        model = model.layers(&[(&format!("time_mix_{vector}.weight"), &[WIDTH])]);
    }
    for lora in ["w", "a", "v", "g"] {
        model = model.layers(&[
            (&format!("time_mix_{lora}1.weight"), &[WIDTH, 2]),
            (&format!("time_mix_{lora}2.weight"), &[2, WIDTH]),
        ]);
    }
    for layer in 0..LAYERS {
        for matrix in ["key", "value", "receptance", "output"] {
            model = model.typed(&format!("blk.{layer}.time_mix_{matrix}.weight"), GgmlType::Q4_0, &[WIDTH, WIDTH]);
        }
    }
    model
        .layers(&[
            ("attn_norm.weight", &[WIDTH]),
            ("attn_norm.bias", &[WIDTH]),
            ("attn_norm_2.weight", &[WIDTH]),
            ("attn_norm_2.bias", &[WIDTH]),
        ])
        .layers(&[("time_mix_ln.bias", &[WIDTH]), ("time_mix_lerp_fused.weight", &[WIDTH, 1, 1, 6])])
        .layers(&[("channel_mix_lerp_k.weight", &[WIDTH, 1, 1]), ("channel_mix_key.weight", &[WIDTH, FF])])
        .layers(&[("channel_mix_value.weight", &[FF, WIDTH])])
        .build()
}
