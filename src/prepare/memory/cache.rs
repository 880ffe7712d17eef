//! Which layers remember what: attention over all positions, over a window, or a state of fixed size; and what that
//! memory weighs. Mirrors `llama_model::create_memory` and the memory classes it makes.

use super::Demand;
use crate::model::{GgmlType, Header};

/// llama.cpp rounds the positions of a cache up to this.
const CACHE_PADDING: u64 = 256;

/// What one layer remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LayerMemory {
    pub attention: Option<Reach>,
    pub recurrent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Every position of the context.
    Full,
    /// The positions of a sliding window.
    Window,
}

/// What the layers of a model remember, and whether that is known for its architecture or assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Memory {
    pub layers: Vec<LayerMemory>,
    /// Positions of a sliding window, where there is one.
    pub window: Option<u64>,
    pub known: bool,
    /// Keys are compressed and hold the values too.
    latent: bool,
}

/// Models that see all of their text at once, and remember nothing.
const WITHOUT_MEMORY: &str = "\
    bert jina-bert-v2 jina-bert-v3 nomic-bert nomic-bert-moe neo-bert eurobert wavtokenizer-dec modern-bert \
    gemma-embedding dream llada llada-moe rnd1 clef";
const RECURRENT: &str = "mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7";
/// Hybrids whose recurrent layers are those without key-value heads.
const HYBRID_BY_HEADS: &str = "jamba plamo2 granitehybrid lfm2 lfm2moe kimi-linear bailingmoe3";
/// Hybrids in which every n-th layer attends.
const HYBRID_BY_INTERVAL: &str = "qwen3next qwen35 qwen35moe minimax-01";
/// Models with memory of a kind of their own, for which only an estimate is made.
const OTHER: &str = "\
    minimax-m3 glm-dsa deepseek32 deepseek4 glm5-next hy_v4 dots3note dflash kimi-k3 qwen4exp t5 gemma4-assistant eagle3";

/// Sliding windows by architecture: the window where the file states none (0: then there is none), and the period in
/// layers of which one attends to everything (the first if `dense_first`, else the last).
const WINDOWS: &[(&str, u32, u32, bool)] = &[
    ("gemma2", 4096, 2, false),
    ("gemma3", 0, 6, false),
    ("gemma3n", 0, 5, false),
    ("gpt-oss", 0, 2, false),
    ("cohere2", 0, 4, false),
    ("cohere2moe", 0, 4, true),
    ("llama4", 8192, 4, false),
    ("olmo2", 0, 4, false),
    ("exaone-moe", 128, 4, false),
    ("afmoe", 0, 4, false),
    ("mellum", 0, 4, false),
    ("plamo3", 0, 8, false),
    ("laguna", 0, 4, true),
    ("muse-glimmer", 0, 4, false),
    ("smallthinker", 0, 4, true),
    // These take the layers from the file.
    ("gemma4", 0, 0, false),
    ("mimo2", 0, 0, false),
    ("step35", 0, 0, false),
    ("granite_swa", 0, 0, false),
    ("maple", 0, 0, false),
    ("spark2_5", 0, 0, false),
];

fn listed(list: &str, architecture: &str) -> bool {
    list.split(' ').any(|name| name == architecture)
}

impl Memory {
    pub(super) fn of(model: &Header) -> Self {
        let info = model.info();
        let architecture = info.architecture.as_str();
        // Layers that only draft tokens take no part.
        let drafting = model.u32("nextn_predict_layers").unwrap_or(0);
        let n_layer = info.n_layer - drafting.min(info.n_layer);
        let window = Window::of(model, n_layer);
        let known = !listed(OTHER, architecture) && window.known;
        let layers = (0..n_layer).map(|layer| layer_memory(model, layer, &window)).collect();
        let latent = ["key_length_mla", "value_length_mla"]
            .iter()
            .all(|suffix| model.u32(&format!("attention.{suffix}")).is_some_and(|n| n > 0));
        Self { layers, window: window.positions.map(u64::from), known, latent }
    }

    pub(super) fn attends(&self) -> bool {
        self.layers.iter().any(|layer| layer.attention.is_some())
    }

    pub(super) fn windowed(&self) -> bool {
        self.layers.iter().any(|layer| layer.attention == Some(Reach::Window))
    }

    pub(super) fn recurs(&self) -> bool {
        self.layers.iter().any(|layer| layer.recurrent)
    }

    /// Positions per stream of the cache that layers of this reach have.
    pub(super) fn cells(&self, reach: Reach, demand: &Demand) -> u64 {
        let full = u64::from(demand.n_ctx).next_multiple_of(CACHE_PADDING);
        match (reach, self.window) {
            (Reach::Window, Some(window)) if !demand.swa_full => {
                let batch = u64::from(demand.n_ubatch).min(full * u64::from(demand.slots));
                full.min(window + batch).next_multiple_of(CACHE_PADDING)
            }
            _ => full,
        }
    }

    /// Bytes of one layer's keys and values or states, over all slots of a worker.
    pub(super) fn layer_bytes(&self, model: &Header, layer: u32, demand: &Demand) -> u64 {
        let memory = self.layers[layer as usize];
        let mut bytes = 0;
        if let Some(reach) = memory.attention {
            let cells = self.cells(reach, demand) * u64::from(demand.slots);
            let (k, v) = self.widths(model, layer, reach);
            bytes += row_bytes(demand.kv_type_k, k).saturating_mul(cells);
            if !self.latent {
                let v = if demand.flash_attention { v } else { self.widest_value(model) };
                bytes += row_bytes(demand.kv_type_v, v).saturating_mul(cells);
            }
        }
        if memory.recurrent {
            bytes += self.state_bytes(model) * u64::from(demand.slots);
        }
        bytes
    }

    /// Bytes of one sequence's states in one recurrent layer.
    pub(super) fn state_bytes(&self, model: &Header) -> u64 {
        4 * state_elements(model)
    }

    /// Elements of a position's keys and values.
    fn widths(&self, model: &Header, layer: u32, reach: Reach) -> (u64, u64) {
        let info = model.info();
        let heads = u64::from(info.n_head_kv.get(layer));
        let size = |suffix: &str, usual: u32| {
            let stated = model.u32(&format!("attention.{suffix}_swa")).filter(|_| reach == Reach::Window);
            u64::from(stated.unwrap_or(usual))
        };
        (heads * size("key_length", info.n_embd_head_k), heads * size("value_length", info.n_embd_head_v))
    }

    /// Without flash attention values lie transposed, and all layers take the room of the widest.
    fn widest_value(&self, model: &Header) -> u64 {
        let reach = |layer: u32| self.layers[layer as usize].attention.unwrap_or(Reach::Full);
        (0..self.layers.len() as u32).map(|layer| self.widths(model, layer, reach(layer)).1).max().unwrap_or(0)
    }
}

struct Window {
    positions: Option<u32>,
    layers: Vec<bool>,
    known: bool,
}

impl Window {
    fn of(model: &Header, n_layer: u32) -> Self {
        let info = model.info();
        let architecture = info.architecture.as_str();
        let none = |known| Self { positions: None, layers: vec![false; n_layer as usize], known };
        let entry = WINDOWS.iter().find(|entry| entry.0 == architecture).copied();
        // Only the largest model of this architecture has windows; LFM2 has them where it states one.
        let entry = match architecture {
            "exaone4" if n_layer == 64 => Some(("exaone4", 4096, 4, false)),
            "lfm2" => Some(("lfm2", 0, 0, false)),
            _ => entry,
        };
        let Some((_, usual, period, dense_first)) = entry else {
            // llama.cpp takes no notice of a window that the architecture does not use.
            return none(true);
        };
        let stated = model.u32("attention.sliding_window");
        let positions = match architecture {
            "llama4" if stated != Some(0) => Some(8192),
            "smallthinker" => stated.filter(|&window| window > 0).map(|_| 4096),
            _ => Some(stated.unwrap_or(usual)).filter(|&window| window > 0),
        };
        let Some(positions) = positions else {
            return none(true);
        };
        let listed = model.flags("attention.sliding_window_pattern");
        let period = model.u32("attention.sliding_window_pattern").unwrap_or(period);
        let windowed = |layer: u32| match (&listed, period) {
            (Some(flags), _) => flags.get(layer as usize).copied().unwrap_or(false),
            (None, 0) => true,
            (None, period) if dense_first => !layer.is_multiple_of(period),
            (None, period) => layer % period < period - 1,
        };
        Self { positions: Some(positions), layers: (0..n_layer).map(windowed).collect(), known: true }
    }
}

fn layer_memory(model: &Header, layer: u32, window: &Window) -> LayerMemory {
    let info = model.info();
    let architecture = info.architecture.as_str();
    let reach = match window.layers[layer as usize] {
        true => Reach::Window,
        false => Reach::Full,
    };
    let attention = LayerMemory { attention: Some(reach), recurrent: false };
    let recurrent = LayerMemory { attention: None, recurrent: true };
    let without_heads = info.n_head_kv.get(layer) == 0;
    match architecture {
        _ if listed(WITHOUT_MEMORY, architecture) || architecture == "t5encoder" => LayerMemory::default(),
        _ if listed(RECURRENT, architecture) => recurrent,
        "falcon-h1" => LayerMemory { attention: Some(reach), recurrent: true },
        "nemotron_h" | "nemotron_h_moe" => match (without_heads, info.n_ff.get(layer) == 0) {
            (true, true) => recurrent,
            (false, true) => attention,
            (_, false) => LayerMemory::default(),
        },
        _ if listed(HYBRID_BY_HEADS, architecture) && without_heads => recurrent,
        _ if listed(HYBRID_BY_INTERVAL, architecture) => {
            let listed = model.flags("attention.recurrent_layers");
            let interval = model.u32("full_attention_interval").unwrap_or(4).max(1);
            let recurs = listed.and_then(|flags| flags.get(layer as usize).copied());
            if recurs.unwrap_or(!(layer + 1).is_multiple_of(interval)) { recurrent } else { attention }
        }
        // Later layers read the keys and values of earlier ones.
        "gemma3n" if layer >= 20 => LayerMemory::default(),
        "gemma4" if layer >= info.n_layer.saturating_sub(model.u32("attention.shared_kv_layers").unwrap_or(0)) => {
            LayerMemory::default()
        }
        _ if without_heads => LayerMemory::default(),
        _ => attention,
    }
}

/// Elements of a recurrent layer's states for one sequence (`llama_hparams::n_embd_r` and `n_embd_s`).
fn state_elements(model: &Header) -> u64 {
    let info = model.info();
    let (n_embd, n_head) = (u64::from(info.n_embd), u64::from(info.n_head));
    let ssm = info.ssm.unwrap_or_default();
    let (d_conv, d_inner, d_state) = (u64::from(ssm.d_conv), u64::from(ssm.d_inner), u64::from(ssm.d_state));
    let before = d_conv.saturating_sub(1);
    if let Some(head) = info.wkv_head_size {
        let shifts = u64::from(model.u32("token_shift_count").unwrap_or(2));
        return shifts * n_embd + n_embd * u64::from(head);
    }
    if let Some(length) = info.shortconv_l_cache {
        return n_embd * u64::from(length - 1) + d_state * d_inner;
    }
    if let Some(head) = model.u32("kda.head_dim").map(u64::from).filter(|&head| head > 0) {
        return 3 * if d_conv > 0 { before } else { 3 } * n_head * head + head * head * n_head;
    }
    if info.architecture == "minimax-01" {
        let head = u64::from(info.n_embd_head_k);
        return head * head * n_head;
    }
    before * (d_inner + 2 * u64::from(ssm.n_group) * d_state) + d_state * d_inner
}

fn row_bytes(element: GgmlType, elements: u64) -> u64 {
    elements.div_ceil(element.block_elements()) * element.block_bytes()
}
