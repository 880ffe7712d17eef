//! [`Metrics`]: a snapshot of the counts.

use super::counters::{Telemetry, WorkerCounters};
use super::histogram::Histogram;
use super::prometheus;
use crate::prepare::HOST;
use crate::status::Status;
use crate::supervisor::{Health, QueueDepths, WorkerHealth};
use crate::worker::{LoadPhases, PlaceMemory, StartPhases};
use serde::Serialize;
use std::collections::BTreeMap;

/// What a supervisor has counted since it was started. Taking it waits for no decode. Serializes to JSON.
///
/// A request that was accepted is waiting or running, or counted once among finished, failed and cancelled. A
/// [reload](crate::Supervisor::reload) changes none of that: requests are counted over all engines. What is said of the model,
/// the load and the workers is of the engine that runs now, and begins anew with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Metrics {
    /// Name of the pool.
    pub pool_id: String,
    /// Which of several equal pools it is.
    pub replica_id: u32,
    /// What the model is called.
    pub model_id: String,
    /// Version of llama.cpp.
    pub engine_version: String,
    /// Devices it may use.
    pub device_mask: String,
    /// Milliseconds since the supervisor was started.
    pub uptime_ms: u64,
    /// Milliseconds that loading the model took; `None` until it is loaded.
    pub load_ms: Option<f64>,
    /// Where that time went, see [`Health::load_phases`](crate::Health::load_phases).
    pub load_phases: Option<LoadPhases>,
    /// Requests, by how they ended.
    pub requests: RequestCounts,
    /// Requests that wait for a slot.
    pub queue_depth: u64,
    /// The same by their priority.
    pub queue_depth_by_priority: QueueDepths,
    /// Leases that were not given back yet.
    pub leases: u64,
    /// Bytes of snapshots that running requests have, see
    /// [`SupervisorConfig::snapshot_bytes`](crate::SupervisorConfig::snapshot_bytes).
    pub snapshot_bytes: u64,
    /// Bytes of GPU memory that the engine allocated: 0 where no GPU computes, `None` where it is not known. What CUDA's contexts
    /// take besides is not in it.
    pub vram_used_bytes: Option<u64>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Its status.
    pub last_error_status: Option<Status>,
    /// One entry per worker.
    pub workers: Vec<WorkerMetrics>,
}

/// See [`Metrics::requests`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RequestCounts {
    /// Taken into the queue.
    pub accepted_total: u64,
    /// Refused by `submit`, by the name of the status.
    pub rejected_total: BTreeMap<&'static str, u64>,
    /// Ended with `Finished`, by the name of the reason.
    pub finished_total: BTreeMap<&'static str, u64>,
    /// Ended with `Failed`, by the name of the status; without those that were cancelled.
    pub failed_total: BTreeMap<&'static str, u64>,
    /// Ended by their caller.
    pub cancelled_total: u64,
    /// Times that one went on in another worker, because its own had died.
    pub resumed_total: u64,
}

/// What a worker has counted, over all its restarts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerMetrics {
    /// Which worker, from 0.
    pub worker: u32,
    /// It has decoded a token since its start, and its loop turned within the stall limit.
    pub ready: bool,
    /// How often it was restarted.
    pub restart_count: u64,
    /// How often it crashed, by the name of the [reason](crate::CrashReason).
    pub crashes_total: BTreeMap<&'static str, u64>,
    /// Milliseconds that its next restart waits, or its last one waited; 0 once it is ready.
    pub backoff_ms: u64,
    /// Where the time of its last start went; `None` until it is ready.
    pub start_phases: Option<StartPhases>,
    /// Slots that run a request.
    pub active_slots: u64,
    /// Slots that it has.
    pub slots: u64,
    /// Bytes that the engine allocated for its cache and compute buffers; 0 before it has a context.
    pub memory_bytes: u64,
    /// Tokens of prompts, those in the KV cache included.
    pub tokens_in_total: u64,
    /// Tokens of prompts that were in the KV cache.
    pub tokens_cached_total: u64,
    /// Tokens that were generated and given as events.
    pub tokens_out_total: u64,
    /// Tokens that were guessed ahead.
    pub draft_tokens_total: u64,
    /// How many of them came true.
    pub draft_accepted_total: u64,
    /// Decode calls that failed without harm to the worker: what was in them was decoded again, or failed alone.
    pub decode_failures_total: u64,
    /// From `submit` until it took a request up.
    pub latency_queue_ms: Histogram,
    /// From `submit` until the first token of a request.
    pub latency_first_token_ms: Histogram,
    /// Between two tokens of a request.
    pub latency_inter_token_ms: Histogram,
    /// From the end of the prompt until the end of a request that finished.
    pub latency_decode_ms: Histogram,
    /// Tokens per decode call; its count is that of the calls.
    pub decode_batch_tokens: Histogram,
    /// Milliseconds per decode call.
    pub decode_call_ms: Histogram,
}

impl Metrics {
    pub(crate) fn new(telemetry: &Telemetry, health: Health) -> Self {
        let (identity, counts) = (telemetry.identity.clone(), &telemetry.counts);
        let workers = health.workers.iter().zip(&telemetry.workers).zip(0..);
        Self {
            pool_id: identity.pool_id,
            replica_id: identity.replica_id,
            model_id: identity.model_id,
            engine_version: identity.engine_version,
            device_mask: identity.device_mask,
            uptime_ms: counts.uptime_ms(),
            load_ms: telemetry.load_ms(),
            load_phases: health.load_phases,
            // Ends first: what ends meanwhile shows as running, never as an end without a beginning.
            requests: RequestCounts {
                finished_total: counts.finished(),
                failed_total: counts.failed.seen(),
                cancelled_total: counts.cancelled.get(),
                resumed_total: counts.resumed.get(),
                rejected_total: counts.rejected.seen(),
                accepted_total: counts.accepted.get(),
            },
            queue_depth: health.queue_depth as u64,
            queue_depth_by_priority: health.queue_depth_by_priority,
            leases: health.leases as u64,
            snapshot_bytes: health.snapshot_bytes,
            vram_used_bytes: Some(vram_used(&health.workers)),
            workers: workers
                .map(|((health, counters), worker)| WorkerMetrics::new(worker, identity.slots, health, counters))
                .collect(),
            last_error: health.last_error,
            last_error_status: health.last_error_status,
        }
    }

    /// In Prometheus' text format, version 0.0.4, to be served as `text/plain; version=0.0.4`. Times are in milliseconds,
    /// as the names say.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        prometheus::render(self)
    }
}

/// Of weights, caches and compute buffers. Workers that are threads share the weights.
fn vram_used(workers: &[WorkerHealth]) -> u64 {
    let on_gpus = |worker: &WorkerHealth, bytes: fn(&PlaceMemory) -> u64| -> u64 {
        worker.memory.iter().filter(|place| place.place != HOST).map(bytes).sum()
    };
    let weights = workers.iter().map(|worker| (worker, on_gpus(worker, |place| place.weights.values().sum())));
    let (processes, threads): (Vec<_>, Vec<_>) = weights.partition(|(worker, _)| worker.process.is_some());
    let own: u64 = processes.iter().map(|(_, bytes)| bytes).sum();
    let shared = threads.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    own + shared + workers.iter().map(|worker| on_gpus(worker, |place| place.allocated_bytes)).sum::<u64>()
}

impl WorkerMetrics {
    fn new(worker: u32, slots: u32, health: &WorkerHealth, counters: &WorkerCounters) -> Self {
        Self {
            worker,
            ready: health.ready,
            restart_count: health.restarts.into(),
            crashes_total: counters.crashes.all(),
            backoff_ms: counters.backoff_ms(),
            start_phases: health.start_phases,
            active_slots: health.active as u64,
            slots: slots.into(),
            memory_bytes: health.memory_bytes,
            tokens_in_total: counters.tokens_in.get(),
            tokens_cached_total: counters.tokens_cached.get(),
            tokens_out_total: counters.tokens_out.get(),
            draft_tokens_total: counters.draft_tokens.get(),
            draft_accepted_total: counters.draft_accepted.get(),
            decode_failures_total: counters.decode_failures.get(),
            latency_queue_ms: counters.latency_queue.snapshot(),
            latency_first_token_ms: counters.latency_first_token.snapshot(),
            latency_inter_token_ms: counters.latency_inter_token.snapshot(),
            latency_decode_ms: counters.latency_decode.snapshot(),
            decode_batch_tokens: counters.batch_tokens.snapshot(),
            decode_call_ms: counters.batch_time.snapshot(),
        }
    }
}
