//! Tiny models that llama.cpp loads for real: what the tests of broken files start from.
//!
//! Each has one layer of every kind that its architecture knows, a width of a few elements and weights of zero, so that
//! a file takes a few kilobytes and loads in a millisecond.

mod dense;
mod encoders;
mod experts;
mod recurrent;

use super::GgmlType;
use super::gguf::builder::Builder;

const WIDTH: u64 = 8;
const FF: u64 = 12;
const LAYERS: u32 = 2;

/// A model by name. The names are those of architectures, with an addition where there are several of one.
pub(in crate::model) type Seed = (&'static str, Builder);

pub(in crate::model) fn all() -> Vec<Seed> {
    vec![
        ("llama", dense::llama()),
        ("qwen2", dense::qwen2()),
        ("gemma2", dense::gemma2()),
        ("gemma3", dense::gemma3()),
        ("phi3", dense::phi3()),
        ("gpt2", dense::gpt2()),
        ("cohere2", dense::cohere2()),
        ("bloom", dense::bloom()),
        ("falcon", dense::falcon()),
        ("openelm", dense::openelm()),
        ("minicpm3", dense::minicpm3()),
        ("llama-experts", experts::llama_experts()),
        ("qwen3moe", experts::qwen3moe()),
        ("gpt-oss", experts::gpt_oss()),
        ("llama4", experts::llama4()),
        ("glm4moe", experts::glm4moe()),
        ("deepseek2", experts::deepseek2()),
        ("bert", encoders::bert()),
        ("modern-bert", encoders::modern_bert()),
        ("t5", encoders::t5()),
        ("mamba", recurrent::mamba()),
        ("mamba2", recurrent::mamba2()),
        ("jamba", recurrent::jamba()),
        ("falcon-h1", recurrent::falcon_h1()),
        ("granitehybrid", recurrent::granite_hybrid()),
        ("nemotron_h_moe", recurrent::nemotron_h_moe()),
        ("lfm2", recurrent::lfm2()),
        ("plamo2", recurrent::plamo2()),
        ("qwen3next", recurrent::qwen3next()),
        ("rwkv7", recurrent::rwkv7()),
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

const SHARED_EXPERT: [(&str, &[u64]); 3] = [
    ("ffn_gate_shexp.weight", &[WIDTH, FF]),
    ("ffn_up_shexp.weight", &[WIDTH, FF]),
    ("ffn_down_shexp.weight", &[FF, WIDTH]),
];

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
