//! [`Plan`]: what running an engine will do, said beforehand.

use super::PreparedEngine;
use super::render::bytes;
use crate::config::Isolation;
use serde::{Deserialize, Serialize};

/// What would be done, in order. Printing it gives a line per step and the memory as a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Plan {
    /// The steps: the first ones are `prepare`'s, the last ones the supervisor's.
    pub steps: Vec<Step>,
    /// The engine that it leads to.
    pub engine: PreparedEngine,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Step {
    /// Which kind: `locate`, `read_header`, `verify_digest`, `devices`, `memory`, `load_weights`,
    /// `topology`, `start_workers`, `warm_up`, `calibrate`.
    pub kind: String,
    /// What it does here.
    pub detail: String,
}

impl Plan {
    pub(super) fn of(engine: &PreparedEngine, topology: String) -> Self {
        let mut steps = vec![];
        let mut step = |kind: &str, detail: String| steps.push(Step { kind: kind.into(), detail });
        let (info, files) = (engine.info(), engine.files());
        let parts = if files.len() > 1 { format!(" and {} more files", files.len() - 1) } else { String::new() };
        step("locate", format!("{}{parts}", engine.model().display()));
        let layers = info.n_layer;
        step("read_header", format!("{}, {layers} layers, {}", info.architecture, info.quantization));
        if !engine.digest().is_empty() {
            let all: u64 = files.iter().map(|file| file.bytes).sum();
            step("verify_digest", format!("read {} and compare", bytes(all)));
        }
        let devices = match engine.devices() {
            [] => "the CPU".into(),
            _ => format!("{} layers on {}", engine.n_gpu_layers(), engine.device_mask()),
        };
        let kernels = engine.cpu_level().map_or(String::new(), |level| format!(", CPU kernels of level {level}"));
        step("devices", devices + &kernels);
        for adjusted in engine.adjustments() {
            step("memory", adjusted.clone());
        }
        for place in &engine.memory().places {
            let mapped = match place.weights_mapped {
                0 => String::new(),
                mapped => format!(", and {} mapped from the file", bytes(mapped)),
            };
            step("memory", format!("{}: {}{mapped}", place.place, bytes(place.resident())));
        }
        let how = if engine.use_mmap() { "map" } else { "read" };
        let kernels = if engine.use_repack() { "rearranged for faster kernels" } else { "as they are in the file" };
        let (whose, where_) = match engine.isolation() {
            Isolation::Process => ("in each worker", "as child processes"),
            Isolation::Thread => ("once for all workers", "as threads"),
        };
        let spare = if engine.warm_spare() { " and a spare" } else { "" };
        step("load_weights", format!("{how} {}, {whose}, {kernels}", bytes(info.tensor_bytes)));
        let (workers, threads, slots) = (engine.workers(), engine.threads(), engine.slots());
        let whose_threads = if engine.share_threads() { "for all together" } else { "each" };
        let (k, v) = engine.kv_types();
        let shape = format!("{slots} slots of {} positions, cache {k}/{v}", engine.n_ctx());
        step("topology", topology);
        step(
            "start_workers",
            format!(
                "{workers}{spare} {where_}, with {threads} compute threads {whose_threads}, {shape}, batches of {}",
                engine.n_ubatch()
            ),
        );
        step("warm_up", "decode one token in each; only then it is ready".into());
        if engine.is_to_be_measured() {
            step(
                "calibrate",
                "while nothing runs, half a second in all: one worker with all threads, and workers side by side"
                    .into(),
            );
        }
        Self { steps, engine: engine.clone() }
    }

    /// The whole of it as JSON: equal plans give equal bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data with string keys")
    }
}
