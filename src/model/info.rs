//! What a header says about its model, in a form that can be kept, compared and sent.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::check;
use super::gguf::{Gguf, GgufError, Split, quoted};
use super::quantization;

#[cfg(test)]
mod tests;

/// A number per layer, stored once where all layers have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PerLayer {
    /// Every layer has this number.
    Uniform(u32),
    /// One number for each layer; at least two of them differ.
    Layers(Vec<u32>),
}

impl PerLayer {
    /// Takes the compact form where it can.
    pub(super) fn from_layers(layers: Vec<u32>) -> Self {
        match layers.split_first() {
            None => Self::Uniform(0),
            Some((&first, rest)) if rest.iter().all(|&n| n == first) => Self::Uniform(first),
            Some(_) => Self::Layers(layers),
        }
    }

    /// The number of layer `layer`, counted from 0. Past the last layer of [`PerLayer::Layers`] it is 0.
    #[must_use]
    pub fn get(&self, layer: u32) -> u32 {
        match self {
            Self::Uniform(n) => *n,
            Self::Layers(layers) => layers.get(layer as usize).copied().unwrap_or(0),
        }
    }

    /// The largest number of any layer.
    #[must_use]
    pub fn max(&self) -> u32 {
        match self {
            Self::Uniform(n) => *n,
            Self::Layers(layers) => layers.iter().copied().max().unwrap_or(0),
        }
    }

    /// The numbers of the first `n_layer` layers.
    pub fn iter(&self, n_layer: u32) -> impl Iterator<Item = u32> {
        (0..n_layer).map(|layer| self.get(layer))
    }
}

/// Sizes of a state space layer, as in Mamba.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SsmInfo {
    /// Length of the convolution (`ssm.conv_kernel`), at least 1.
    pub d_conv: u32,
    /// Inner width in elements (`ssm.inner_size`), at least 1.
    pub d_inner: u32,
    /// State size in elements (`ssm.state_size`), at least 1.
    pub d_state: u32,
    /// Rank of the time step, or number of heads in Mamba 2 (`ssm.time_step_rank`); 0 if not stated.
    pub dt_rank: u32,
    /// Number of groups (`ssm.group_count`); 0 if not stated.
    pub n_group: u32,
}

/// A model as its header describes it.
///
/// In key names `{arch}` stands for the architecture. Values come from a header that was checked, so the ranges below
/// hold for every value made by [`ModelInfo::from_gguf`]; one that was deserialized can hold anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Architecture, such as `llama` (`general.architecture`).
    pub architecture: String,
    /// The model's own name (`general.name`).
    pub name: Option<String>,
    /// Context length in tokens that the model was trained with, 1 to 2^31-1 (`{arch}.context_length`).
    pub n_ctx_train: u32,
    /// Number of layers, 1 to 512 (`{arch}.block_count`).
    pub n_layer: u32,
    /// Number of attention heads in the layer that has the most; 0 in a model without attention
    /// (`{arch}.attention.head_count`).
    pub n_head: u32,
    /// Number of key-value heads per layer; 0 in layers without attention (`{arch}.attention.head_count_kv`, else
    /// `{arch}.attention.head_count`).
    pub n_head_kv: PerLayer,
    /// Width of the embeddings in elements, at least 1 (`{arch}.embedding_length`).
    pub n_embd: u32,
    /// Elements of one key head (`{arch}.attention.key_length`, else width by heads); 0 without attention.
    pub n_embd_head_k: u32,
    /// Elements of one value head (`{arch}.attention.value_length`, else width by heads); 0 without attention.
    pub n_embd_head_v: u32,
    /// Inner width of the feed-forward part per layer, in elements; 0 where there is none
    /// (`{arch}.feed_forward_length`).
    pub n_ff: PerLayer,
    /// Number of tokens in the vocabulary (length of `tokenizer.ggml.tokens`, or `{arch}.vocab_size` without one).
    pub n_vocab: u32,
    /// Quantization as people name it, such as `Q4_K - Medium` (from `general.file_type`, else the type that most of
    /// the tensor bytes have).
    pub quantization: String,
    /// The Jinja template that turns messages into a prompt (`tokenizer.chat_template`).
    pub chat_template: Option<String>,
    /// Kind of tokenizer, such as `gpt2` or `llama` (`tokenizer.ggml.model`).
    pub tokenizer_model: Option<String>,
    /// Kind of pre-tokenizer (`tokenizer.ggml.pre`).
    pub tokenizer_pre: Option<String>,
    /// Id of the token that begins a text, below `n_vocab` (`tokenizer.ggml.bos_token_id`).
    pub bos_token_id: Option<u32>,
    /// Id of the token that ends a text, below `n_vocab` (`tokenizer.ggml.eos_token_id`).
    pub eos_token_id: Option<u32>,
    /// Whether prompts begin with that token (`tokenizer.ggml.add_bos_token`).
    pub add_bos: Option<bool>,
    /// Number of parameters: the elements of all tensors.
    pub n_params: u64,
    /// Bytes of all tensors, without padding.
    pub tensor_bytes: u64,
    /// Bytes of the file, or of all files of a split model together.
    pub file_bytes: u64,
    /// Bytes of the longest text in the vocabulary; no token decodes to more.
    pub max_token_bytes: u32,
    /// Number of experts per layer, up to 1024; 0 in a dense model (`{arch}.expert_count`).
    pub expert_count: u32,
    /// Experts used for each token, in the layer that uses the most; 0 in a dense model
    /// (`{arch}.expert_used_count`).
    pub expert_used_count: u32,
    /// Tokens that layers with a sliding window look back, at least 1 (`{arch}.attention.sliding_window`).
    pub sliding_window: Option<u32>,
    /// State space sizes of recurrent and hybrid models (`{arch}.ssm.*`).
    pub ssm: Option<SsmInfo>,
    /// Elements of one head of an RWKV model, at least 1 (`{arch}.wkv.head_size`).
    pub wkv_head_size: Option<u32>,
    /// Length of the short convolutions of an LFM2 model, at least 1 (`{arch}.shortconv.l_cache`).
    pub shortconv_l_cache: Option<u32>,
    /// How embeddings are pooled: 0 none, 1 mean, 2 first token, 3 last token, 4 rank (`{arch}.pooling_type`).
    pub pooling_type: Option<u32>,
    /// Whether attention looks only back; `false` in embedding models (`{arch}.attention.causal`).
    pub causal: Option<bool>,
    /// Part and number of parts, if the model is split over files (`split.no`, `split.count`).
    pub split: Option<Split>,
    /// Version of the file format, 2 or 3.
    pub gguf_version: u32,
    /// Alignment of the tensor data in bytes, a power of two (`general.alignment`, else 32).
    pub alignment: u32,
}

/// Architectures whose attention keeps no cache, encoders and diffusion models, and those that need an encoder's pass.
const WITHOUT_CACHE: &[&str] = &[
    "bert",
    "clef",
    "dream",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "llada",
    "llada-moe",
    "llama-embed",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "rnd1",
    "t5",
    "t5encoder",
];

impl ModelInfo {
    /// Whether the model reads texts as a whole, as encoders do. Decoding token by token is not what it is made for:
    /// with some of them llama.cpp asserts that it is not done.
    pub(crate) fn reads_as_a_whole(&self) -> bool {
        self.causal == Some(false) || WITHOUT_CACHE.contains(&self.architecture.as_str())
    }

    /// Checks a header against what llama.cpp demands of it and describes the model.
    ///
    /// For the first file of a split model, sizes and parameter counts cover that file alone; see
    /// [`ModelInfo::from_parts`]. Other parts carry no metadata and are refused.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, GgufError> {
        Self::describe(gguf, std::slice::from_ref(gguf))
    }

    /// The same for a model split over several files, whose headers are given in order. All parts must be there, and
    /// no tensor may be in two of them.
    pub fn from_parts(parts: &[Gguf]) -> Result<Self, GgufError> {
        let Some(first) = parts.first() else {
            return Err(GgufError::malformed(0, "a split model", "at least one part", "none"));
        };
        check_parts(first, parts)?;
        Self::describe(first, parts)
    }

    fn describe(first: &Gguf, parts: &[Gguf]) -> Result<Self, GgufError> {
        if let Some(split) = first.split().filter(|split| split.number > 0) {
            return Err(first.fault("split.no", "0, the part with the metadata", split.number));
        }
        let check::Checked { hparams, vocab } = check::check(first, parts)?;
        let size = |suffix: &str| {
            let stated = first.typed::<u32>(&format!("{}.{suffix}", hparams.architecture))?;
            Ok(stated.filter(|&size| size > 0))
        };
        let text = |key: &str| Ok(first.typed::<&str>(key)?.map(str::to_owned));
        let tensors = || parts.iter().flat_map(|part| part.tensors());
        Ok(Self {
            name: text("general.name")?,
            n_ctx_train: hparams.n_ctx_train,
            n_layer: hparams.n_layer,
            n_head: hparams.n_head.max(),
            n_head_kv: hparams.n_head_kv,
            n_embd: hparams.n_embd,
            n_embd_head_k: hparams.n_embd_head_k,
            n_embd_head_v: hparams.n_embd_head_v,
            n_ff: hparams.n_ff,
            n_vocab: vocab.n_tokens,
            quantization: quantization::label(parts)?,
            chat_template: text("tokenizer.chat_template")?,
            tokenizer_model: Some(vocab.model),
            tokenizer_pre: vocab.pre,
            bos_token_id: vocab.bos,
            eos_token_id: vocab.eos,
            add_bos: vocab.add_bos,
            n_params: tensors().fold(0, |sum: u64, t| sum.saturating_add(t.elements())),
            tensor_bytes: tensors().fold(0, |sum: u64, t| sum.saturating_add(t.bytes)),
            file_bytes: parts.iter().fold(0, |sum: u64, p| sum.saturating_add(p.file_bytes())),
            max_token_bytes: vocab.longest_bytes,
            expert_count: hparams.expert_count,
            expert_used_count: hparams.expert_used_count,
            sliding_window: hparams.sliding_window,
            ssm: hparams.ssm,
            wkv_head_size: size("wkv.head_size")?,
            shortconv_l_cache: size("shortconv.l_cache")?,
            pooling_type: hparams.pooling_type,
            causal: hparams.causal,
            split: first.split(),
            gguf_version: first.version(),
            alignment: first.alignment(),
            architecture: hparams.architecture,
        })
    }
}

/// Checks that the headers are the parts of one model, complete and in order.
fn check_parts(first: &Gguf, parts: &[Gguf]) -> Result<(), GgufError> {
    let Some(whole) = first.split() else {
        return match parts {
            [_] => Ok(()),
            _ => Err(first.fault("split.count", parts.len(), "no such key")),
        };
    };
    if parts.len() != usize::from(whole.count) {
        let found = format_args!("{} files", parts.len()).to_string();
        return Err(first.fault("split.count", format_args!("{} files", whole.count), found));
    }
    let mut names = BTreeSet::new();
    for (part, number) in parts.iter().zip(0..) {
        let expected = Split { number, ..whole };
        if part.split() != Some(expected) {
            let found = match part.split() {
                Some(s) => format!("part {} of {}, {} tensors", s.number, s.count, s.tensors),
                None => "no part".to_owned(),
            };
            let expected = format_args!("part {number} of {}, {} tensors", whole.count, whole.tensors);
            return Err(part.fault("split.no", expected, found));
        }
        for tensor in part.tensors() {
            if !names.insert(tensor.name.as_str()) {
                return Err(GgufError::malformed(
                    tensor.entry_offset,
                    format_args!("the name of tensor {}", quoted(&tensor.name)),
                    "a name not used in another part",
                    "a duplicate",
                ));
            }
        }
    }
    if names.len() != whole.tensors as usize {
        return Err(first.fault("split.tensors.count", names.len(), whole.tensors));
    }
    Ok(())
}
