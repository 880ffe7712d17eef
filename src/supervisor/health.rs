//! What a supervisor says of itself.

use super::calibration::Calibration;
use super::policy::BreakerState;
use crate::config::{Isolation, TaintPolicy};
use crate::crash::Crash;
use crate::status::Status;
use crate::worker::{LoadPhases, PlaceMemory, StartPhases, WorkerProcess};
use serde::Serialize;

/// State of a supervisor as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum State {
    /// Loading the model or making the first contexts.
    Starting,
    /// Every worker is ready.
    Ready,
    /// Some workers are ready.
    Degraded,
    /// No worker is ready; failed ones are restarted.
    Backoff,
    /// No worker is ready, and all failed too often: each is left alone for a while, then tried once. Requests are refused
    /// until one is ready again. [`Supervisor::reset_breaker`](crate::Supervisor::reset_breaker) tries at once.
    CircuitOpen,
    /// Nothing runs, and memory is being given back.
    Unloading,
    /// Weights and contexts are not in memory. A request loads them again, and so does
    /// [`Supervisor::wake`](crate::Supervisor::wake).
    Unloaded,
    /// Takes nothing new, and stops when what is there has ended; see [`Supervisor::drain`](crate::Supervisor::drain).
    Draining,
    /// Gave up: the model could not be loaded, or no worker could be started at first.
    Failed,
    /// Stopped by its owner.
    Stopped,
}

/// A look at a supervisor. Taking it waits for no decode.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// See [`State`].
    pub state: State,
    /// The supervisor's own loop turns.
    pub live: bool,
    /// At least one worker has decoded a real token since its start, and its loop turned within the stall limit.
    pub ready: bool,
    /// Milliseconds since it was started.
    pub uptime_ms: u64,
    /// Version of llama.cpp.
    pub engine_version: String,
    /// `sha256:` over the engine's sources, flags and compiler.
    pub engine_digest: String,
    /// Devices it may use.
    pub device_mask: String,
    /// Slots of all workers, and those of workers that are ready and in which nothing runs.
    pub slots: usize,
    /// See [`slots`](Self::slots).
    pub slots_free: usize,
    /// Threads that a worker computes its next batch with: with [`share_threads`](crate::EngineConfig::share_threads) its share.
    pub compute_threads: u32,
    /// How much of the model is loaded, 0 to 1.
    pub load_progress: f32,
    /// Where the time of the last load went that threads share; `None` before it is done, and where workers are processes: each
    /// loads for itself, see [`WorkerHealth::start_phases`].
    pub load_phases: Option<LoadPhases>,
    /// What was measured to spread requests by; `None` but with [`Tuning::Auto`](crate::Tuning::Auto), where there are several
    /// workers.
    pub calibration: Option<Calibration>,
    /// Requests that wait for a slot.
    pub queue_depth: usize,
    /// The same by their priority.
    pub queue_depth_by_priority: QueueDepths,
    /// Leases that were not given back yet.
    pub leases: usize,
    /// Bytes of snapshots that running requests have, see
    /// [`SupervisorConfig::snapshot_bytes`](crate::SupervisorConfig::snapshot_bytes).
    pub snapshot_bytes: u64,
    /// A [reload](crate::Supervisor::reload) is in progress. All else is of the engine that requests go to.
    pub reloading: bool,
    /// One entry per worker.
    pub workers: Vec<WorkerHealth>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Its status.
    pub last_error_status: Option<Status>,
    /// A memory fault was contained: nobody knows what had been written to before. See
    /// [`SupervisorConfig::taint`](crate::SupervisorConfig::taint).
    pub tainted: bool,
    /// What follows such a fault: as was asked for, or what the default comes to here.
    pub taint: TaintPolicy,
    /// Where workers are started now.
    pub isolation: Isolation,
    /// The signal handlers that contain faults of workers that are threads are installed, and the host has not replaced them
    /// since. Processes need none.
    pub contains_faults: bool,
}

/// Requests that wait for a slot, by their [`Priority`](crate::Priority).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueDepths {
    /// Of `Interactive`.
    pub interactive: usize,
    /// Of `Batch`.
    pub batch: usize,
}

impl QueueDepths {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.interactive + self.batch
    }
}

/// A look at a worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerHealth {
    /// As in [`Health::ready`], for this one.
    pub ready: bool,
    /// Milliseconds since its loop last turned: the length of a decode at the most, half a second where nothing runs.
    pub heartbeat_ms: u64,
    /// How often it was restarted.
    pub restarts: u32,
    /// Its circuit breaker.
    pub breaker: BreakerState,
    /// How it last failed.
    pub last_crash: Option<Crash>,
    /// Requests in its slots.
    pub active: usize,
    /// Bytes that the engine allocated for its cache and compute buffers in all places; 0 before it has a context.
    pub memory_bytes: u64,
    /// The same by place, beside what was planned, and which weights are there; empty before it has a context.
    pub memory: Vec<PlaceMemory>,
    /// Where the time of its start went; `None` until it is ready.
    pub start_phases: Option<StartPhases>,
    /// Tokens of a prompt that it decodes at a time; 0 before it has measured that.
    pub prefill_piece: u32,
    /// Most tokens that it guesses ahead: the engine's `draft_max`, or 0 where checking several tokens in one decode gives
    /// other bits than one by one. That depends on the model's quantisation and on the CPU.
    pub draft_max: u32,
    /// Positions that its slots hold: of running requests, and of ended ones as long as their place is not needed.
    pub kv_used: u64,
    /// Positions that its slots can hold.
    pub kv_total: u64,
    /// Bytes of saved states in its share of `prefix_store_bytes`.
    pub prefix_store_used: u64,
    /// The child process that it is, once that has loaded the model; `None` for a thread.
    pub process: Option<WorkerProcess>,
}
