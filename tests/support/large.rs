//! Writes the file of a large model: a header as long as a real one's, and a hole in place of the weights.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The shape of Llama 3 with 70 billion parameters.
const WIDTH: u64 = 8192;
const HIDDEN: u64 = 28672;
const KEYS: u64 = 1024;
const VOCABULARY: u64 = 128_256;
const MERGES: u64 = 280_147;

/// How the weights are stored. Both come to about 40 GB.
#[derive(Clone, Copy)]
pub enum Weights {
    /// All 80 layers. CPUs with AVX2 use a rearranged copy of such weights instead of the file's pages.
    Q4K,
    /// The first 22 layers, as plain 16-bit numbers, which are used as they lie in the file.
    F16,
}

impl Weights {
    fn layers(self) -> u64 {
        match self {
            Self::Q4K => 80,
            Self::F16 => 22,
        }
    }

    /// Its number in the format, elements of a block, and bytes of a block.
    fn kind(self) -> (u32, u64, u64) {
        match self {
            Self::Q4K => (12, 256, 144),
            Self::F16 => (1, 1, 2),
        }
    }
}

/// Writes the file and returns its size in bytes, of which it takes a few million on the disk.
pub fn write(path: &Path, weights: Weights) -> io::Result<u64> {
    let tensors = tensors(weights);
    let mut header = Header::default();
    let mut entries = Header::default();
    entries.text("general.architecture", "llama").text("general.name", "large");
    for (key, value) in [
        ("context_length", 8192),
        ("embedding_length", WIDTH),
        ("block_count", weights.layers()),
        ("feed_forward_length", HIDDEN),
        ("attention.head_count", 64),
        ("attention.head_count_kv", 8),
        ("rope.dimension_count", 128),
        ("vocab_size", VOCABULARY),
    ] {
        entries.key(&format!("llama.{key}"), 4).u32(value as u32);
    }
    entries.key("llama.attention.layer_norm_rms_epsilon", 6).bytes(&1e-5f32.to_le_bytes());
    entries.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "llama-bpe");
    entries.array("tokenizer.ggml.tokens", 8, VOCABULARY);
    (0..VOCABULARY).for_each(|id| _ = entries.string(&format!("t{:05x}", spread(id))));
    entries.array("tokenizer.ggml.token_type", 5, VOCABULARY);
    (0..VOCABULARY).for_each(|_| _ = entries.u32(1));
    entries.array("tokenizer.ggml.merges", 8, MERGES);
    (0..MERGES).for_each(|id| _ = entries.string(&format!("t{:05x} t{:04x}", id, id % 65_000)));
    entries.key("tokenizer.ggml.bos_token_id", 4).u32(VOCABULARY as u32 - 2);
    entries.key("tokenizer.ggml.eos_token_id", 4).u32(VOCABULARY as u32 - 1);

    header.bytes(b"GGUF").u32(3).u64(tensors.len() as u64).u64(entries.count).bytes(&entries.bytes);
    let mut offset = 0;
    for (name, dims, (kind, block, size)) in tensors {
        header.string(&name).u32(dims.len() as u32);
        dims.iter().for_each(|&n| _ = header.u64(n));
        header.u32(kind).u64(offset);
        offset += (dims.iter().product::<u64>() / block * size).next_multiple_of(32);
    }
    let length = (header.bytes.len() as u64).next_multiple_of(32) + offset;
    let mut file = File::create(path)?;
    file.write_all(&header.bytes)?;
    file.set_len(length)?;
    Ok(length)
}

type Tensor = (String, Vec<u64>, (u32, u64, u64));

fn tensors(weights: Weights) -> Vec<Tensor> {
    let matrix = |name: String, from, to| (format!("{name}.weight"), vec![from, to], weights.kind());
    let norm = |name: String| (format!("{name}.weight"), vec![WIDTH], (0, 1, 4));
    let mut tensors = vec![matrix("token_embd".into(), WIDTH, VOCABULARY), norm("output_norm".into())];
    tensors.push(matrix("output".into(), WIDTH, VOCABULARY));
    for layer in 0..weights.layers() {
        tensors.extend(["attn_norm", "ffn_norm"].map(|name| norm(format!("blk.{layer}.{name}"))));
        tensors.extend(
            [
                ("attn_q", WIDTH, WIDTH),
                ("attn_k", WIDTH, KEYS),
                ("attn_v", WIDTH, KEYS),
                ("attn_output", WIDTH, WIDTH),
                ("ffn_gate", WIDTH, HIDDEN),
                ("ffn_up", WIDTH, HIDDEN),
                ("ffn_down", HIDDEN, WIDTH),
            ]
            .map(|(name, from, to)| matrix(format!("blk.{layer}.{name}"), from, to)),
        );
    }
    tensors
}

/// Another number for each: vocabularies are not sorted.
fn spread(id: u64) -> u64 {
    (id * 0x9e37) % 0x10_0003
}

#[derive(Default)]
struct Header {
    bytes: Vec<u8>,
    /// Keys so far.
    count: u64,
}

impl Header {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn string(&mut self, text: &str) -> &mut Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn key(&mut self, key: &str, kind: u32) -> &mut Self {
        self.count += 1;
        self.string(key).u32(kind)
    }

    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key, 8).string(value)
    }

    fn array(&mut self, key: &str, kind: u32, count: u64) -> &mut Self {
        self.key(key, 9).u32(kind).u64(count)
    }
}
