//! Workers, their slots, and the threads that compute for them.
//!
//! On the CPU a request alone is fastest with all cores, and several are fastest with a worker each, or in the batches of one: two
//! threads that compute one token wait for each other some hundred times, two that compute a token each never; but each worker reads
//! all weights for each of its tokens, and a batch reads them once. Which gains more depends on the model, the kernels and the machine
//! (docs/performance.md), so `Tuning::Auto` has it measured. Workers share the cores: see `worker::cores`.

use super::rates::Rates;
use crate::config::{DEFAULT_UBATCH, EngineConfig, Tuning, in_range};
use crate::error::{Error, Result};
use crate::machine::MachineSnapshot;
use crate::model::ModelInfo;

const MAX_SLOTS: u32 = 64;
/// Workers that nobody asked for, at most. Each reads all weights for each of its tokens, and a few cores read as fast as memory
/// gives; a batch of one worker reads them once. Measured on two cores only.
const MAX_WORKERS: u32 = 4;
/// Streams of a worker whose batches read the weights once. Measured on two cores: up to 8 streams one worker with both gave 0.9 to 1.2 times
/// what two gave, with 16 and 32 0.6 to 1.0 times; and a worker less is a context less.
const STREAMS_TOGETHER: u32 = 8;
/// Streams that `Tuning::Throughput` expects where nobody says it.
const BUSY_STREAMS: u32 = 8;
/// Slots that `Tuning::Auto` gives each worker beyond its part of the streams, at most: as many as are measured.
const MOST_TOGETHER: u32 = 8;
/// Micro-batches of a worker that decodes other streams beside a prompt, and of one that is to be fast in the whole.
const SMALL_UBATCH: u32 = 64;
const LARGE_UBATCH: u32 = 512;

/// What computes, and what a batch costs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Computes {
    /// A batch costs little more than a token.
    OnGpus,
    /// On the CPU, with kernels that read the weights once for a batch.
    InCheapBatches,
    /// On the CPU, where a batch costs nearly as much as its tokens.
    TokenByToken,
}

/// How the work is divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub workers: u32,
    pub slots: u32,
    /// Why, for people.
    pub reason: String,
}

/// As asked for, or as the streams are best served by: the first one is wanted, the others take less memory each.
pub(super) fn shapes(
    config: &EngineConfig,
    info: &ModelInfo,
    machine: &MachineSnapshot,
    computes: Computes,
    rates: Option<&Rates>,
) -> Result<Vec<Shape>> {
    in_range("streams", config.streams.unwrap_or(1), 1..=MAX_SLOTS)?;
    contradicts(config)?;
    let usual = if config.tuning == Some(Tuning::Throughput) { BUSY_STREAMS } else { 1 };
    let streams = config.streams.unwrap_or(usual);
    let (wanted, measured_slots, reason) = wanted(config, info, machine, streams, computes, rates);
    in_range("workers", wanted, 1..=machine.cpus())?;
    let mut shapes: Vec<Shape> = vec![];
    let mut workers = wanted;
    loop {
        let part = streams.div_ceil(workers);
        // Room for streams together as well as apart, until it is known which is better.
        let together = (config.tuning == Some(Tuning::Auto) && workers > 1).then(|| streams.min(MOST_TOGETHER));
        for more in [measured_slots.filter(|_| workers == wanted).or(together), None] {
            let slots = slots(config, more.unwrap_or(part).max(part))?;
            if shapes.last().is_none_or(|last| (last.workers, last.slots) != (workers, slots)) {
                shapes.push(Shape { workers, slots, reason: reason.clone() });
            }
        }
        // Nobody asked for that many.
        match config.workers.is_none() && workers > 1 {
            true => workers /= 2,
            false => return Ok(shapes),
        }
    }
}

/// Workers, slots where they follow from what was measured, and why.
fn wanted(
    config: &EngineConfig,
    info: &ModelInfo,
    machine: &MachineSnapshot,
    streams: u32,
    computes: Computes,
    rates: Option<&Rates>,
) -> (u32, Option<u32>, String) {
    let apart = streams.min(machine.cores()).min(MAX_WORKERS);
    if let Some(workers) = config.workers {
        return (workers, None, "workers as asked for".into());
    }
    if computes == Computes::OnGpus {
        return (1, None, "one worker: a GPU computes a batch at the price of a token".into());
    }
    match config.tuning {
        Some(Tuning::Latency) => (1, None, "latency: one worker, with all threads for each token".into()),
        Some(Tuning::Throughput) => {
            let Estimate { reading_ms, waiting_ms } = Estimate::of(info, machine);
            let of = format!("about {waiting_ms:.1} ms beside {reading_ms:.1} ms of reading weights (estimated)");
            match waiting_ms > GAINS * reading_ms && apart > 1 {
                true => (
                    apart,
                    None,
                    format!("throughput: threads on one token wait for each other {of}, so workers share the cores"),
                ),
                false => (
                    1,
                    None,
                    format!(
                        "throughput: threads on one token wait for each other only {of}, so one worker reads weights once for all streams"
                    ),
                ),
            }
        }
        Some(Tuning::Auto) => match rates.and_then(|rates| rates.shape(streams)) {
            Some((workers, slots)) => (workers, Some(slots), "auto: as was measured before".into()),
            None => (
                apart,
                None,
                "auto: a worker per stream, at most 4 and no more than cores, until it is measured".into(),
            ),
        },
        None => match config.streams {
            Some(_) if computes == Computes::InCheapBatches && !config.deterministic => {
                let why =
                    format!("a worker for every {STREAMS_TOGETHER} streams, at most 4: a batch reads the weights once");
                (streams.div_ceil(STREAMS_TOGETHER).min(apart), None, why)
            }
            Some(_) => (apart, None, "a worker per stream, at most 4 and no more than cores".into()),
            None => (1, None, "one worker".into()),
        },
    }
}

/// Refuses what leaves nothing to choose, or the opposite of what is to be chosen for.
fn contradicts(config: &EngineConfig) -> Result<()> {
    let Some(tuning) = config.tuning else {
        return no_cache_without_measuring(config);
    };
    let refuse = |why: String| Err(Error::invalid("tuning", why));
    let name = tuning.name();
    match (tuning, config.workers) {
        (Tuning::Latency, Some(workers)) if workers > 1 => {
            return refuse(format!(
                "latency is one worker with all cores for each token, but {workers} workers are asked for; leave workers out, or use throughput or auto"
            ));
        }
        (Tuning::Throughput | Tuning::Auto, _) if config.deterministic => {
            return refuse(format!(
                "{name} divides cores and batches by what is fast, which deterministic fixes; use latency, or leave tuning out"
            ));
        }
        (Tuning::Throughput | Tuning::Auto, workers) if config.share_threads == Some(false) && workers != Some(1) => {
            return refuse(format!("with {name} workers share the cores, but share_threads is off; leave it out"));
        }
        _ => {}
    }
    no_cache_without_measuring(config)
}

fn no_cache_without_measuring(config: &EngineConfig) -> Result<()> {
    match &config.tuning_cache {
        Some(_) if config.tuning != Some(Tuning::Auto) => {
            Err(Error::invalid("tuning_cache", "nothing is measured without tuning \"auto\", so nothing is kept"))
        }
        Some(folder) if folder.to_str().is_none() => Err(Error::invalid("tuning_cache", "the path is not UTF-8")),
        _ => Ok(()),
    }
}

/// What one token of one stream costs when all cores compute it: a guess from a few figures seen on two cores, to choose one of two
/// ways by; `Tuning::Auto` measures.
struct Estimate {
    reading_ms: f64,
    waiting_ms: f64,
}

/// Quantised weights that a core computes with per second, and that memory gives to all cores.
const CORE_BYTES: f64 = 8e9;
const MEMORY_BYTES: f64 = 24e9;
/// What the threads of a token wait for each other in one layer.
const LAYER_WAITS_MS: f64 = 0.08;
/// Less is not worth a context per worker.
const GAINS: f64 = 0.1;

impl Estimate {
    fn of(info: &ModelInfo, machine: &MachineSnapshot) -> Self {
        let cores = f64::from(machine.cores());
        let reading_ms = info.tensor_bytes as f64 / (cores * CORE_BYTES).min(MEMORY_BYTES) * 1e3;
        let waiting_ms = if machine.cores() > 1 { f64::from(info.n_layer) * LAYER_WAITS_MS } else { 0.0 };
        Self { reading_ms, waiting_ms }
    }
}

/// Tokens per micro-batch where nobody says it, on the CPU.
pub(super) fn usual_micro_batch(config: &EngineConfig, slots: u32) -> u32 {
    match config.tuning {
        // Alone it holds nobody up.
        Some(Tuning::Latency) if slots > 1 => SMALL_UBATCH,
        Some(Tuning::Throughput) => LARGE_UBATCH,
        _ => DEFAULT_UBATCH,
    }
}

/// How many threads compute, and whether those are for all workers together.
pub(super) fn threads(config: &EngineConfig, machine: &MachineSnapshot, workers: u32) -> Result<(u32, bool)> {
    let cpus = machine.cpus();
    let for_all = config.threads.is_none() || matches!(config.tuning, Some(Tuning::Throughput | Tuning::Auto));
    let share = config.share_threads.unwrap_or(for_all && workers > 1 && !config.deterministic);
    if share && config.deterministic {
        return Err(Error::invalid("share_threads", "deterministic needs a fixed number of threads for each worker"));
    }
    let each = if share { machine.cores() } else { (machine.cores() / workers).max(1) };
    let threads = config.threads.unwrap_or(each);
    in_range("threads", threads, 1..=cpus)?;
    if !share && threads * workers > cpus {
        let problem = format!(
            "{workers} workers of {threads} threads are {} compute threads, but this process may use {cpus} cores; more \
             threads than cores make decoding collapse. Use at most {} threads per worker, or share_threads",
            threads * workers,
            cpus / workers
        );
        return Err(Error::invalid("threads", problem));
    }
    Ok((threads, share))
}

/// Of each worker: as many as asked for, or as it needs.
fn slots(config: &EngineConfig, needed: u32) -> Result<u32> {
    let slots = match config.slots {
        Some(slots) => slots,
        None if config.deterministic => 1,
        None => needed,
    };
    in_range("slots", slots, 1..=MAX_SLOTS)?;
    if config.deterministic && slots > 1 {
        let problem =
            format!("{slots} slots decode together, which deterministic excludes; use 1, other requests wait");
        return Err(Error::invalid("slots", problem));
    }
    Ok(slots)
}
