//! Ways to break a well-formed file that leave a good part of it believable.

use crate::model::GgmlType;
use crate::model::gguf::builder::{ARRAY, BOOL, Builder, F32, I32, STRING, Tensor, U32, string};
use crate::model::random::Random;
use crate::model::seeds::Seed;

/// Files beyond this are not written: they would measure the disk.
const MAX_BYTES: u64 = 16 << 20;

/// File number `index`, the same in every run.
pub(super) fn mutant(seeds: &[Seed], index: u64) -> Vec<u8> {
    let mut random = Random::new(index);
    loop {
        let mut builder = random.of(seeds).1.clone();
        for _ in 0..1 + random.below(3) {
            mutate(&mut builder, &mut random, seeds);
        }
        if random.one_in(40) {
            builder.version = 2;
        }
        if builder.tensors.iter().any(|t| t.offset.saturating_add(t.bytes) > MAX_BYTES) {
            continue;
        }
        let mut bytes = builder.build();
        if random.one_in(6) {
            let header = builder.header().len();
            for _ in 0..1 + random.below(2) {
                flip(&mut bytes, header, &mut random);
            }
        }
        return bytes;
    }
}

fn mutate(builder: &mut Builder, random: &mut Random, seeds: &[Seed]) {
    match random.below(16) {
        0..=4 => value(builder, random),
        5 => _ = remove(&mut builder.entries, random),
        6 | 7 => add_key(builder, random),
        8 => words(builder, random),
        9 => other_architecture(builder, random, seeds),
        10 if random.one_in(3) => head_size(builder, random),
        10 => builder.keep_one_layer(random.below(2)),
        11 | 12 => number_everywhere(builder, random),
        _ => tensor(builder, random, seeds),
    }
}

fn remove<T>(list: &mut Vec<T>, random: &mut Random) -> Option<T> {
    let at = random.below(list.len());
    (at < list.len()).then(|| list.remove(at))
}

/// A whole number: small, near `old`, or extreme.
fn whole(random: &mut Random, old: u32) -> u32 {
    const SMALL: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64];
    const LARGE: [u32; 14] = [
        127,
        255,
        256,
        511,
        512,
        513,
        1024,
        65_536,
        1 << 20,
        1 << 24,
        i32::MAX as u32,
        1 << 31,
        u32::MAX - 1,
        u32::MAX,
    ];
    match random.below(8) {
        0..=2 => *random.of(&SMALL),
        3 => *random.of(&LARGE),
        4 => old.wrapping_add(1),
        5 => old.wrapping_sub(1),
        6 => old.wrapping_mul(2),
        _ => old / 2,
    }
}

fn fraction(random: &mut Random) -> f32 {
    const FRACTIONS: [f32; 16] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1e-5,
        1e-38,
        1e-45,
        1e30,
        f32::MAX,
        f32::MIN,
        3.0,
        10_000.0,
        -1e-5,
        f32::NAN,
        f32::INFINITY,
    ];
    *random.of(&FRACTIONS)
}

/// Changes the value of one key.
fn value(builder: &mut Builder, random: &mut Random) {
    let at = random.below(builder.entries.len());
    let (key, bytes) = &mut builder.entries[at];
    let number = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    // Nothing depends on the name, and breaking the architecture's is for another mutation.
    if key == "general.name" || key == "general.architecture" {
        return;
    }
    let old = || u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    let new = match number {
        U32 | I32 if random.one_in(5) => whole_list(random, old()),
        U32 | I32 => {
            let number = if random.one_in(20) { I32 } else { number };
            [number.to_le_bytes(), whole(random, old()).to_le_bytes()].concat()
        }
        F32 => [F32.to_le_bytes(), fraction(random).to_le_bytes()].concat(),
        BOOL => [&BOOL.to_le_bytes()[..], &[bytes[4] ^ 1]].concat(),
        STRING => {
            let list = if key.ends_with(".pre") { PRE_TOKENIZERS } else { TEXTS };
            [&STRING.to_le_bytes()[..], &string(pick(list, random))].concat()
        }
        ARRAY => return list_element(bytes, random),
        _ => return,
    };
    *bytes = new;
}

/// Numbers for a few layers, in place of one.
fn whole_list(random: &mut Random, old: u32) -> Vec<u8> {
    let count = if random.one_in(4) { random.below(6) } else { 2 };
    let mut bytes = [ARRAY, *random.of(&[U32, U32, I32]), count as u32, 0].map(u32::to_le_bytes).concat();
    for _ in 0..count {
        let n = if random.one_in(2) { old } else { whole(random, old) };
        bytes.extend(n.to_le_bytes());
    }
    bytes
}

/// Changes an element of a list of four-byte values, or cuts such a list. Texts are changed by [`words`].
fn list_element(bytes: &mut Vec<u8>, random: &mut Random) {
    let element = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    let count = u64::from_le_bytes(bytes[8..16].try_into().unwrap()) as usize;
    if !matches!(element, U32 | I32 | F32) || count == 0 {
        return;
    }
    if random.one_in(6) {
        let kept = random.below(count + 1);
        bytes.truncate(16 + 4 * kept);
        bytes[8..16].copy_from_slice(&(kept as u64).to_le_bytes());
        return;
    }
    let slot = &mut bytes[16 + 4 * random.below(count)..][..4];
    let new = match element {
        F32 => fraction(random).to_le_bytes(),
        _ => whole(random, u32::from_le_bytes((&*slot).try_into().unwrap())).to_le_bytes(),
    };
    slot.copy_from_slice(&new);
}

/// A word of a list of words parted by spaces.
fn pick<'a>(list: &'a str, random: &mut Random) -> &'a str {
    let words: Vec<&str> = list.split_whitespace().collect();
    words[random.below(words.len())]
}

/// Sets a key that some architecture reads.
fn add_key(builder: &mut Builder, random: &mut Random) {
    let architecture = builder.architecture();
    let (list, kind) = *random.of(&[(WHOLE_KEYS, U32), (WHOLE_KEYS, U32), (FRACTION_KEYS, F32), (TRUTH_KEYS, BOOL)]);
    let key = pick(list, random);
    let key = if key.contains("tokenizer.") { key.to_owned() } else { format!("{architecture}.{key}") };
    let old = *random.of(&[1, 2, 4, 8, 16]);
    let value = match kind {
        U32 if random.one_in(6) => whole_list(random, old),
        U32 => [U32.to_le_bytes(), whole(random, old).to_le_bytes()].concat(),
        F32 => [F32.to_le_bytes(), fraction(random).to_le_bytes()].concat(),
        _ => [&BOOL.to_le_bytes()[..], &[random.below(2) as u8]].concat(),
    };
    builder.set(&key, value);
}

/// Changes the vocabulary: the kind of tokenizer, or a token.
fn words(builder: &mut Builder, random: &mut Random) {
    if random.one_in(3) {
        let model = pick(TOKENIZERS, random);
        return builder.set("tokenizer.ggml.model", [&STRING.to_le_bytes()[..], &string(model)].concat());
    }
    let key = *random.of(&["tokenizer.ggml.tokens", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"]);
    let Some((_, bytes)) = builder.entries.iter_mut().find(|(k, _)| k == key) else { return };
    let mut texts = Vec::new();
    let mut rest = &bytes[16..];
    while let Some((length, tail)) = rest.split_first_chunk::<8>() {
        let (text, tail) = tail.split_at(u64::from_le_bytes(*length) as usize);
        texts.push(text.to_vec());
        rest = tail;
    }
    let at = random.below(texts.len());
    let text = pick(TOKENS, random).replace('_', " ").replace('0', "\0");
    match (random.below(4), texts.get_mut(at)) {
        (0, Some(_)) => _ = texts.remove(at),
        (1, Some(old)) => old.clear(),
        (2, Some(old)) => *old = text.into_bytes(),
        _ => texts.insert(at, text.into_bytes()),
    }
    *bytes = [&ARRAY.to_le_bytes()[..], &STRING.to_le_bytes(), &(texts.len() as u64).to_le_bytes()].concat();
    bytes.extend(texts.iter().flat_map(string));
}

/// Takes the same metadata and tensors for another architecture's.
fn other_architecture(builder: &mut Builder, random: &mut Random, seeds: &[Seed]) {
    let old = builder.architecture();
    let new = match random.below(3) {
        0 => random.of(seeds).1.architecture(),
        _ => pick(ARCHITECTURES, random).to_owned(),
    };
    for (key, _) in &mut builder.entries {
        if let Some(suffix) = key.strip_prefix(&format!("{old}.")) {
            *key = format!("{new}.{suffix}");
        }
    }
    builder.set("general.architecture", [&STRING.to_le_bytes()[..], &string(&new)].concat());
}

/// Heads of another size than the width gives.
fn head_size(builder: &mut Builder, random: &mut Random) {
    let architecture = builder.architecture();
    let size = whole(random, 4);
    for suffix in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
        if !random.one_in(6) {
            builder.set(&format!("{architecture}.{suffix}"), [U32.to_le_bytes(), size.to_le_bytes()].concat());
        }
    }
}

/// Replaces one number by another in all shapes and in most of the metadata, so that they still agree.
fn number_everywhere(builder: &mut Builder, random: &mut Random) {
    let dims: Vec<u64> = builder.tensors.iter().flat_map(|t| t.dims.iter().copied()).collect();
    let Some(&old) = dims.get(random.below(dims.len())) else { return };
    let new = whole(random, old as u32);
    let spare = random.one_in(2);
    builder.replace_number(old, u64::from(new), || !(spare && random.one_in(4)));
}

fn tensor(builder: &mut Builder, random: &mut Random, seeds: &[Seed]) {
    if builder.tensors.is_empty() {
        return;
    }
    let at = random.below(builder.tensors.len());
    match random.below(10) {
        0 => _ = builder.tensors.remove(at),
        1 => {
            let other = random.below(builder.tensors.len());
            builder.tensors.swap(at, other);
        }
        2 | 3 => {
            // A tensor that this or another architecture may have.
            let other = &random.of(seeds).1.tensors;
            let mut added = other[random.below(other.len())].clone();
            if random.one_in(2) {
                added.dims = builder.tensors[at].dims.clone();
            }
            if random.one_in(3) {
                builder.tensors[at].name = added.name;
            } else if builder.tensors.iter().all(|t| t.name != added.name) {
                builder.tensors.insert(at, added);
            }
        }
        4 => {
            builder.tensors[at].offset = u64::from(whole(random, 32));
            return;
        }
        5..=7 => {
            let tensor = &mut builder.tensors[at];
            let number = random.of(GgmlType::ALL).number();
            tensor.number = if random.one_in(30) { whole(random, number) } else { number };
        }
        _ => shape(&mut builder.tensors[at], random),
    }
    builder.lay_out();
}

fn shape(tensor: &mut Tensor, random: &mut Random) {
    let dims = &mut tensor.dims;
    match (random.below(5), dims.len()) {
        (0, _) => dims.push(u64::from(whole(random, 1))),
        (1, 1..) => _ = dims.pop(),
        (2, 2..) => dims.swap(0, 1),
        (_, n @ 1..) => {
            let n = &mut dims[random.below(n)];
            *n = u64::from(whole(random, *n as u32));
        }
        _ => {}
    }
}

/// Changes a few bytes of the header.
fn flip(bytes: &mut [u8], header: usize, random: &mut Random) {
    let at = random.below(header);
    match random.below(4) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes[at] = bytes[at].wrapping_add(1),
        _ => {
            let width = *random.of(&[2, 4, 8]);
            let number = u64::from(whole(random, 1)).to_le_bytes();
            for (byte, new) in bytes.iter_mut().skip(at).zip(&number[..width]) {
                *byte = *new;
            }
        }
    }
}

const TOKENIZERS: &str = "gpt2 llama bert t5 rwkv plamo2 gemma4 none no_vocab whitespace hybriddna test";

const PRE_TOKENIZERS: &str = "\
    default llama3 llama-v3 llama-bpe deepseek-llm deepseek-coder deepseek-v3 falcon falcon3 falcon-h1 pixtral mpt \
    starcoder gpt-2 phi-2 jina-es jina-v2-code jina-v5-nano refact command-r qwen2 qwen35 stablelm2 olmo dbrx smaug-bpe \
    poro-chat chatglm-bpe glm4 glm5 viking jais tekken smollm codeshell bloom gpt3-finnish exaone exaone4 chameleon \
    minerva-7b megrez gpt-4o llama4 superbpe trillion bailingmoe llada-moe seed-coder hunyuan hunyuan-dense kimi-k2 \
    joyai-llm grok-2 afmoe minimax-m2 midm-2.0 lfm2 gemma4 mellum2 whisper";

const TEXTS: &str = "none linear yarn longrope cubic gpt2 llama bert rwkv t5 default tiny x {{}} é";

/// `_` stands for a space and `0` for a NUL byte.
const TOKENS: &str = "\
    a b ab _ 0 a0b _a a_ <s> </s> <0x0A> <0xZZ> <0x> ▁ Ġ Ċ \\n \\x0a \\x \\ \\xff \\\\ é 日本 <|im_end|> <|endoftext|> \
    <|return|> <|call|> <|end|> <eos> <|fim_prefix|> [CLS] [UNK] <unk> <mask> <pad> <oov> [EMPTY_1] _a_b a_b_c";

/// Architectures beyond those of the seeds.
const ARCHITECTURES: &str = "\
    llama4 deci falcon grok gptneox mpt baichuan starcoder refact nomic-bert nomic-bert-moe neo-bert jina-bert-v2 \
    jina-bert-v3 modern-bert bloom stablelm qwen qwen2moe qwen2vl qwen3 qwen3vl qwen3vlmoe qwen35 qwen35moe phi2 phimoe \
    plamo plamo2 plamo3 codeshell orion internlm2 minicpm minicpm3 gemma gemma3n gemma4 gemma-embedding starcoder2 \
    xverse command-r cohere2 dbrx olmo olmo2 olmoe openelm arctic deepseek deepseek32 deepseek4 chatglm glm4 glm4moe \
    bitnet t5encoder jais jais2 nemotron nemotron_h exaone exaone4 exaone-moe rwkv6 rwkv6qwen2 arwkv7 granite \
    granitemoe chameleon wavtokenizer-dec plm bailingmoe bailingmoe2 dots1 arcee afmoe ernie4_5 ernie4_5-moe \
    hunyuan-moe hunyuan-dense smollm3 gpt-oss lfm2moe dream smallthinker llada llada-moe seed_oss grovemoe apertus \
    minimax-m2 cogvlm rnd1 pangu-embedded mistral3 mistral4 kimi-linear llama-embed maincoder step35 mimo2 clip talkie \
    eagle3 dflash glm-dsa hy_v3 laguna nanbeige minimax-01";

/// What architectures read as whole numbers, or as lists of them.
const WHOLE_KEYS: &str = "\
    context_length embedding_length embedding_length_out block_count feed_forward_length vocab_size \
    nextn_predict_layers leading_dense_block_count expert_feed_forward_length expert_shared_feed_forward_length \
    expert_chunk_feed_forward_length expert_count expert_used_count expert_shared_count expert_group_count \
    expert_group_used_count expert_gating_func experts_per_group moe_every_n_layers moe_latent_size pooling_type \
    classifier.pooling_type decoder_start_token_id decoder_block_count interleave_moe_layer_step \
    full_attention_interval token_shift_count time_mix_extra_dim time_decay_extra_dim rescale_every_n_layers \
    attention.head_count attention.head_count_kv attention.key_length attention.value_length attention.q_lora_rank \
    attention.kv_lora_rank attention.decay_lora_rank attention.iclr_lora_rank \
    attention.value_residual_mix_lora_rank attention.gate_lora_rank attention.relative_buckets_count \
    attention.sliding_window attention.sliding_window_pattern attention.group_norm_groups \
    attention.temperature_length attention.key_length_mla attention.value_length_mla attention.key_length_swa \
    attention.value_length_swa attention.shared_kv_layers attention.indexer.head_count attention.indexer.key_length \
    attention.indexer.top_k attention.indexer.block_size attention.recurrent_layers attention.rope_pattern \
    embedding_length_per_layer_input activation_sparsity_scale altup.num_inputs altup.active_idx \
    rope.dimension_count rope.dimension_count_swa rope.dimension_sections rope.scaling.original_context_length \
    ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count wkv.head_size shortconv.l_cache \
    n_deepstack_layers dense_2_feat_in dense_2_feat_out dense_3_feat_in dense_3_feat_out features_length \
    convnext.embedding_length convnext.block_count posnet.embedding_length posnet.block_count router.layer \
    tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.eot_token_id tokenizer.ggml.eom_token_id \
    tokenizer.ggml.unknown_token_id tokenizer.ggml.seperator_token_id tokenizer.ggml.padding_token_id \
    tokenizer.ggml.mask_token_id tokenizer.ggml.fim_pre_token_id tokenizer.ggml.fim_pad_token_id \
    tokenizer.ggml.token_type_count tokenizer.ggml.suppress_tokens tokenizer.ggml.token_type tokenizer.ggml.scores \
    tokenizer.ggml.precompiled_charsmap";

const FRACTION_KEYS: &str = "\
    attention.layer_norm_epsilon attention.layer_norm_rms_epsilon attention.group_norm_epsilon attention.scale \
    attention.max_alibi_bias attention.clamp_kqv attention.output_scale attention.value_scale \
    attention.temperature_scale rope.freq_base rope.freq_base_swa rope.scale_linear rope.scaling.factor \
    rope.scaling.attn_factor rope.scaling.yarn_log_multiplier rope.scaling.yarn_ext_factor \
    rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow logit_scale residual_scale embedding_scale \
    expert_weights_scale expert_group_scale attn_logit_softcapping final_logit_softcapping router_logit_softcapping";

const TRUTH_KEYS: &str = "\
    attention.causal use_parallel_residual rope.scaling.finetuned expert_weights_norm ssm.dt_b_c_rms swin_norm \
    attention.sliding_window_pattern attention.recurrent_layers tokenizer.ggml.add_bos_token \
    tokenizer.ggml.add_eos_token tokenizer.ggml.add_sep_token tokenizer.ggml.add_space_prefix \
    tokenizer.ggml.remove_extra_whitespaces tokenizer.ggml.normalizer.lowercase";
