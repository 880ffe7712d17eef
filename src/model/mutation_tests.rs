//! Tens of thousands of broken headers: none may panic, and none may take more memory than it brings bytes.

use std::cell::Cell;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use super::gguf::builder::Builder;
use super::random::Random;
use super::{Array, GgmlType, Gguf, GgufError, ModelInfo, Value, seeds};

/// Of each small header, and of that of each whole model, which takes ten times as long.
const MUTATIONS: (usize, usize) = (3_000, 300);

/// Headers of few keys and tensors.
fn small() -> Vec<Vec<u8>> {
    let hybrid = Builder::llama()
        .text("general.architecture", "jamba")
        .u32("jamba.context_length", 64)
        .u32("jamba.embedding_length", 32)
        .u32("jamba.block_count", 3)
        .u32("jamba.attention.head_count", 4)
        .u32s("jamba.attention.head_count_kv", &[0, 2, 0])
        .u32("jamba.ssm.conv_kernel", 4)
        .u32("jamba.ssm.inner_size", 64)
        .u32("jamba.ssm.state_size", 8)
        .u32("jamba.ssm.time_step_rank", 2)
        .u32("jamba.expert_count", 4)
        .u32("jamba.expert_used_count", 2);
    let sentencepiece = Builder::llama()
        .text("tokenizer.ggml.model", "llama")
        .f32s("tokenizer.ggml.scores", &[0.0, -1.0, -2.0, -3.0])
        .u16("split.no", 0)
        .u16("split.count", 2)
        .i32("split.tensors.count", 9)
        .raw("k.u64", 10, &[9; 8])
        .array("k.i16", 3, 3, &[1; 6])
        .array("k.bool", 7, 2, &[0, 1])
        .bool("tokenizer.ggml.add_bos_token", true);
    let mut bare = Builder::new();
    bare.version = 2;
    let bare = bare.tensor("a", GgmlType::Q4_K, &[256, 2]).tensor("b", GgmlType::I8, &[1, 2, 3, 4]);
    vec![Builder::llama().build(), hybrid.build(), sentencepiece.build(), bare.build()]
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>], seed: usize) -> Vec<u8> {
    const EXTREMES: [u64; 16] = [
        0,
        1,
        2,
        3,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        1 << 62,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
    ];
    let mut bytes = seeds[seed].clone();
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at.max(1)),
            3 | 4 => {
                let width = [1, 2, 4, 8][random.below(4)];
                let extreme = EXTREMES[random.below(EXTREMES.len())].to_le_bytes();
                for (byte, value) in bytes.iter_mut().skip(at).zip(&extreme[..width]) {
                    *byte = *value;
                }
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let length = random.below(64).min(other.len() - from);
                let until = (at + random.below(64)).min(bytes.len());
                bytes.splice(at..until, other[from..from + length].iter().copied());
            }
        }
    }
    bytes
}

/// A reader that counts what is taken from it, to see that headers are read once and data never.
struct Counting<'a> {
    inner: Cursor<&'a [u8]>,
    taken: &'a Cell<u64>,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.taken.set(self.taken.get() + n as u64);
        Ok(n)
    }
}

impl Seek for Counting<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Bytes that a parsed header holds on the heap.
fn heap_bytes(gguf: &Gguf) -> usize {
    let value = |value: &Value| match value {
        Value::String(text) => text.capacity(),
        Value::Array(Array::String(texts)) => texts.total_bytes() + 4 * texts.len(),
        Value::Array(Array::U8(v)) => v.capacity(),
        Value::Array(Array::I8(v)) => v.capacity(),
        Value::Array(Array::Bool(v)) => v.capacity(),
        Value::Array(Array::U16(v)) => 2 * v.capacity(),
        Value::Array(Array::I16(v)) => 2 * v.capacity(),
        Value::Array(Array::U32(v)) => 4 * v.capacity(),
        Value::Array(Array::I32(v)) => 4 * v.capacity(),
        Value::Array(Array::F32(v)) => 4 * v.capacity(),
        Value::Array(Array::U64(v)) => 8 * v.capacity(),
        Value::Array(Array::I64(v)) => 8 * v.capacity(),
        Value::Array(Array::F64(v)) => 8 * v.capacity(),
        _ => 0,
    };
    let metadata =
        gguf.keys().map(|key| key.len() + size_of::<(String, u64, Value)>() + gguf.get(key).map_or(0, value));
    let tensors = gguf.tensors().iter().map(|t| size_of_val(t) + t.name.capacity() + 8 * t.dims.capacity());
    metadata.sum::<usize>() + tensors.sum::<usize>()
}

#[test]
fn mutated_headers_neither_panic_nor_take_memory() {
    let started = Instant::now();
    let mut seeds = small();
    let small = seeds.len();
    seeds.extend(seeds::all().into_iter().map(|(_, builder)| builder.build()));
    let mut random = Random::new(0);
    let (mut tried, mut read, mut sound, mut slowest) = (0, 0, 0, Duration::ZERO);
    for seed in 0..seeds.len() {
        for _ in 0..if seed < small { MUTATIONS.0 } else { MUTATIONS.1 } {
            tried += 1;
            let bytes = mutate(&mut random, &seeds, seed);
            let taken = Cell::new(0);
            let began = Instant::now();
            let result = Gguf::read(Counting { inner: Cursor::new(&bytes), taken: &taken });
            assert!(taken.get() <= bytes.len() as u64, "read more than once");
            match result {
                Ok(gguf) => {
                    read += 1;
                    // Entries cost a constant each, which takes at most 14 bytes in the file; all else is as in the file.
                    assert!(heap_bytes(&gguf) <= 16 * bytes.len(), "{bytes:?}");
                    for tensor in gguf.tensors() {
                        assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
                    }
                    match ModelInfo::from_gguf(&gguf) {
                        Ok(_) => sound += 1,
                        Err(error) => assert!(error.offset() <= bytes.len() as u64, "{error}"),
                    }
                }
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.len() < 1000, "{message}");
                    // Only a tensor's data may be said to start beyond the end.
                    assert!(
                        error.offset() <= bytes.len() as u64 || matches!(error, GgufError::Truncated { .. }),
                        "{message}"
                    );
                }
            }
            slowest = slowest.max(began.elapsed());
        }
    }
    assert!(tried >= 20_000);
    // Mutations that all fail at the first byte would show nothing.
    assert!(read > tried / 20 && sound > tried / 50, "{read} read, {sound} sound of {tried}");
    // Generous, for a slow machine: this takes a fraction of a second on an idle one.
    assert!(started.elapsed() < Duration::from_secs(30), "took {:?}", started.elapsed());
    assert!(slowest < Duration::from_secs(2), "one took {slowest:?}");
}
