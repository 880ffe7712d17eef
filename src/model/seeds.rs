//! Tiny models that llama.cpp loads for real: what the tests of broken files start from.
//!
//! Each has one layer of every kind that its architecture knows, a width of a few elements and weights of zero, so that
//! a file takes a few kilobytes and loads in a millisecond.

use super::GgmlType;
use super::gguf::builder::Builder;

const WIDTH: u64 = 8;
const FF: u64 = 12;
const LAYERS: u32 = 2;

/// A model by name. The names are those of architectures, with an addition where there are several of one.
pub(in crate::model) type Seed = (&'static str, Builder);

pub(in crate::model) fn all() -> Vec<Seed> {
    vec![
        ("llama", llama()),
        ("llama-experts", llama_experts()),
        ("qwen2", qwen2()),
        ("qwen3moe", qwen3moe()),
        ("gemma2", gemma2()),
        ("gemma3", gemma3()),
        ("phi3", phi3()),
        ("gpt2", gpt2()),
        ("bert", bert()),
        ("t5", t5()),
        ("mamba", mamba()),
        ("mamba2", mamba2()),
        ("jamba", jamba()),
        ("falcon-h1", falcon_h1()),
        ("granitehybrid", granite_hybrid()),
        ("nemotron_h_moe", nemotron_h_moe()),
        ("lfm2", lfm2()),
        ("rwkv7", rwkv7()),
        ("deepseek2", deepseek2()),
        ("qwen3next", qwen3next()),
    ]
}

/// A model under construction: keys are prefixed with the architecture, vectors and matrices are in F32.
struct Model {
    builder: Builder,
    architecture: &'static str,
    vocab: u64,
}

#[derive(Clone, Copy)]
enum Words {
    Bpe,
    SentencePiece,
    WordPiece,
    Unigram,
    Rwkv,
}

impl Model {
    fn new(architecture: &'static str, words: Words) -> Self {
        let builder = Builder::new().text("general.architecture", architecture).text("general.name", "tiny");
        let (builder, vocab) = vocabulary(builder, words);
        Self { builder, architecture, vocab }
            .u32("context_length", 64)
            .u32("embedding_length", WIDTH as u32)
            .u32("block_count", LAYERS)
            .u32("feed_forward_length", FF as u32)
    }

    fn with(mut self, change: impl FnOnce(Builder) -> Builder) -> Self {
        self.builder = change(self.builder);
        self
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    fn u32(self, suffix: &str, value: u32) -> Self {
        let key = self.key(suffix);
        self.with(|b| b.u32(&key, value))
    }

    fn u32s(self, suffix: &str, values: &[u32]) -> Self {
        let key = self.key(suffix);
        self.with(|b| b.u32s(&key, values))
    }

    fn f32(self, suffix: &str, value: f32) -> Self {
        let key = self.key(suffix);
        self.with(|b| b.f32(&key, value))
    }

    fn bool(self, suffix: &str, value: bool) -> Self {
        let key = self.key(suffix);
        self.with(|b| b.bool(&key, value))
    }

    fn text(self, suffix: &str, value: &str) -> Self {
        let key = self.key(suffix);
        self.with(|b| b.text(&key, value))
    }

    /// Two query heads of four elements and one key-value head.
    fn heads(self) -> Self {
        self.u32("attention.head_count", 2).u32("attention.head_count_kv", 1)
    }

    fn rms(self) -> Self {
        self.f32("attention.layer_norm_rms_epsilon", 1e-6)
    }

    fn epsilon(self) -> Self {
        self.f32("attention.layer_norm_epsilon", 1e-5)
    }

    fn ssm(self, inner: u32, rank: u32) -> Self {
        self.u32("ssm.conv_kernel", 4)
            .u32("ssm.inner_size", inner)
            .u32("ssm.state_size", 4)
            .u32("ssm.time_step_rank", rank)
    }

    fn experts(self) -> Self {
        self.u32("expert_count", 4).u32("expert_used_count", 2)
    }

    fn tensor(self, name: &str, dims: &[u64]) -> Self {
        self.typed(name, GgmlType::F32, dims)
    }

    fn typed(self, name: &str, ggml_type: GgmlType, dims: &[u64]) -> Self {
        self.with(|b| b.tensor(name, ggml_type, dims))
    }

    /// Tensors of layer `layer`, by the ends of their names.
    fn layer(mut self, layer: u32, tensors: &[(&str, &[u64])]) -> Self {
        for (name, dims) in tensors {
            self = self.tensor(&format!("blk.{layer}.{name}"), dims);
        }
        self
    }

    /// The same tensors in every layer.
    fn layers(mut self, tensors: &[(&str, &[u64])]) -> Self {
        for layer in 0..LAYERS {
            self = self.layer(layer, tensors);
        }
        self
    }

    /// Embeddings, tied to the output, and the last norm.
    fn ends(self) -> Self {
        let vocab = self.vocab;
        self.tensor("token_embd.weight", &[WIDTH, vocab]).tensor("output_norm.weight", &[WIDTH])
    }

    fn build(self) -> Builder {
        self.builder
    }
}

const NORM: (&str, &[u64]) = ("attn_norm.weight", &[WIDTH]);
const FFN_NORM: (&str, &[u64]) = ("ffn_norm.weight", &[WIDTH]);
const Q: (&str, &[u64]) = ("attn_q.weight", &[WIDTH, 8]);
const K: (&str, &[u64]) = ("attn_k.weight", &[WIDTH, 4]);
const V: (&str, &[u64]) = ("attn_v.weight", &[WIDTH, 4]);
const OUT: (&str, &[u64]) = ("attn_output.weight", &[8, WIDTH]);
const GATE: (&str, &[u64]) = ("ffn_gate.weight", &[WIDTH, FF]);
const UP: (&str, &[u64]) = ("ffn_up.weight", &[WIDTH, FF]);
const DOWN: (&str, &[u64]) = ("ffn_down.weight", &[FF, WIDTH]);
const ROUTER: (&str, &[u64]) = ("ffn_gate_inp.weight", &[WIDTH, 4]);
const GATE_EXPERTS: (&str, &[u64]) = ("ffn_gate_exps.weight", &[WIDTH, FF, 4]);
const UP_EXPERTS: (&str, &[u64]) = ("ffn_up_exps.weight", &[WIDTH, FF, 4]);
const DOWN_EXPERTS: (&str, &[u64]) = ("ffn_down_exps.weight", &[FF, WIDTH, 4]);

/// Adds a vocabulary of a few tokens; returns how many.
fn vocabulary(builder: Builder, words: Words) -> (Builder, u64) {
    let id = |name: &str| format!("tokenizer.ggml.{name}_token_id");
    let (model, tokens): (&str, &[&str]) = match words {
        Words::Bpe => ("gpt2", &["<s>", "</s>", "a", "b", "ab", "Ġ", "Ġa", "Ċ", "<|x|>", "c", "d", "e"]),
        Words::SentencePiece => ("llama", &["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a", "ab"]),
        Words::WordPiece => ("bert", &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁a", "▁b", "b"]),
        Words::Unigram => ("t5", &["<pad>", "</s>", "<unk>", "▁", "a", "▁a", "b"]),
        Words::Rwkv => ("rwkv", &["<s>", "\\n", "a", "ab", "b", "<", " "]),
    };
    let n = tokens.len();
    let scores: Vec<f32> = (0..n).map(|i| -(i as f32)).collect();
    let mut types = vec![1; n];
    let builder = builder.text("tokenizer.ggml.model", model).texts("tokenizer.ggml.tokens", tokens);
    let builder = match words {
        Words::Bpe => {
            (types[0], types[1], types[8]) = (3, 3, 4);
            builder
                .text("tokenizer.ggml.pre", "smollm")
                .texts("tokenizer.ggml.merges", &["a b", "Ġ a"])
                .u32(&id("bos"), 0)
                .u32(&id("eos"), 1)
        }
        Words::SentencePiece => {
            (types[0], types[1], types[2], types[3]) = (2, 3, 3, 6);
            builder.f32s("tokenizer.ggml.scores", &scores).bool("tokenizer.ggml.add_bos_token", true)
        }
        Words::WordPiece => builder
            .u32("tokenizer.ggml.token_type_count", 2)
            .u32(&id("bos"), 2)
            .u32(&id("seperator"), 3)
            .u32(&id("unknown"), 1)
            .u32(&id("padding"), 0)
            .u32(&id("mask"), 4),
        Words::Unigram => {
            (types[0], types[1], types[2]) = (3, 3, 2);
            builder.f32s("tokenizer.ggml.scores", &scores).bool("tokenizer.ggml.add_eos_token", true)
        }
        Words::Rwkv => builder,
    };
    (builder.i32s("tokenizer.ggml.token_type", &types), n as u64)
}

fn llama() -> Builder {
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

fn llama_experts() -> Builder {
    Model::new("llama", Words::SentencePiece)
        .heads()
        .rms()
        .experts()
        .u32("vocab_size", 9)
        .ends()
        .layers(&[NORM, Q, K, V, OUT, FFN_NORM, ROUTER, GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS])
        .build()
}

fn qwen2() -> Builder {
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

fn qwen3moe() -> Builder {
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

fn gemma2() -> Builder {
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

fn gemma3() -> Builder {
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

fn phi3() -> Builder {
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

fn gpt2() -> Builder {
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

fn bert() -> Builder {
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

fn t5() -> Builder {
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

fn mamba() -> Builder {
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

fn mamba2() -> Builder {
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
fn jamba() -> Builder {
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
fn falcon_h1() -> Builder {
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

fn granite_hybrid() -> Builder {
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
fn nemotron_h_moe() -> Builder {
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
fn lfm2() -> Builder {
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

/// The kernels take heads of 64 elements at least.
fn rwkv7() -> Builder {
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

/// Latent attention: a dense layer and one with experts.
fn deepseek2() -> Builder {
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
        .layer(1, &[("ffn_gate_shexp.weight", &[WIDTH, FF]), ("ffn_up_shexp.weight", &[WIDTH, FF])])
        .layer(1, &[("ffn_down_shexp.weight", &[FF, WIDTH])])
        .build()
}

/// A gated delta net and an attention layer with a gate.
fn qwen3next() -> Builder {
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
        .layers(&[("ffn_gate_shexp.weight", &[WIDTH, FF]), ("ffn_up_shexp.weight", &[WIDTH, FF])])
        .layers(&[("ffn_down_shexp.weight", &[FF, WIDTH])])
        .build()
}
