//! A GGUF writer for tests: it writes what it is told, valid or not.

use std::io::Cursor;

use super::{Gguf, GgufError};
use crate::model::types::GgmlType;

/// Type numbers of metadata values.
pub(in crate::model) const U16: u32 = 2;
pub(in crate::model) const U32: u32 = 4;
pub(in crate::model) const I32: u32 = 5;
pub(in crate::model) const F32: u32 = 6;
pub(in crate::model) const BOOL: u32 = 7;
pub(in crate::model) const STRING: u32 = 8;
pub(in crate::model) const ARRAY: u32 = 9;
pub(in crate::model) const U64: u32 = 10;

/// A file under construction.
#[derive(Clone)]
pub(in crate::model) struct Builder {
    pub(in crate::model) magic: [u8; 4],
    pub(in crate::model) version: u32,
    pub(in crate::model) alignment: u64,
    /// Counts to write instead of the true ones.
    pub(in crate::model) tensor_count: Option<u64>,
    pub(in crate::model) entry_count: Option<u64>,
    /// Keys, and their values as type number and bytes.
    pub(in crate::model) entries: Vec<(String, Vec<u8>)>,
    pub(in crate::model) tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub(in crate::model) struct Tensor {
    pub(in crate::model) name: Vec<u8>,
    pub(in crate::model) dims: Vec<u64>,
    pub(in crate::model) number: u32,
    pub(in crate::model) offset: u64,
    pub(in crate::model) bytes: u64,
}

pub(in crate::model) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

impl Builder {
    pub(in crate::model) fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            alignment: 32,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// A small model of architecture `llama` that passes every check.
    pub(in crate::model) fn llama() -> Self {
        Self::new()
            .text("general.architecture", "llama")
            .text("general.name", "tiny")
            .u32("llama.context_length", 128)
            .u32("llama.embedding_length", 64)
            .u32("llama.block_count", 2)
            .u32("llama.feed_forward_length", 96)
            .u32("llama.attention.head_count", 4)
            .u32("llama.attention.head_count_kv", 2)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .text("tokenizer.ggml.model", "gpt2")
            .text("tokenizer.ggml.pre", "smollm")
            .texts("tokenizer.ggml.tokens", &["<s>", "a", "bcd", ""])
            .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1])
            .texts("tokenizer.ggml.merges", &["b c"])
            .u32("tokenizer.ggml.bos_token_id", 0)
            .tensor("token_embd.weight", GgmlType::Q8_0, &[64, 4])
            .tensor("blk.0.attn_norm.weight", GgmlType::F32, &[64])
            .tensor("output_norm.weight", GgmlType::F32, &[64])
    }

    /// Sets a key to a value given as type number and bytes, in place of an earlier value.
    pub(in crate::model) fn raw(mut self, key: &str, number: u32, value: &[u8]) -> Self {
        self.set(key, [&number.to_le_bytes()[..], value].concat());
        self
    }

    /// The same, with type and value in one.
    pub(in crate::model) fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key.to_owned(), value)),
        }
    }

    /// Adds a key even if it is there already.
    pub(in crate::model) fn again(mut self, key: &str) -> Self {
        self.entries.push((key.to_owned(), [&U32.to_le_bytes()[..], &[0; 4]].concat()));
        self
    }

    pub(in crate::model) fn without(mut self, key: &str) -> Self {
        self.entries.retain(|(k, _)| k != key);
        self
    }

    pub(in crate::model) fn u16(self, key: &str, value: u16) -> Self {
        self.raw(key, U16, &value.to_le_bytes())
    }

    pub(in crate::model) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, U32, &value.to_le_bytes())
    }

    pub(in crate::model) fn i32(self, key: &str, value: i32) -> Self {
        self.raw(key, I32, &value.to_le_bytes())
    }

    pub(in crate::model) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, F32, &value.to_le_bytes())
    }

    pub(in crate::model) fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, BOOL, &[u8::from(value)])
    }

    pub(in crate::model) fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, STRING, &string(value))
    }

    pub(in crate::model) fn array(self, key: &str, number: u32, count: u64, data: &[u8]) -> Self {
        let value = [&number.to_le_bytes()[..], &count.to_le_bytes(), data].concat();
        self.raw(key, ARRAY, &value)
    }

    pub(in crate::model) fn texts(self, key: &str, values: &[&str]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(string).collect();
        self.array(key, STRING, values.len() as u64, &data)
    }

    pub(in crate::model) fn u32s(self, key: &str, values: &[u32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, U32, values.len() as u64, &data)
    }

    pub(in crate::model) fn i32s(self, key: &str, values: &[i32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, I32, values.len() as u64, &data)
    }

    pub(in crate::model) fn f32s(self, key: &str, values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, F32, values.len() as u64, &data)
    }

    /// Adds a tensor after the last one.
    pub(in crate::model) fn tensor(self, name: &str, ggml_type: GgmlType, dims: &[u64]) -> Self {
        let elements: u64 = dims.iter().product();
        let bytes = elements / ggml_type.block_elements() * ggml_type.block_bytes();
        let offset = self.next_offset();
        self.raw_tensor(name.as_bytes(), dims, ggml_type.number(), offset, bytes)
    }

    pub(in crate::model) fn raw_tensor(
        mut self,
        name: &[u8],
        dims: &[u64],
        number: u32,
        offset: u64,
        bytes: u64,
    ) -> Self {
        let (name, dims) = (name.to_owned(), dims.to_owned());
        self.tensors.push(Tensor { name, dims, number, offset, bytes });
        self
    }

    pub(in crate::model) fn without_tensors(mut self) -> Self {
        self.tensors.clear();
        self
    }

    pub(in crate::model) fn next_offset(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes.next_multiple_of(self.alignment)).sum()
    }

    /// The text of `general.architecture`, or nothing.
    pub(in crate::model) fn architecture(&self) -> String {
        let value = self.entries.iter().find(|(key, _)| key == "general.architecture").map(|(_, value)| value);
        value.map(|value| String::from_utf8_lossy(&value[12..]).into_owned()).unwrap_or_default()
    }

    /// Places the tensors one after the other again, after their shapes or types were changed.
    pub(in crate::model) fn lay_out(&mut self) {
        let mut offset = 0u64;
        for tensor in &mut self.tensors {
            let elements = tensor.dims.iter().fold(1u64, |product, &n| product.saturating_mul(n));
            let ggml_type = GgmlType::ALL.iter().find(|t| t.number() == tensor.number).unwrap_or(&GgmlType::F32);
            tensor.bytes = (elements / ggml_type.block_elements()).saturating_mul(ggml_type.block_bytes());
            tensor.offset = offset;
            offset = offset.saturating_add(tensor.bytes).checked_next_multiple_of(self.alignment).unwrap_or(u64::MAX);
        }
    }

    /// Replaces a number in all shapes, and in those whole numbers of the metadata that `chosen` is true for.
    pub(in crate::model) fn replace_number(&mut self, old: u64, new: u64, mut chosen: impl FnMut() -> bool) {
        let number = |n: u64| [U32, n as u32].map(u32::to_le_bytes).concat();
        for (_, bytes) in &mut self.entries {
            if *bytes == number(old) && chosen() {
                *bytes = number(new);
            }
        }
        for n in self.tensors.iter_mut().flat_map(|tensor| &mut tensor.dims).filter(|n| **n == old) {
            *n = new;
        }
        self.lay_out();
    }

    /// Makes one of the two layers of a model the only one.
    pub(in crate::model) fn keep_one_layer(&mut self, kept: usize) {
        let key = format!("{}.block_count", self.architecture());
        self.set(&key, [U32, 1].map(u32::to_le_bytes).concat());
        let (kept_prefix, other_prefix) = (format!("blk.{kept}."), format!("blk.{}.", 1 - kept));
        let name = |tensor: &Tensor| String::from_utf8_lossy(&tensor.name).into_owned();
        self.tensors.retain(|tensor| !name(tensor).contains(&other_prefix));
        for tensor in &mut self.tensors {
            tensor.name = name(tensor).replace(&kept_prefix, "blk.0.").into_bytes();
        }
        let two = [&ARRAY.to_le_bytes()[..], &U32.to_le_bytes(), &2u64.to_le_bytes()].concat();
        for (_, bytes) in self.entries.iter_mut().filter(|(_, bytes)| bytes.starts_with(&two)) {
            // Numbers per layer.
            let n = bytes[16 + 4 * kept..][..4].to_vec();
            *bytes = [&two[..8], &1u64.to_le_bytes(), &n].concat();
        }
        self.lay_out();
    }

    /// The header, up to the end of the tensor list.
    pub(in crate::model) fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            out.extend(string(key));
            out.extend(value);
        }
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(tensor.number.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out
    }

    /// The whole file, with data of zeros.
    pub(in crate::model) fn build(&self) -> Vec<u8> {
        let mut out = self.header();
        let start = (out.len() as u64).next_multiple_of(self.alignment);
        if let Some(end) = self.tensors.iter().map(|t| t.offset + t.bytes).max() {
            out.resize((start + end) as usize, 0);
        }
        out
    }

    pub(in crate::model) fn read(&self) -> Result<Gguf, GgufError> {
        Gguf::read(Cursor::new(self.build()))
    }
}
