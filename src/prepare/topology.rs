//! Workers, their slots, and the threads that compute for them.
//!
//! On the CPU a request alone is fastest with all cores, and several are fastest with a worker each: two threads that compute one
//! token wait for each other some hundred times, two that compute a token each never. How much that gains depends on the machine
//! (docs/performance.md). So workers share the cores: see `worker::cores`.

use crate::config::{EngineConfig, in_range};
use crate::error::{Error, Result};
use crate::machine::MachineSnapshot;

const MAX_SLOTS: u32 = 64;
/// Workers that nobody asked for, at most. Each reads all weights for each of its tokens, and a few cores read as fast as memory
/// gives; a batch of one worker reads them once. Measured on two cores only.
const MAX_WORKERS: u32 = 4;

/// As many as asked for, or as `streams` are best served by.
pub(super) fn workers(config: &EngineConfig, machine: &MachineSnapshot, on_gpus: bool) -> Result<u32> {
    in_range("streams", config.streams.unwrap_or(1), 1..=MAX_SLOTS)?;
    let workers = match (config.workers, config.streams) {
        (Some(workers), _) => workers,
        // A GPU computes a batch at the price of a token.
        (None, Some(streams)) if !on_gpus => streams.min(machine.cores()).min(MAX_WORKERS),
        _ => 1,
    };
    in_range("workers", workers, 1..=machine.cpus())?;
    Ok(workers)
}

/// How many threads compute, and whether those are for all workers together.
pub(super) fn threads(config: &EngineConfig, machine: &MachineSnapshot, workers: u32) -> Result<(u32, bool)> {
    let cpus = machine.cpus();
    let share = config.share_threads.unwrap_or(config.threads.is_none() && workers > 1 && !config.deterministic);
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

/// Of each worker: as many as asked for, or as `streams` need.
pub(super) fn slots(config: &EngineConfig, workers: u32) -> Result<u32> {
    let slots = match config.slots {
        Some(slots) => slots,
        None if config.deterministic => 1,
        None => config.streams.unwrap_or(1).div_ceil(workers),
    };
    in_range("slots", slots, 1..=MAX_SLOTS)?;
    if config.deterministic && slots > 1 {
        let problem =
            format!("{slots} slots decode together, which deterministic excludes; use 1, other requests wait");
        return Err(Error::invalid("slots", problem));
    }
    Ok(slots)
}
