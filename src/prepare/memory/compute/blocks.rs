//! The building blocks of llama.cpp's graphs (`llama-graph.cpp`), as shapes: norms, projections, attention,
//! feed-forward parts. What a model has of each is read off its tensors, as llama.cpp does.

use super::graph::{Graph, Id, Type};
use crate::model::{Header, TensorInfo};

/// The graph of one micro-batch under construction, and the numbers it depends on.
pub(super) struct Builder<'a> {
    pub graph: Graph,
    pub model: &'a Header,
    /// Tokens of the micro-batch.
    pub tokens: u64,
    /// Sequences with a KV cache of their own.
    pub streams: u64,
    /// Tokens whose logits are wanted.
    pub outputs: u64,
    pub flash_attention: bool,
    /// Keys and values in the cache are F32, of keys and of values.
    pub wide_cache: [bool; 2],
    /// Side of the rotation that quantized keys and values are multiplied with.
    pub rotation_k: Option<u64>,
    pub rotation_v: Option<u64>,
}

/// What attention reads of one KV cache.
#[derive(Clone, Copy)]
pub(super) struct Cache {
    /// Positions it holds per stream.
    pub cells: u64,
    pub mask: Id,
    pub k_idxs: Id,
    pub v_idxs: Id,
    pub k_rotation: Option<Id>,
    pub v_rotation: Option<Id>,
}

/// Attention over a cache, or over the batch alone.
#[derive(Clone, Copy)]
pub(super) enum Attends {
    Cache(Cache),
    Batch { mask: Id },
}

/// Heads of one layer.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub n_head: u64,
    pub n_head_kv: u64,
    pub k: u64,
    pub v: u64,
    pub rope: bool,
}

impl Builder<'_> {
    pub(super) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.model.tensor(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    /// Rows of a weight, which become the width of what it is multiplied with; `None` without such a weight.
    fn width(&self, weight: &str) -> Option<u64> {
        self.tensor(&format!("{weight}.weight")).map(|t| t.dims.get(1).copied().unwrap_or(1))
    }

    /// A multiplication by a weight, and the addition of its bias if it has one.
    pub(super) fn project(&mut self, weight: &str, input: Id) -> Option<Id> {
        let width = self.width(weight)?;
        let [_, rows, ..] = self.graph.shape(input);
        let product = self.graph.result([width, rows, 1, 1], &[input]);
        Some(self.add_bias(weight, product))
    }

    fn add_bias(&mut self, weight: &str, to: Id) -> Id {
        if self.has(&format!("{weight}.bias")) { self.graph.in_place(&[to]) } else { to }
    }

    /// A norm with its weight and bias; nothing where the model has none of that name.
    pub(super) fn norm(&mut self, weight: &str, input: Id) -> Id {
        if !self.has(&format!("{weight}.weight")) {
            return input;
        }
        // RMS norms can work in place, layer norms (which have biases) cannot.
        let normed = match self.has(&format!("{weight}.bias")) {
            false => self.graph.in_place(&[input]),
            true => {
                let shape = self.graph.shape(input);
                self.graph.result(shape, &[input])
            }
        };
        let scaled = self.graph.in_place(&[normed]);
        self.add_bias(weight, scaled)
    }

    /// Queries, keys and values of a layer, with whatever norms and rotations it has.
    fn qkv(&mut self, layer: &str, input: Id, heads: Heads, positions: Option<Id>) -> Option<[Id; 3]> {
        let tokens = self.tokens;
        let shapes = [
            [heads.k, heads.n_head, tokens, 1],
            [heads.k, heads.n_head_kv, tokens, 1],
            [heads.v, heads.n_head_kv, tokens, 1],
        ];
        let [mut q, mut k, v] = match self.project(&format!("{layer}.attn_qkv"), input) {
            Some(fused) => shapes.map(|shape| self.graph.view(fused, shape)),
            None => {
                let q = self.project(&format!("{layer}.attn_q"), input)?;
                let k = self.project(&format!("{layer}.attn_k"), input)?;
                // Some layers use their keys as values.
                let v = self.project(&format!("{layer}.attn_v"), input).unwrap_or(k);
                [self.graph.view(q, shapes[0]), self.graph.view(k, shapes[1]), self.graph.view(v, shapes[2])]
            }
        };
        for (what, at) in [("q", &mut q), ("k", &mut k)] {
            *at = self.norm(&format!("{layer}.attn_{what}_norm"), *at);
            if heads.rope {
                let sources: Vec<Id> = [*at].into_iter().chain(positions).collect();
                *at = self.graph.in_place(&sources);
            }
        }
        Some([q, k, v])
    }

    /// Attention, from its normed input to its projected output.
    pub(super) fn attention(
        &mut self,
        layer: &str,
        input: Id,
        heads: Heads,
        positions: Option<Id>,
        attends: Attends,
    ) -> Option<Id> {
        let [mut q, mut k, mut v] = self.qkv(layer, input, heads, positions)?;
        if let Attends::Cache(cache) = attends {
            if let Some(rotation) = cache.k_rotation {
                (q, k) = (self.rotate(q, rotation), self.rotate(k, rotation));
            }
            if let Some(rotation) = cache.v_rotation {
                v = self.rotate(v, rotation);
            }
        }
        for part in [q, v, k] {
            self.graph.expand(part);
        }
        let mut out = match attends {
            Attends::Cache(cache) => {
                let rows = [heads.k * heads.n_head_kv, self.tokens, 1, 1];
                for (part, idxs) in [(k, cache.k_idxs), (v, cache.v_idxs)] {
                    let rows = self.graph.view(part, rows);
                    let stored = self.graph.store(&[rows, idxs]);
                    self.graph.expand(stored);
                }
                // Flash attention reads nothing wider than F16.
                let parts = [(heads.k, self.wide_cache[0]), (heads.v, self.wide_cache[1])];
                let narrowed: Vec<Id> = parts
                    .into_iter()
                    .filter(|&(_, wide)| wide && self.flash_attention)
                    .map(|(head, _)| {
                        self.graph.result_of(Type::F16, [head, cache.cells, heads.n_head_kv, self.streams], &[])
                    })
                    .collect();
                self.scores(q, &narrowed, cache.mask, cache.cells, heads, self.streams)
            }
            Attends::Batch { mask } => {
                let (k, v) = (self.permuted(k), self.permuted(v));
                let half = |builder: &mut Self, part: Id| {
                    let shape = builder.graph.shape(part);
                    match builder.flash_attention {
                        true => builder.graph.result_of(Type::F16, shape, &[part]),
                        false => part,
                    }
                };
                let (k, v) = (half(self, k), half(self, v));
                self.scores(q, &[k, v], mask, self.tokens, heads, 1)
            }
        };
        if let Attends::Cache(Cache { v_rotation: Some(rotation), .. }) = attends {
            out = self.rotate(out, rotation);
        }
        let projected =
            ["attn_output", "attn_out"].iter().find_map(|name| self.project(&format!("{layer}.{name}"), out));
        Some(projected.unwrap_or(out))
    }

    fn permuted(&mut self, part: Id) -> Id {
        let [a, b, c, d] = self.graph.shape(part);
        self.graph.view(part, [a, c, b, d])
    }

    /// Softmax of queries by keys, times values. `kv` has those of them that do not lie in the cache.
    fn scores(&mut self, q: Id, kv: &[Id], mask: Id, cells: u64, heads: Heads, streams: u64) -> Id {
        let per_stream = self.tokens / streams;
        let q = self.graph.view(q, [heads.k, heads.n_head, per_stream, streams]);
        let q = self.permuted(q);
        let out = if self.flash_attention {
            let sources = [&[q], kv, &[mask]].concat();
            let attended = self.graph.result([heads.v, heads.n_head, per_stream, streams], &sources);
            self.graph.view(attended, [heads.v * heads.n_head, self.tokens, 1, 1])
        } else {
            let sources = [&kv[..kv.len().min(1)], &[q]].concat();
            let kq = self.graph.result([cells, per_stream, heads.n_head, streams], &sources);
            let kq = self.graph.in_place(&[kq, mask]);
            let values: Vec<Id> = kv.get(1).map(|&v| self.transposed(v)).into_iter().chain([kq]).collect();
            let kqv = self.graph.result([heads.v, per_stream, heads.n_head, streams], &values);
            let kqv = self.permuted(kqv);
            self.graph.result([heads.v * heads.n_head, self.tokens, 1, 1], &[kqv])
        };
        self.graph.expand(out);
        out
    }

    fn transposed(&mut self, values: Id) -> Id {
        let [a, b, c, d] = self.graph.shape(values);
        let view = self.graph.view(values, [b, a, c, d]);
        self.graph.result([b, a, c, d], &[view])
    }

    /// Multiplication with a Hadamard matrix, block by block (`llama_mul_mat_hadamard`).
    fn rotate(&mut self, part: Id, rotation: Id) -> Id {
        let shape = self.graph.shape(part);
        let [side, ..] = self.graph.shape(rotation);
        let elements: u64 = shape.iter().product();
        // A part that is not contiguous is copied first.
        let contiguous = self.graph.result(shape, &[part]);
        let blocks = self.graph.view(contiguous, [side, elements / side.max(1), 1, 1]);
        let rotated = self.graph.result([side, elements / side.max(1), 1, 1], &[rotation, blocks]);
        self.graph.view(rotated, shape)
    }

    /// The feed-forward part of a layer: experts, shared experts, or plain.
    pub(super) fn feed_forward(&mut self, layer: &str, input: Id, experts_used: u64) -> Option<Id> {
        if self.has(&format!("{layer}.ffn_gate_inp.weight")) {
            let mut out = self.experts(layer, input, experts_used)?;
            if self.has(&format!("{layer}.ffn_up_shexp.weight")) {
                let shared = self.plain(layer, "_shexp", input)?;
                out = self.graph.in_place(&[out, shared]);
            }
            return Some(out);
        }
        self.plain(layer, "", input)
    }

    fn plain(&mut self, layer: &str, suffix: &str, input: Id) -> Option<Id> {
        let up = self.project(&format!("{layer}.ffn_up{suffix}"), input)?;
        let hidden = match self.project(&format!("{layer}.ffn_gate{suffix}"), input) {
            Some(gate) => self.gated(gate, up),
            None => {
                let [width, rows, ..] = self.graph.shape(up);
                let down = self.tensor(&format!("{layer}.ffn_down{suffix}.weight"))?;
                match down.dims.first() {
                    // Up and gate in one.
                    Some(&half) if half * 2 == width => self.graph.result([half, rows, 1, 1], &[up]),
                    _ => self.graph.in_place(&[up]),
                }
            }
        };
        self.project(&format!("{layer}.ffn_down{suffix}"), hidden)
    }

    /// The product of an activated gate with a parallel projection: ggml has one operation for both.
    fn gated(&mut self, gate: Id, up: Id) -> Id {
        let shape = self.graph.shape(gate);
        self.graph.result(shape, &[gate, up])
    }

    fn experts(&mut self, layer: &str, input: Id, used: u64) -> Option<Id> {
        let [width, tokens, ..] = self.graph.shape(input);
        let experts = self.width(&format!("{layer}.ffn_gate_inp"))?;
        let logits = self.project(&format!("{layer}.ffn_gate_inp"), input)?;
        let probs = self.graph.in_place(&[logits]);
        let selection = match self.has(&format!("{layer}.exp_probs_b.bias")) {
            true => self.graph.result([experts, tokens, 1, 1], &[probs]),
            false => probs,
        };
        let sorted = self.graph.result_of(Type::I32, [experts, tokens, 1, 1], &[selection]);
        let selected = self.graph.view(sorted, [used, tokens, 1, 1]);
        let probs = self.graph.view(probs, [1, experts, tokens, 1]);
        let weights = self.graph.result([1, used, tokens, 1], &[probs, selected]);
        // Norming the weights takes a row of sums; it is so small that all models are taken to do it.
        let flat = self.graph.view(weights, [used, tokens, 1, 1]);
        let sums = self.graph.result([1, tokens, 1, 1], &[flat]);
        let sums = self.graph.in_place(&[sums]);
        let weights = self.graph.in_place(&[flat, sums]);
        let weights = self.graph.view(weights, [1, used, tokens, 1]);
        self.graph.expand(weights);

        let spread = self.graph.view(input, [width, 1, tokens, 1]);
        let hidden = self.expert_hidden(layer, spread, selected, used)?;
        let down = self.graph.result([width, used, tokens, 1], &[hidden, selected]);
        let down = self.add_bias(&format!("{layer}.ffn_down_exps"), down);
        let weighted = self.graph.in_place(&[down, weights]);
        self.graph.expand(weighted);
        let parts: Vec<Id> = (0..used)
            .map(|_| {
                let part = self.graph.view(weighted, [width, tokens, 1, 1]);
                self.graph.expand(part);
                part
            })
            .collect();
        let (&first, rest) = parts.split_first()?;
        if rest.is_empty() {
            return Some(self.graph.result([width, tokens, 1, 1], &[first]));
        }
        let mut sum = first;
        for &part in rest {
            sum = self.graph.in_place(&[sum, part]);
            self.graph.expand(sum);
        }
        Some(sum)
    }

    fn expert_hidden(&mut self, layer: &str, input: Id, selected: Id, used: u64) -> Option<Id> {
        let [_, _, tokens, _] = self.graph.shape(input);
        let mut project = |name: &str| {
            let width = self.width(&format!("{layer}.{name}"))?;
            let product = self.graph.result([width, used, tokens, 1], &[input, selected]);
            Some(self.add_bias(&format!("{layer}.{name}"), product))
        };
        if let Some(both) = project("ffn_gate_up_exps") {
            let [width, ..] = self.graph.shape(both);
            let half = [width / 2, used, tokens, 1];
            let (gate, up) = (self.graph.view(both, half), self.graph.view(both, half));
            return Some(self.gated(gate, up));
        }
        let up = project("ffn_up_exps")?;
        Some(match project("ffn_gate_exps") {
            Some(gate) => self.gated(gate, up),
            None => self.graph.in_place(&[up]),
        })
    }
}
