//! Encoders, alone and with a decoder.

use super::*;

pub(super) fn bert() -> Builder {
    let model = Model::new("bert", Words::WordPiece);
    let vocab = model.vocab;
    model
        .u32("attention.head_count", 2)
        .epsilon()
        .bool("attention.causal", false)
        .u32("pooling_type", 1)
        .tensor("token_embd.weight", &[WIDTH, vocab])
        .tensor("token_types.weight", &[WIDTH, 2])
        .tensor("position_embd.weight", &[WIDTH, 64])
        .tensor("token_embd_norm.weight", &[WIDTH])
        .tensor("token_embd_norm.bias", &[WIDTH])
        .layers(&[("attn_qkv.weight", &[WIDTH, 24]), ("attn_qkv.bias", &[24]), OUT, ("attn_output.bias", &[WIDTH])])
        .layers(&[("attn_output_norm.weight", &[WIDTH]), ("attn_output_norm.bias", &[WIDTH])])
        .layers(&[UP, ("ffn_up.bias", &[FF]), DOWN, ("ffn_down.bias", &[WIDTH])])
        .layers(&[("layer_output_norm.weight", &[WIDTH]), ("layer_output_norm.bias", &[WIDTH])])
        .build()
}

/// An encoder with a window, and without a norm before its first layer.
pub(super) fn modern_bert() -> Builder {
    Model::new("modern-bert", Words::Bpe)
        .u32("attention.head_count", 2)
        .epsilon()
        .bool("attention.causal", false)
        .u32("attention.sliding_window", 8)
        .u32("attention.sliding_window_pattern", 2)
        .f32("rope.freq_base_swa", 10_000.0)
        .ends()
        .tensor("token_embd_norm.weight", &[WIDTH])
        .layer(1, &[NORM])
        .layers(&[("attn_qkv.weight", &[WIDTH, 24]), OUT, FFN_NORM, ("ffn_up.weight", &[WIDTH, 2 * FF]), DOWN])
        .build()
}

pub(super) fn t5() -> Builder {
    let model = Model::new("t5", Words::Unigram);
    let vocab = model.vocab;
    let mut model = model
        .u32("attention.head_count", 2)
        .rms()
        .u32("attention.key_length", 4)
        .u32("attention.value_length", 4)
        .u32("attention.relative_buckets_count", 8)
        .u32("decoder_start_token_id", 0)
        .u32("decoder_block_count", LAYERS)
        .tensor("token_embd.weight", &[WIDTH, vocab])
        .tensor("enc.output_norm.weight", &[WIDTH])
        .tensor("dec.output_norm.weight", &[WIDTH])
        .tensor("enc.blk.0.attn_rel_b.weight", &[2, 8])
        .tensor("dec.blk.0.attn_rel_b.weight", &[2, 8]);
    for layer in 0..LAYERS {
        for (part, kinds) in [("enc", &["attn"][..]), ("dec", &["attn", "cross_attn"])] {
            let name = |end: &str| format!("{part}.blk.{layer}.{end}.weight");
            for kind in kinds {
                model = model.tensor(&name(&format!("{kind}_norm")), &[WIDTH]);
                for end in ["q", "k", "v", "o"] {
                    model = model.tensor(&name(&format!("{kind}_{end}")), &[WIDTH, 8]);
                }
            }
            model = model.tensor(&name("ffn_norm"), &[WIDTH]);
            model = model.tensor(&name("ffn_up"), &[WIDTH, FF]).tensor(&name("ffn_down"), &[FF, WIDTH]);
        }
    }
    model.build()
}
