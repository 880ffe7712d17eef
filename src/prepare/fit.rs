//! Whether it fits, and what is reduced until it does: only what the caller allowed, in a fixed order, and never silently.

use super::choose::check_cache_types;
use super::memory::{Demand, MemoryPlan, Room, largest_ctx, on_devices, on_host};
use crate::config::{EngineConfig, KvType, MIN_CTX, in_range};
use crate::device::LayerSplit;
use crate::error::{Error, Result};
use crate::machine::MachineSnapshot;
use crate::model::Header;

/// Contexts are reduced to multiples of this: llama.cpp would round them up to it.
const CTX_STEP: u32 = 256;

pub(super) struct Wanted {
    pub demand: Demand,
    pub kv_types: (KvType, KvType),
    pub devices: Vec<u32>,
    pub n_gpu_layers: u32,
    /// Weights may be left as they are in the file.
    pub may_leave: bool,
}

pub(super) struct Fitted {
    pub demand: Demand,
    pub kv_types: (KvType, KvType),
    pub n_gpu_layers: u32,
    pub memory: MemoryPlan,
    pub split: Option<LayerSplit>,
    pub adjustments: Vec<String>,
}

/// Bytes that this process may have on the host, as far as that is known.
pub(super) fn capacity(config: &EngineConfig, machine: &MachineSnapshot) -> Option<u64> {
    let limits = [machine.memory_bytes(), machine.data_limit_bytes, config.memory_limit];
    limits.into_iter().flatten().min()
}

pub(super) fn fit(config: &EngineConfig, model: &Header, machine: &MachineSnapshot, wanted: Wanted) -> Result<Fitted> {
    let mut fitter = Fitter { config, model, machine, state: wanted, adjustments: vec![] };
    let (memory, split) = fitter.run()?;
    let Wanted { demand, kv_types, n_gpu_layers, .. } = fitter.state;
    Ok(Fitted { demand, kv_types, n_gpu_layers, memory, split, adjustments: fitter.adjustments })
}

struct Fitter<'a> {
    config: &'a EngineConfig,
    model: &'a Header,
    machine: &'a MachineSnapshot,
    state: Wanted,
    adjustments: Vec<String>,
}

type Plan = (MemoryPlan, Option<LayerSplit>);

impl Fitter<'_> {
    fn run(&mut self) -> Result<Plan> {
        let steps = [
            Self::leave_in_file,
            Self::cap_context,
            Self::reduce_types,
            Self::reduce_slots,
            Self::reduce_context,
            Self::reduce_layers,
        ];
        let mut problem = match self.plan() {
            Ok(plan) => return Ok(plan),
            Err(problem) => problem,
        };
        for step in steps {
            step(self)?;
            match self.plan() {
                Ok(plan) => return Ok(plan),
                Err(still) => problem = still,
            }
        }
        Err(problem)
    }

    /// The plan as things stand; an error where it does not fit.
    fn plan(&self) -> Result<Plan> {
        let rooms: Vec<Room> = self.state.devices.iter().filter_map(|&index| self.room(index)).collect();
        let (mut memory, split) = match self.state.n_gpu_layers {
            0 => (on_host(self.model, &self.state.demand), None),
            layers => {
                let ratios = self.config.tensor_split.as_ref();
                let (memory, split) = on_devices(self.model, &self.state.demand, &rooms, layers, ratios)?;
                (memory, Some(split))
            }
        };
        let capacity = capacity(self.config, self.machine);
        memory.places[0].capacity = capacity;
        let required = memory.host().resident();
        match capacity {
            Some(available) if required > available => Err(Error::DoesNotFit {
                place: memory.host().place.clone(),
                required,
                available,
                advice: self.advice(),
            }),
            _ => Ok((memory, split)),
        }
    }

    fn room(&self, index: u32) -> Option<Room> {
        self.machine.devices.get(index).map(|device| Room { index, bytes: device.total_bytes })
    }

    /// What the caller could allow.
    fn advice(&self) -> String {
        let demand = &self.state.demand;
        let mut advice = vec![format!("a shorter context than {}", demand.n_ctx)];
        if demand.slots > 1 {
            advice.push(format!("fewer slots than {}", demand.slots));
        }
        if self.state.kv_types.0 < KvType::Q8_0 {
            advice.push("kv_type_k and kv_type_v q8_0".into());
        }
        if let Some(workers) = self.config.workers.filter(|workers| *workers > 1) {
            advice.push(format!("fewer workers than {workers}"));
        }
        if self.config.warm_spare {
            advice.push("no warm_spare".into());
        }
        if !demand.use_mmap {
            advice.push("use_mmap".into());
        }
        if demand.use_repack && demand.use_mmap {
            advice.push("no use_repack".into());
        }
        format!("use {}, or a smaller model; `shrink` lets prepare() reduce by itself", advice.join(", "))
    }

    /// Rearranged weights are the process's own; pages of the file the system can drop.
    fn leave_in_file(&mut self) -> Result<()> {
        self.state.demand.use_repack &= !self.state.may_leave;
        Ok(())
    }

    /// A context that nobody asked for is no larger than the smallest device's share of the cache allows.
    fn cap_context(&mut self) -> Result<()> {
        if self.config.n_ctx.is_some() || self.state.n_gpu_layers == 0 {
            return Ok(());
        }
        let smallest = Demand { n_ctx: MIN_CTX, ..self.state.demand.clone() };
        let rooms: Vec<Room> = self.state.devices.iter().filter_map(|&index| self.room(index)).collect();
        let ratios = self.config.tensor_split.as_ref();
        let Ok((_, split)) = on_devices(self.model, &smallest, &rooms, self.state.n_gpu_layers, ratios) else {
            return Ok(());
        };
        let capped = largest_ctx(self.model, &self.state.demand, &split, MIN_CTX)?;
        self.set_context(capped, "the smallest device holds no more of the cache");
        Ok(())
    }

    fn reduce_types(&mut self) -> Result<()> {
        let Some(least) = self.config.shrink.kv_type else { return Ok(()) };
        let (k, v) = self.state.kv_types;
        let narrower = (k.max(least), v.max(least));
        if narrower == (k, v) {
            return Ok(());
        }
        check_cache_types(self.model, self.state.demand.flash_attention, narrower.0, narrower.1)?;
        self.adjustments.push(format!("kv types {k}, {v} reduced to {}, {}: memory", narrower.0, narrower.1));
        self.state.kv_types = narrower;
        (self.state.demand.kv_type_k, self.state.demand.kv_type_v) = (narrower.0.ggml(), narrower.1.ggml());
        Ok(())
    }

    fn reduce_slots(&mut self) -> Result<()> {
        let wanted = self.state.demand.slots;
        let Some(least) = self.config.shrink.slots else { return Ok(()) };
        in_range("shrink.slots", least, 1..=wanted)?;
        while self.state.demand.slots > least && self.plan().is_err() {
            self.state.demand.slots -= 1;
        }
        let slots = self.state.demand.slots;
        if slots < wanted {
            self.adjustments.push(format!("slots reduced from {wanted} to {slots}: memory"));
        }
        Ok(())
    }

    fn reduce_context(&mut self) -> Result<()> {
        let Some(least) = self.config.shrink.n_ctx else { return Ok(()) };
        in_range("shrink.n_ctx", least, MIN_CTX..=self.state.demand.n_ctx)?;
        let wanted = self.state.demand.n_ctx;
        // The largest multiple of the step that fits, by halving; at last the least itself.
        let (mut low, mut high) = (least.div_ceil(CTX_STEP), wanted.div_ceil(CTX_STEP));
        while low < high {
            let middle = low + (high - low) / 2;
            self.state.demand.n_ctx = middle * CTX_STEP;
            match self.plan() {
                Ok(_) => low = middle + 1,
                Err(_) => high = middle,
            }
        }
        self.state.demand.n_ctx = wanted;
        self.set_context((low.saturating_sub(1) * CTX_STEP).max(least), "memory");
        Ok(())
    }

    fn reduce_layers(&mut self) -> Result<()> {
        let wanted = self.state.n_gpu_layers;
        let Some(least) = self.config.shrink.n_gpu_layers else { return Ok(()) };
        if wanted == 0 {
            return Ok(());
        }
        in_range("shrink.n_gpu_layers", least, 0..=wanted)?;
        while self.state.n_gpu_layers > least && self.plan().is_err() {
            self.state.n_gpu_layers -= 1;
        }
        let layers = self.state.n_gpu_layers;
        if layers < wanted {
            self.adjustments.push(format!("layers on GPUs reduced from {wanted} to {layers}: memory"));
        }
        Ok(())
    }

    fn set_context(&mut self, n_ctx: u32, why: &str) {
        let demand = &mut self.state.demand;
        if n_ctx < demand.n_ctx {
            self.adjustments.push(format!("n_ctx reduced from {} to {n_ctx}: {why}", demand.n_ctx));
            demand.n_ctx = n_ctx;
        }
    }
}
