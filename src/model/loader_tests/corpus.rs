//! The corpus: `tests/corpus/gguf`, small files that once ended a process.
//!
//! Each is written down here, with what this reader says of it; `LLAMAPEN_BLESS=1 cargo test corpus` writes the files.
//! A file that a fuzzer finds may also lie there as it is.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::child::Child;
use crate::model::gguf::builder::Builder;
use crate::model::{GgmlType, Gguf, ModelInfo, seeds};

const MAX_BYTES: usize = 8192;

/// A name, a file, and a part of the message that refuses it.
type Entry = (&'static str, Vec<u8>, &'static str);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf")
}

fn entries() -> Vec<Entry> {
    let mut entries = published();
    entries.extend(found());
    entries
}

/// Files that reports about llama.cpp describe, named by the numbers of the reports.
fn published() -> Vec<Entry> {
    // A key of no bytes and a value of one: assertion in the key's constructor.
    let mut empty_key = Builder::new().raw("", 7, &[1]).header();
    empty_key.truncate(37);
    // One tensor of 4 by 0 elements: division by zero.
    let zero = Builder::new().raw_tensor(b"blk.0.attn_output.weight", &[4, 0], 0, 0, 0).header();
    let zero_short = Builder::new().raw_tensor(b"t.weight", &[4, 0], 0, 0, 0).build();
    let llama = || small(Builder::llama());
    let unigram = small(seed("phi3")).text("tokenizer.ggml.model", "t5");
    vec![
        ("24884-empty-key", empty_key, "the metadata takes 14 bytes, 13 are left"),
        ("24263-zero-dimension", zero, "at least 1"),
        ("26946-zero-dimension", zero_short, "at least 1"),
        ("26946-no-layers", llama().u32("llama.block_count", 0).build(), "1 to 512"),
        ("24885-equal-tokens", llama().texts("tokenizer.ggml.tokens", &["a", "b", "a", "c"]).build(), "more than once"),
        ("24885-no-bos", unigram.build(), "one of 9 tokens"),
        ("huge-count", huge_count(), "takes"),
    ]
}

fn huge_count() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.entry_count = Some(1 << 16);
    builder.header()
}

/// Files that the mutants of this folder came from.
fn found() -> Vec<Entry> {
    let phi3 = || small(seed("phi3"));
    let one = |name: &str| layer(name, 0);
    let heads_per_layer = phi3().u32s("phi3.attention.head_count_kv", &[1, 2]);
    let mut head_size = ["attention.key_length", "attention.value_length", "rope.dimension_count"]
        .iter()
        .fold(phi3(), |builder, suffix| builder.u32(&format!("phi3.{suffix}"), 2));
    head_size.replace_number(16, 12, || false);
    head_size.replace_number(2, 1, || false);
    let latent_key = one("deepseek2").u32("deepseek2.attention.key_length", 12);
    let latent_heads = one("deepseek2").without("deepseek2.attention.head_count_kv");
    let experts = small(seed("llama-experts")).u32s("llama.expert_used_count", &[0, 3]);
    let gating =
        layer("deepseek2", 1).u32("deepseek2.leading_dense_block_count", 0).u32("deepseek2.expert_gating_func", 511);
    let mut rwkv = layer("rwkv7", 0);
    for tensor in &mut rwkv.tensors {
        tensor.number = GgmlType::F32.number();
    }
    rwkv.replace_number(64, 4, || true);
    let latent_pairs = small(seed("minicpm3")).u32("minicpm3.attention.head_count_kv", 1);
    let temperature = one("deepseek2").f32("deepseek2.attention.temperature_scale", 1.0);
    let window_heads = one("gpt-oss").u32("gpt-oss.attention.key_length_swa", 5);
    let position_bias = without(one("t5").u32("t5.decoder_block_count", 1), "dec.blk.0.attn_rel_b.weight");
    let mut norm_type = one("falcon-h1");
    norm_type
        .tensors
        .iter_mut()
        .filter(|t| t.name == b"blk.0.ffn_norm")
        .for_each(|t| t.number = GgmlType::I32.number());
    vec![
        ("latent-pairs", latent_pairs.build(), "2, one for each query head"),
        ("temperature-without-length", temperature.build(), "temperature_length"),
        ("head-size-by-window", window_heads.build(), "4 to 4"),
        ("norm-of-indices", norm_type.build(), "expected F32, found I32"),
        ("position-bias-missing", position_bias.build(), "dec.blk.0.attn_rel_b"),
        ("groups-of-plamo2", one("plamo2").u32("plamo2.ssm.group_count", 1).build(), "0 to 0"),
        ("no-layers-but-drafts", one("glm4moe").u32("glm4moe.nextn_predict_layers", 1).build(), "0 to 0"),
        ("heads-per-layer", heads_per_layer.build(), "1 in every layer"),
        ("hybrid-without-attention", one("lfm2").build(), "a layer with attention"),
        ("hybrid-without-recurrence", layer("lfm2", 1).build(), "a recurrent layer"),
        ("head-size-beside-width", head_size.build(), "fill the width 8"),
        ("projection-missing", without(phi3(), "blk.1.attn_qkv.weight").build(), "attn_qkv"),
        ("convolution-bias-missing", without(one("falcon-h1"), "blk.0.ssm_conv1d.bias").build(), "ssm_conv1d.bias"),
        ("latent-key-length", latent_key.build(), "6, the latent"),
        ("latent-heads", latent_heads.build(), "expected 1, found 2"),
        ("experts-per-layer", experts.build(), "0 in every"),
        ("expert-gating", gating.build(), "0 to 4"),
        ("rwkv-short-heads", rwkv.build(), "a multiple of 64"),
    ]
}

fn seed(name: &str) -> Builder {
    seeds::all().into_iter().find(|(known, _)| *known == name).expect("a seed of this name").1
}

/// Halves the matrices that may be of another type.
fn small(mut builder: Builder) -> Builder {
    for tensor in &mut builder.tensors {
        let name = String::from_utf8_lossy(&tensor.name).into_owned();
        let multiplied = ["attn_", "ffn_", "token_embd.", "shortconv.", "ssm_in.", "ssm_x.", "ssm_dt.", "ssm_out."]
            .iter()
            .any(|part| name.contains(part));
        if multiplied && tensor.dims.len() > 1 && tensor.number == GgmlType::F32.number() && !name.contains("conv.conv")
        {
            tensor.number = GgmlType::F16.number();
        }
    }
    builder.lay_out();
    builder
}

/// A model of one layer of a seed.
fn layer(name: &str, kept: usize) -> Builder {
    let mut builder = seed(name);
    builder.keep_one_layer(kept);
    small(builder)
}

fn without(mut builder: Builder, name: &str) -> Builder {
    builder.tensors.retain(|tensor| tensor.name != name.as_bytes());
    builder.lay_out();
    builder
}

#[test]
fn corpus_is_as_written_down() {
    let bless = std::env::var_os("LLAMAPEN_BLESS").is_some();
    for (name, bytes, refusal) in entries() {
        let path = folder().join(format!("{name}.gguf"));
        if bless {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let there =
            std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; LLAMAPEN_BLESS=1 writes it", path.display()));
        assert!(there == bytes, "{name} differs; LLAMAPEN_BLESS=1 writes it");
        let error = Gguf::open(&path).and_then(|gguf| ModelInfo::from_gguf(&gguf)).expect_err(name).to_string();
        assert!(error.contains(refusal), "{name}: {error:?} should contain {refusal:?}");
    }
    let names: BTreeSet<_> = entries().iter().map(|entry| entry.0).collect();
    assert_eq!(names.len(), entries().len(), "every entry has a name of its own");
    assert_eq!(entries()[0].1.len(), 37);
    assert_eq!(entries()[1].1.len(), 88);
}

/// The whole folder, also what is not written down.
#[test]
fn corpus_files_do_no_harm() {
    let mut child = Child::start();
    let mut files = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() < MAX_BYTES, "{}: {} bytes", path.display(), bytes.len());
        if super::accepted(&bytes) {
            child.run(&bytes).unwrap_or_else(|death| panic!("{}: {death}", path.display()));
        }
        files += 1;
    }
    assert!(files >= entries().len());
}

/// That llama.cpp dies of what was found. Where it does no more, after the pin was moved, a check may go.
#[test]
#[ignore = "of interest when the pin moves; memory faults need not show on every machine"]
fn found_files_end_the_loader() {
    let mut child = Child::start();
    let survived = |(name, bytes, _): Entry| child.run(&bytes).ok().map(|outcome| format!("{name}: {outcome}"));
    let survived: Vec<String> = found().into_iter().filter_map(survived).collect();
    assert!(survived.is_empty(), "{survived:?}");
}
