//! What is told about a model, of synthetic files and of a real one.

use super::*;
use crate::model::gguf::builder::Builder;
use crate::model::{GgmlType, read_header};

fn info(builder: &Builder) -> ModelInfo {
    ModelInfo::from_gguf(&builder.read().unwrap()).unwrap()
}

#[test]
fn describes_a_model() {
    let builder = Builder::llama();
    let info = info(&builder);
    assert_eq!(info.architecture, "llama");
    assert_eq!(info.name.as_deref(), Some("tiny"));
    assert_eq!((info.n_ctx_train, info.n_layer, info.n_embd), (128, 2, 64));
    assert_eq!((info.n_head, info.n_head_kv), (4, PerLayer::Uniform(2)));
    assert_eq!((info.n_embd_head_k, info.n_embd_head_v), (16, 16));
    assert_eq!(info.n_ff, PerLayer::Uniform(96));
    assert_eq!((info.n_vocab, info.max_token_bytes), (4, 3));
    assert_eq!(info.tokenizer_model.as_deref(), Some("gpt2"));
    assert_eq!(info.tokenizer_pre.as_deref(), Some("smollm"));
    assert_eq!((info.bos_token_id, info.eos_token_id, info.add_bos), (Some(0), None, None));
    assert_eq!(info.n_params, 256 + 64 + 64);
    assert_eq!(info.tensor_bytes, 272 + 512);
    assert_eq!(info.file_bytes, builder.build().len() as u64);
    // No file type is stated; most bytes are in the norms of this tiny model.
    assert_eq!(info.quantization, "F32");
    assert_eq!((info.expert_count, info.expert_used_count), (0, 0));
    assert_eq!((info.sliding_window, info.ssm, info.split), (None, None, None));
    assert_eq!((info.gguf_version, info.alignment), (3, 32));
}

#[test]
fn quantization_is_named_as_llama_cpp_does() {
    let stated = |number| info(&Builder::llama().u32("general.file_type", number)).quantization;
    assert_eq!(stated(3), "Q4_1");
    assert_eq!(stated(15), "Q4_K - Medium");
    assert_eq!(stated(1024 + 7), "Q8_0");
    assert_eq!(stated(999), "F32");
    let large = Builder::llama().tensor("output.weight", GgmlType::Q6_K, &[256, 64]);
    assert_eq!(info(&large).quantization, "Q6_K");
}

#[test]
fn optional_facts() {
    let info = info(
        &Builder::llama()
            .text("tokenizer.chat_template", "{{ messages }}")
            .u32("tokenizer.ggml.eos_token_id", 99)
            .bool("tokenizer.ggml.add_bos_token", false)
            .u32("llama.attention.sliding_window", 16)
            .u32("llama.pooling_type", 1)
            .bool("llama.attention.causal", false)
            .u32("llama.expert_count", 8)
            .u32("llama.expert_used_count", 2),
    );
    assert_eq!(info.chat_template.as_deref(), Some("{{ messages }}"));
    // An id outside the vocabulary is ignored, as llama.cpp does.
    assert_eq!(info.eos_token_id, None);
    assert_eq!((info.add_bos, info.causal), (Some(false), Some(false)));
    assert_eq!((info.sliding_window, info.pooling_type), (Some(16), Some(1)));
    assert_eq!((info.expert_count, info.expert_used_count), (8, 2));
}

#[test]
fn numbers_per_layer_are_kept_compact() {
    let heads = |kv: &[u32]| {
        let openelm = Builder::llama().text("general.architecture", "openelm");
        let openelm = ["context_length", "embedding_length", "block_count", "attention.head_count"]
            .iter()
            .zip([128, 64, 2, 4])
            .fold(openelm, |builder, (suffix, n)| builder.u32(&format!("openelm.{suffix}"), n));
        info(&openelm.u32s("openelm.attention.head_count_kv", kv)).n_head_kv
    };
    assert_eq!(heads(&[2, 2]), PerLayer::Uniform(2));
    let varied = heads(&[1, 4]);
    assert_eq!(varied, PerLayer::Layers(vec![1, 4]));
    assert_eq!((varied.get(0), varied.get(1), varied.get(2), varied.max()), (1, 4, 0, 4));
    assert_eq!(varied.iter(2).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(PerLayer::Uniform(3).iter(2).collect::<Vec<_>>(), [3, 3]);
}

#[test]
fn serialization_round_trips() {
    let original = info(
        &Builder::llama()
            .u32s("llama.feed_forward_length", &[32, 96])
            .u16("split.no", 0)
            .u16("split.count", 2)
            .i32("split.tensors.count", 4),
    );
    assert!(original.split.is_some());
    let text = serde_json::to_string(&original).unwrap();
    assert_eq!(serde_json::from_str::<ModelInfo>(&text).unwrap(), original);
}

#[test]
fn split_models_are_put_together() {
    let split = |builder: Builder, number, tensors| {
        builder.u16("split.no", number).u16("split.count", 2).i32("split.tensors.count", tensors).read().unwrap()
    };
    let second = || Builder::new().tensor("output.weight", GgmlType::F16, &[64, 4]);
    let parts = [split(Builder::llama(), 0, 4), split(second(), 1, 4)];

    let whole = ModelInfo::from_parts(&parts).unwrap();
    assert_eq!(whole.n_params, 256 + 64 + 64 + 256);
    assert_eq!(whole.file_bytes, parts[0].file_bytes() + parts[1].file_bytes());
    assert_eq!(whole.split.unwrap().count, 2);
    // The first part alone tells the metadata and its own sizes.
    assert_eq!(ModelInfo::from_gguf(&parts[0]).unwrap().n_params, 256 + 64 + 64);

    let refused = |parts: &[Gguf], fragment: &str| {
        let message = ModelInfo::from_parts(parts).unwrap_err().to_string();
        assert!(message.contains(fragment), "{message}");
    };
    let [first, last] = &parts;
    refused(&[], "at least one part");
    refused(std::slice::from_ref(first), "expected 2 files, found 1 files");
    refused(&[last.clone(), first.clone()], "expected part 0 of 2");
    refused(&[first.clone(), first.clone()], "expected part 1 of 2");
    refused(&[first.clone(), split(Builder::new(), 1, 4)], "split.tensors.count");
    let again = Builder::new().tensor("output_norm.weight", GgmlType::F32, &[64]);
    refused(&[first.clone(), split(again, 1, 4)], "not used in another part");
    assert!(ModelInfo::from_gguf(last).unwrap_err().to_string().contains("split.no"));
    let single = Builder::llama().read().unwrap();
    assert!(ModelInfo::from_parts(std::slice::from_ref(&single)).is_ok());
    refused(&[single.clone(), single], "split.count");
}

/// The real model that the environment names, if it names one.
#[test]
fn a_real_model() {
    let Some(path) = std::env::var_os("LLAMAPEN_TEST_MODEL") else {
        eprintln!("LLAMAPEN_TEST_MODEL is not set: the real model is not read");
        return;
    };
    let gguf = read_header(path.as_ref()).unwrap();
    let info = ModelInfo::from_gguf(&gguf).unwrap();
    assert!(info.n_vocab > 0 && info.max_token_bytes > 0 && info.n_params > 0);
    assert_eq!(info.file_bytes, std::fs::metadata(&path).unwrap().len());
    // SmolLM2-135M is the model the project tests with; its facts are known.
    if info.architecture == "llama" && info.file_bytes == 98_362_432 {
        assert_eq!(info.quantization, "Q4_1");
        assert_eq!((info.n_layer, info.n_embd, info.n_ctx_train), (30, 576, 8192));
        assert_eq!((info.n_head, info.n_head_kv), (9, PerLayer::Uniform(3)));
        assert_eq!((info.n_embd_head_k, info.n_embd_head_v), (64, 64));
        assert_eq!(info.n_ff, PerLayer::Uniform(1536));
        assert_eq!(info.n_vocab, 49_152);
        assert_eq!(info.n_params, 134_515_008);
        assert!(info.chat_template.is_some());
        assert_eq!(gguf.data_offset() + gguf.tensor_bytes(), info.file_bytes);
    }
}

#[test]
fn encoders_are_known_without_being_told() {
    let whole: Vec<&str> = crate::model::seeds::all()
        .into_iter()
        .filter(|(_, builder)| {
            let untold = builder.clone().without(&format!("{}.attention.causal", builder.architecture()));
            info(&untold).reads_as_a_whole()
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(whole, ["bert", "modern-bert", "t5"]);
    assert!(info(&Builder::llama().bool("llama.attention.causal", false)).reads_as_a_whole());
}
