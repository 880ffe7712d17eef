//! The compute buffer: what the intermediate results of one micro-batch take at most.
//!
//! llama.cpp builds the graph of its largest batch when a context is made and reserves what that needs. The same graph
//! is built here from the header alone, as shapes, and put through the same allocation rules ([`mod@graph`]). For the
//! architectures of [`MIRRORED`] tests compare the result with what llama.cpp reserves; for others the closest graph is
//! taken with a margin, and the plan says that it is an estimate.

mod blocks;
mod graph;
mod recurrent;

use super::Demand;
use super::cache::{Memory, Reach};
use crate::model::{GgmlType, Header, rotates_positions};
use blocks::{Attends, Builder, Cache, Heads};
use graph::{Graph, Id, Type};
use recurrent::States;

/// Architectures whose graphs are compared with llama.cpp's by tests.
pub(super) const MIRRORED: &[&str] = &[
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "mamba",
    "mamba2",
    "jamba",
    "granitehybrid",
    "bert",
];
/// What an unmirrored graph is multiplied with, in quarters.
const MARGIN_QUARTERS: u64 = 6;
/// Encoders: the norm comes after the addition, and attention sees the batch alone.
const ENCODERS: &[&str] = &["bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3"];

/// Architectures that scale the embeddings of tokens, row by row.
const SCALES_ROWS: &[&str] = &["gemma3", "gemma3n", "gemma4", "gemma-embedding"];

/// Bytes of one worker's compute buffer, and whether they are exact.
pub(super) fn bytes(model: &Header, memory: &Memory, demand: &Demand) -> (u64, bool) {
    let mirrored = MIRRORED.contains(&model.info().architecture.as_str());
    match graph(model, memory, demand) {
        Some(graph) if mirrored => (graph.buffer_bytes(), true),
        Some(graph) => (graph.buffer_bytes() / 4 * MARGIN_QUARTERS, false),
        None => (rough(model, memory, demand), false),
    }
}

/// Where not even the tensors' names are known: more than the widest results that any model keeps at a time.
fn rough(model: &Header, memory: &Memory, demand: &Demand) -> u64 {
    let info = model.info();
    let (tokens, slots) = (tokens(model, memory, demand), u64::from(demand.slots));
    let (n_embd, n_vocab) = (u64::from(info.n_embd), u64::from(info.n_vocab));
    let widest = model.tensors().filter_map(|t| t.dims.get(1)).filter(|&&rows| rows != n_vocab).max();
    let widest = widest.copied().unwrap_or(0).max(n_embd);
    let states = if memory.recurs() { memory.state_bytes(model) } else { 0 };
    let cells = if memory.attends() { memory.cells(Reach::Full, demand) } else { 0 };
    // The mask, or with it the scores of every head.
    let scores = cells * if demand.flash_attention { 2 } else { 8 * (1 + u64::from(info.n_head)) };
    tokens * (4 * (12 * n_embd + 6 * widest) + scores) + 4 * (slots * (states + n_vocab) + demand.outputs() * n_vocab)
}

/// Tokens of the largest batch: no more than the context; where the model sees all of it at once, than what the context is
/// rounded to.
fn tokens(model: &Header, memory: &Memory, demand: &Demand) -> u64 {
    let streams = u64::from(demand.slots);
    let longest = match model.info().causal {
        Some(false) => memory.cells(Reach::Full, demand),
        _ => u64::from(demand.n_ctx),
    };
    u64::from(demand.n_ubatch).min(longest * streams).next_multiple_of(streams)
}

/// Of embeddings, as they go from layer to layer.
pub(super) fn micro_batch_bytes(model: &Header, memory: &Memory, demand: &Demand) -> u64 {
    4 * u64::from(model.info().n_embd) * tokens(model, memory, demand)
}

fn graph(model: &Header, memory: &Memory, demand: &Demand) -> Option<Graph> {
    let info = model.info();
    let streams = u64::from(demand.slots);
    let tokens = tokens(model, memory, demand);
    let mut builder = Builder {
        graph: Graph::default(),
        model,
        tokens,
        streams,
        outputs: demand.outputs().min(tokens),
        flash_attention: demand.flash_attention,
        wide_cache: [demand.kv_type_k, demand.kv_type_v].map(|kind| kind == GgmlType::F32),
        rotation_k: rotation(demand.kv_type_k.is_quantized(), info.n_embd_head_k, true),
        rotation_v: rotation(demand.kv_type_v.is_quantized(), info.n_embd_head_v, false),
    };
    let out = match ENCODERS.contains(&info.architecture.as_str()) {
        true => builder.encoder()?,
        false => builder.decoder(memory, demand)?,
    };
    builder.graph.expand(out);
    Some(builder.graph)
}

/// Side of the Hadamard matrix: the largest power of two in a key's head, 64 for values.
fn rotation(quantized: bool, head: u32, largest: bool) -> Option<u64> {
    if !quantized || head == 0 || !head.is_multiple_of(64) {
        return None;
    }
    Some(if largest { 1 << head.trailing_zeros() } else { 64 })
}

impl Builder<'_> {
    /// The embeddings of the batch, from tokens; llama.cpp keeps room for the two other ways of giving them.
    fn embeddings(&mut self) -> Id {
        let (width, tokens) = (u64::from(self.model.info().n_embd), self.tokens);
        let rows = [width, tokens, 1, 1];
        let list = [tokens, 1, 1, 1];
        let ids = self.graph.input(Type::I32, list);
        let embedded = self.graph.result(rows, &[ids]);
        self.graph.expand(embedded);
        let given = self.graph.input(Type::F32, rows);
        self.graph.expand(given);
        let mixed = self.graph.input(Type::F32, rows);
        let copied = self.graph.result(rows, &[mixed]);
        let mixed_ids = self.graph.input(Type::I32, list);
        let from_ids = self.graph.result(rows, &[mixed_ids]);
        let slots = self.graph.input(Type::I64, list);
        let merged = self.graph.store_into(copied, &[from_ids, slots]);
        self.graph.expand(merged);
        if !SCALES_ROWS.contains(&self.model.info().architecture.as_str()) {
            return embedded;
        }
        let scales = self.graph.input(Type::F32, [1, tokens, 1, 1]);
        let scaled = self.graph.in_place(&[embedded, scales]);
        self.graph.expand(scaled);
        scaled
    }

    fn cache(&mut self, cells: u64, values: u64) -> Cache {
        let per_stream = self.tokens / self.streams;
        let k_idxs = self.graph.input(Type::I64, [self.tokens, 1, 1, 1]);
        let values = if self.flash_attention { 1 } else { values };
        let v_idxs = self.graph.input(Type::I64, [self.tokens * values, 1, 1, 1]);
        let mask_type = if self.flash_attention { Type::F16 } else { Type::F32 };
        let mask = self.graph.input(mask_type, [cells, per_stream, 1, self.streams]);
        let mut rotation = |side: Option<u64>| side.map(|side| self.graph.input(Type::F32, [side, side, 1, 1]));
        let (k_rotation, v_rotation) = (rotation(self.rotation_k), rotation(self.rotation_v));
        Cache { cells, mask, k_idxs, v_idxs, k_rotation, v_rotation }
    }

    fn decoder(&mut self, memory: &Memory, demand: &Demand) -> Option<Id> {
        let info = self.model.info();
        let rope = rotates_positions(&info.architecture);
        let mut state = self.embeddings();
        let positions = self.graph.input(Type::I32, [self.tokens, 1, 1, 1]);
        if self.has("position_embd.weight") {
            let shape = self.graph.shape(state);
            let embedded = self.graph.result(shape, &[positions]);
            state = self.graph.in_place(&[state, embedded]);
        }
        let values = u64::from(info.n_embd_head_v) * u64::from(info.n_head_kv.max());
        let full = memory.attends().then(|| self.cache(memory.cells(Reach::Full, demand), values));
        let windowed = memory.windowed().then(|| self.cache(memory.cells(Reach::Window, demand), values));
        let states = memory
            .recurs()
            .then(|| States { copy: self.graph.input(Type::I32, [self.streams, 1, 1, 1]), count: self.streams });
        let wanted = self.graph.input(Type::I32, [self.outputs, 1, 1, 1]);

        let last = memory.layers.len().checked_sub(1)?;
        for (layer, remembers) in memory.layers.iter().enumerate() {
            let name = format!("blk.{layer}");
            let normed = self.norm(&format!("{name}.attn_norm"), state);
            let heads = self.heads(layer as u32, rope);
            let attended = remembers.attention.and_then(|reach| {
                let cache = if reach == Reach::Window { windowed } else { full };
                self.attention(&name, normed, heads, Some(positions), Attends::Cache(cache?))
            });
            let recurred = match (states, info.ssm) {
                (Some(states), Some(ssm)) if remembers.recurrent => match self.has(&format!("{name}.ssm_x.weight")) {
                    true => self.mamba(&name, normed, ssm, states),
                    false => self.mamba2(&name, normed, ssm, states),
                },
                _ => None,
            };
            let mixed = match (attended, recurred) {
                (Some(a), Some(b)) => self.graph.in_place(&[a, b]),
                (Some(one), None) | (None, Some(one)) => one,
                // A kind of layer that is not known here.
                (None, None) if remembers.attention.is_some() || remembers.recurrent => return None,
                (None, None) => normed,
            };
            state = self.residual(&name, state, normed, mixed, layer == last, wanted)?;
        }
        let out = self.norm("output_norm", state);
        let logits = [u64::from(info.n_vocab), self.outputs, 1, 1];
        Some(self.graph.result(logits, &[out]))
    }

    /// What follows the mixing of tokens: the addition to the layer's input and the feed-forward part.
    fn residual(&mut self, name: &str, input: Id, normed: Id, mixed: Id, last: bool, wanted: Id) -> Option<Id> {
        let used = u64::from(self.model.info().expert_used_count);
        // Nothing past the last mixing of tokens is needed of tokens whose logits are not wanted.
        let mut pick = |id: Id| match last {
            true => {
                let [width, ..] = self.graph.shape(id);
                self.graph.result([width, self.outputs, 1, 1], &[id, wanted])
            }
            false => id,
        };
        let sequential = ["ffn_norm", "post_attention_norm", "attn_post_norm"];
        let sequential = sequential.iter().any(|norm| self.model.tensor(&format!("{name}.{norm}.weight")).is_some());
        let feeds = ["ffn_up", "ffn_up_exps", "ffn_gate_up_exps"];
        let feeds = feeds.iter().any(|up| self.model.tensor(&format!("{name}.{up}.weight")).is_some());
        let (mixed, input) = (pick(mixed), pick(input));
        if !feeds {
            return Some(self.graph.in_place(&[mixed, input]));
        }
        if !sequential {
            // Attention and feed-forward part side by side.
            let normed = pick(normed);
            let fed = self.feed_forward(name, normed, used)?;
            let sum = self.graph.in_place(&[fed, input]);
            return Some(self.graph.in_place(&[sum, mixed]));
        }
        let mixed = self.norm(&format!("{name}.post_attention_norm"), mixed);
        let sum = self.graph.in_place(&[mixed, input]);
        let normed = self.norm(&format!("{name}.ffn_norm"), sum);
        let fed = self.feed_forward(name, normed, used)?;
        let fed = self.norm(&format!("{name}.post_ffw_norm"), fed);
        Some(self.graph.in_place(&[fed, sum]))
    }

    fn encoder(&mut self) -> Option<Id> {
        let info = self.model.info();
        let rope = rotates_positions(&info.architecture);
        let positions = self.graph.input(Type::I32, [self.tokens, 1, 1, 1]);
        let mut state = self.embeddings();
        if self.has("token_types.weight") {
            state = self.graph.in_place(&[state]);
        }
        if self.has("position_embd.weight") {
            let shape = self.graph.shape(state);
            let embedded = self.graph.result(shape, &[positions]);
            state = self.graph.in_place(&[embedded, state]);
        }
        state = self.norm("token_embd_norm", state);
        let mask_type = if self.flash_attention { Type::F16 } else { Type::F32 };
        let mask = self.graph.input(mask_type, [self.tokens, self.tokens, 1, 1]);
        let wanted = self.graph.input(Type::I32, [self.outputs, 1, 1, 1]);
        for layer in 0..info.n_layer {
            let name = format!("blk.{layer}");
            let heads = self.heads(layer, rope);
            let mut mixed = self.attention(&name, state, heads, Some(positions), Attends::Batch { mask })?;
            let mut input = state;
            if layer + 1 == info.n_layer {
                let rows = [u64::from(info.n_embd), self.outputs, 1, 1];
                mixed = self.graph.result(rows, &[mixed, wanted]);
                input = self.graph.result(rows, &[input, wanted]);
            }
            let sum = self.graph.in_place(&[mixed, input]);
            let sum = self.norm(&format!("{name}.attn_output_norm"), sum);
            let fed = self.feed_forward(&name, sum, u64::from(info.expert_used_count))?;
            let fed = self.graph.in_place(&[fed, sum]);
            state = self.norm(&format!("{name}.layer_output_norm"), fed);
        }
        Some(state)
    }

    fn heads(&self, layer: u32, rope: bool) -> Heads {
        let info = self.model.info();
        let n_head = self.model.heads(layer);
        Heads {
            n_head: u64::from(n_head),
            n_head_kv: u64::from(info.n_head_kv.get(layer)),
            k: u64::from(info.n_embd_head_k),
            v: u64::from(info.n_embd_head_v),
            rope,
        }
    }
}
