//! The memory plan: what running a model will take, and where, before anything is loaded.
//!
//! Sizes follow from the header and the choices of [`prepare`](crate::prepare()) by the same rules by which llama.cpp
//! allocates; tests compare them with what it really allocates. What is only estimated is said to be.

mod cache;
mod compute;
mod devices;
mod weights;

#[cfg(test)]
mod tests;

use crate::model::{GgmlType, Header};
use cache::Memory;
use serde::{Deserialize, Serialize};

pub(crate) use devices::{Room, largest_ctx, on_devices};
pub(crate) use weights::{batches_are_cheap, without_fast_kernels};

/// The choices that memory depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Positions per slot.
    pub n_ctx: u32,
    pub n_ubatch: u32,
    pub slots: u32,
    /// Workers, and a spare.
    pub contexts: u32,
    /// Processes that load the weights.
    pub copies: u32,
    pub flash_attention: bool,
    pub kv_type_k: GgmlType,
    pub kv_type_v: GgmlType,
    /// Layers with a sliding window remember every position.
    pub swa_full: bool,
    /// Saved states, for all workers together.
    pub prefix_store_bytes: u64,
    /// Most tokens that are guessed ahead per slot; each has logits.
    pub draft_max: u32,
    pub use_mmap: bool,
    pub use_repack: bool,
    /// Instruction sets that the CPU kernels use.
    pub cpu_features: &'static [&'static str],
}

/// The place that is no device.
pub(crate) const HOST: &str = "host";

/// What running the model takes, by place. All sizes in bytes, for all workers together, and for a spare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// The host's memory first, then the devices that are used.
    pub places: Vec<PlacePlan>,
    /// What is estimated, and why; empty where everything follows from rules that tests compare with llama.cpp.
    pub estimates: Vec<String>,
}

/// What one place takes. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PlacePlan {
    /// `host`, or a device such as `GPU0`.
    pub place: String,
    /// Weights mapped from the file: pages that the system may drop and read again. Those of weights that are rearranged leave the
    /// process when it has loaded.
    pub weights_mapped: u64,
    /// Weights in buffers: read, copied to the device, or repacked for faster kernels.
    pub weights: u64,
    /// Keys and values of past positions, and states of recurrent layers.
    pub cache: u64,
    /// Intermediate results of one micro-batch.
    pub compute: u64,
    /// Logits handed to the host.
    pub output: u64,
    /// Vocabulary, graphs, bookkeeping, and the budget for saved prefixes. Always an estimate.
    pub overhead: u64,
    /// What the place has in all, as far as that limits this process; `None` where it is not known.
    pub capacity: Option<u64>,
}

impl PlacePlan {
    /// Bytes that must be there for good: everything but what is mapped from the file.
    #[must_use]
    pub fn resident(&self) -> u64 {
        [self.weights, self.cache, self.compute, self.output, self.overhead].iter().fold(0, |a, &b| a.saturating_add(b))
    }

    /// Everything, mapped weights included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.resident().saturating_add(self.weights_mapped)
    }
}

impl MemoryPlan {
    /// The host's part.
    #[must_use]
    pub fn host(&self) -> &PlacePlan {
        &self.places[0]
    }

    /// Bytes over all places.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.places.iter().fold(0, |sum: u64, place| sum.saturating_add(place.total()))
    }
}

impl MemoryPlan {
    /// Whether all of it can be in memory while `running` is: within the capacity of each place together, and within what is
    /// `free` on the host now. What is not known does not fit.
    pub(crate) fn fits_beside(&self, running: &MemoryPlan, free: Option<u64>) -> bool {
        let fits = |place: &PlacePlan| {
            let there = running.places.iter().find(|other| other.place == place.place).map_or(0, PlacePlan::resident);
            place.capacity.is_some_and(|capacity| place.resident().saturating_add(there) <= capacity)
        };
        free.is_some_and(|free| self.host().resident() <= free) && self.places.iter().all(fits)
    }
}

impl Demand {
    /// Most tokens of a batch that have logits.
    fn outputs(&self) -> u64 {
        (u64::from(self.slots) * u64::from(1 + self.draft_max)).min(u64::from(self.n_ubatch))
    }
}

/// Whether the model has layers with a state instead of a cache.
pub(crate) fn recurs(model: &Header) -> bool {
    Memory::of(model).recurs()
}

/// Estimated bookkeeping of a worker besides its buffers: graphs, scheduler, samplers, stacks.
const WORKER_OVERHEAD: u64 = 12 << 20;
/// Estimated bytes per token of the vocabulary, in the engine's tables.
const TOKEN_OVERHEAD: u64 = 320;

/// The plan for running everything on the host.
pub(crate) fn on_host(model: &Header, demand: &Demand) -> MemoryPlan {
    let memory = Memory::of(model);
    let (contexts, copies) = (u64::from(demand.contexts), u64::from(demand.copies));
    let info = model.info();
    let weights = weights::on_host(model, demand, |_| true, true);
    let cache: u64 = (0..memory.layers.len() as u32).map(|layer| memory.layer_bytes(model, layer, demand)).sum();
    let (compute, exact) = compute::bytes(model, &memory, demand);
    let output = 4 * u64::from(info.n_vocab) * demand.outputs();
    let vocabulary = TOKEN_OVERHEAD * u64::from(info.n_vocab) + weights::header_bytes(model.parts());
    let place = PlacePlan {
        place: HOST.into(),
        weights_mapped: weights.mapped,
        weights: weights.allocated.saturating_mul(copies),
        cache: cache.saturating_mul(contexts),
        compute: compute.saturating_mul(contexts),
        output: output.saturating_mul(contexts),
        overhead: (vocabulary * copies + WORKER_OVERHEAD * contexts).saturating_add(demand.prefix_store_bytes),
        capacity: None,
    };
    let architecture = &info.architecture;
    let mut estimates = Vec::new();
    if !memory.known {
        estimates.push(format!(
            "the cache: {architecture} has memory of a kind that is not modelled; full attention is assumed"
        ));
    }
    if !exact {
        estimates.push(format!(
            "the compute buffer: the graph of {architecture} is not modelled exactly; a margin is added"
        ));
    }
    MemoryPlan { places: vec![place], estimates }
}
