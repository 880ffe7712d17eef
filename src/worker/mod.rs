//! A worker: one context, tried out, and the loop that decodes in it (`batching`).
//!
//! It decides nothing but what to decode next. It runs inside a fault domain: whatever goes wrong in here ends this
//! function, and the supervisor sees to the rest.

mod batching;
#[cfg(feature = "benches")]
pub(crate) mod bench;
mod cache;
mod cores;
mod draft;
mod exact;
#[cfg(feature = "fault-injection")]
mod fault;
mod load;
mod logprobs;
mod measure;
mod memory;
mod pace;
mod phases;
mod prefix;
mod prompt;
mod random;
mod slot;
mod snapshot;
mod state;
mod stop;
mod store;
mod utf8;

pub(crate) use cores::Cores;
pub(crate) use load::load;
pub use memory::PlaceMemory;
pub use phases::{LoadPhases, StartPhases};
pub(crate) use snapshot::{Snapshot, SnapshotHead, SnapshotPolicy};
pub use state::WorkerProcess;
pub(crate) use state::WorkerState;

use crate::crash::{ChildExit, CrashReason};
use crate::error::Error;
use crate::isolation::thread::Death;
use crate::native::{Batch, Context, ContextParams, Kernels, Model, NativeError, NativeStatus};
use crate::prepare::PreparedEngine;
use crate::status::Status;
use crate::supervisor::Queue;
use batching::Loop;
use pace::Pace;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of a piece on a GPU: a cancel should take no longer than 100 ms, and what was measured is not the longest.
const LONGEST_GRAPH: Duration = Duration::from_millis(80);

pub(crate) struct Worker {
    pub index: u32,
    pub model: Arc<Model>,
    pub prepared: Arc<PreparedEngine>,
    pub queue: Arc<Queue>,
    pub state: Arc<WorkerState>,
    /// Which of the worker's lives this is, see [`WorkerState::begin_life`].
    pub life: u64,
    /// How long the load took, where it was for this worker alone.
    pub load: Option<LoadPhases>,
    pub snapshots: Arc<SnapshotPolicy>,
    /// Longest time that running streams wait for a piece of a prompt and a decode of their own.
    pub max_stall: Duration,
}

/// Why a worker cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct WorkerFault {
    pub reason: CrashReason,
    pub message: String,
    /// Where it says more than the reason.
    status: Option<Status>,
    /// Of a child process.
    pub exit: Option<ChildExit>,
    /// Whether what happened may have damaged more than the worker, see [`CrashReason::taints`].
    pub taints: bool,
}

impl WorkerFault {
    pub(crate) fn new(reason: CrashReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), status: None, exit: None, taints: false }
    }

    /// What kept it from having the model.
    pub(crate) fn not_loaded(error: &Error) -> Self {
        Self::new(CrashReason::LoadFailed, error.to_string()).with_status(error.status())
    }

    pub(crate) fn status(&self) -> Status {
        self.status.unwrap_or(self.reason.status())
    }

    pub(crate) fn with_exit(mut self, exit: ChildExit) -> Self {
        self.exit = Some(exit);
        self
    }

    pub(crate) fn with_status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }
}

impl From<Death> for WorkerFault {
    fn from(death: Death) -> Self {
        Self { taints: death.reason().taints(), ..Self::new(death.reason(), death.to_string()) }
    }
}

impl From<NativeError> for WorkerFault {
    fn from(error: NativeError) -> Self {
        let (reason, what) = match error.status {
            NativeStatus::OutOfMemory => (CrashReason::HostOutOfMemory, "out of memory"),
            NativeStatus::GpuOutOfMemory => (CrashReason::DeviceOutOfMemory, "out of memory on a GPU"),
            NativeStatus::Exception => (CrashReason::CppException, "C++ exception"),
            _ => (CrashReason::EngineError, "engine failure"),
        };
        Self::new(reason, format!("{what}: {error}"))
    }
}

impl Worker {
    /// Runs until the queue is closed. `ready` is called once a token was really decoded.
    pub(crate) fn run(self, ready: impl FnOnce()) -> Result<(), WorkerFault> {
        let (kv_type_k, kv_type_v) = self.prepared.kv_types();
        let params = ContextParams {
            n_ctx: self.prepared.n_ctx(),
            n_seq: self.prepared.slots(),
            n_ubatch: self.prepared.n_ubatch(),
            n_outputs: self.prepared.n_outputs(),
            n_threads: self.prepared.threads(),
            flash_attention: self.prepared.flash_attention(),
            kv_type_k: kv_type_k.ggml(),
            kv_type_v: kv_type_v.ggml(),
            swa_full: self.prepared.swa_full(),
        };
        let began = Instant::now();
        let mut context = Context::new(self.model.clone(), &params, self.state.abort_flag())?;
        let made = Instant::now();
        let tried = self.try_out(&mut context);
        self.state.tries(self.life, false);
        let ended = tried.and_then(|measured| {
            self.state.set_start_phases(Some(StartPhases::new(self.load, made - began, made.elapsed())));
            self.state.set_measured(measured);
            ready();
            Loop::new(&self, context, measured).run()
        });
        match ended {
            // The supervisor stops; it has ended the requests itself.
            Ok(()) | Err(Ended::Aborted) => Ok(()),
            Err(Ended::Fault(fault)) => Err(fault),
        }
    }

    /// What a new context can do: whether it decodes at all, how large pieces of prompts may be, how far it may guess. The
    /// latter two are measured in a worker's first life only: streams wait for the next one.
    fn try_out(&self, context: &mut Context) -> Result<Measured, Ended> {
        self.report_memory(context)?;
        // As with all others beside it, which may do the same.
        self.state.tries(self.life, true);
        context.compute_with(self.state.cores().share());
        self.decode_one(context)?;
        self.state.beat();
        match self.state.measured() {
            Some(measured) => Ok(measured),
            None => Ok(Measured { pace: self.pace(context)?, guesses: self.guesses(context)? }),
        }
    }

    /// Measured only where somebody can wait for a piece, and where results may depend on time.
    fn pace(&self, context: &mut Context) -> Result<Pace, NativeError> {
        let (slots, n_ubatch) = (self.prepared.slots(), self.prepared.n_ubatch());
        let somebody_waits = slots > 1 || self.cancels_wait();
        if !somebody_waits || self.prepared.deterministic() {
            return Ok(Pace::fixed(n_ubatch));
        }
        let start = Instant::now();
        let largest = n_ubatch.min(self.prepared.n_ctx());
        let limit = if self.cancels_wait() { self.max_stall.min(LONGEST_GRAPH) } else { self.max_stall };
        let pace = Pace::measure(context, slots, largest, self.some_token(), limit, || self.state.beat())?;
        tracing::debug!(worker = self.index, piece = pace.piece(), took = ?start.elapsed(), "pace measured");
        Ok(pace)
    }

    /// Whether a cancel waits for a piece to end: nothing interrupts a graph on a GPU.
    fn cancels_wait(&self) -> bool {
        !self.prepared.devices().is_empty()
    }

    /// How guesses are made: as the engine says, or none where checking them would change answers.
    fn guesses(&self, context: &mut Context) -> Result<Guesses, NativeError> {
        let most = self.prepared.draft_max();
        if most == 0 {
            return Ok(Guesses { most, cost: 0.0 });
        }
        // A guess of one slot, and a batch of several such: kernels take tokens in blocks of up to 16.
        let (slot, all) = (1 + most, self.prepared.n_outputs().clamp(1 + most, 17));
        let n_vocab = self.prepared.info().n_vocab;
        let sizes = [slot, all].map(|size| size.min(self.prepared.n_ctx()));
        let cost =
            exact::cost(context, sizes, |position| (position * 31 % n_vocab).cast_signed(), || self.state.beat())?;
        match cost {
            Some(cost) => tracing::debug!(worker = self.index, cost, "guesses are exact"),
            None => tracing::warn!(
                worker = self.index,
                "draft_max is without effect: with this model's quantisation, several tokens in one decode have other bits \
                 on this CPU than one by one"
            ),
        }
        Ok(cost.map_or(Guesses { most: 0, cost: 0.0 }, |cost| Guesses { most, cost }))
    }

    /// A token that every vocabulary has.
    fn some_token(&self) -> i32 {
        self.bos().unwrap_or(0)
    }

    /// The token that begins texts.
    fn bos(&self) -> Option<i32> {
        self.prepared.info().bos_token_id.and_then(|id| i32::try_from(id).ok())
    }

    /// Keeps what was really allocated, and says where the plan was too low.
    fn report_memory(&self, context: &Context) -> Result<(), WorkerFault> {
        let places = memory::measure(&self.prepared, &self.model, context)?;
        for PlaceMemory { place, planned_bytes: planned, allocated_bytes: allocated, weights, .. } in &places {
            if allocated > planned {
                tracing::warn!(
                    worker = self.index,
                    place,
                    allocated,
                    planned,
                    "the context took more memory than was planned"
                );
            }
            tracing::debug!(worker = self.index, place, allocated, planned, ?weights, "context made");
        }
        self.state.set_memory(places);
        Ok(())
    }

    /// Decodes one token: what readiness means.
    fn decode_one(&self, context: &mut Context) -> Result<(), Ended> {
        let mut batch = Batch::default();
        let index = batch.push(self.some_token(), 0, 0, true);
        context.decode(&batch, Kernels::PerToken)?;
        if context.logits(index)?.iter().any(|logit| logit.is_nan()) {
            let message = "the model's first token has logits that are no numbers: its weights are damaged";
            return Err(WorkerFault::new(CrashReason::LoadFailed, message).into());
        }
        context.clear(0)?;
        Ok(())
    }
}

/// What a worker's first life has measured. The next ones need not: streams wait for them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Measured {
    pace: Pace,
    guesses: Guesses,
}

/// How a worker guesses ahead.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Guesses {
    /// Most tokens; 0: not at all.
    most: u32,
    /// What checking one more token takes, in times of a decode of one.
    cost: f32,
}

/// Why the loop ends before the queue does.
enum Ended {
    /// A decode was ended from outside.
    Aborted,
    Fault(WorkerFault),
}

impl From<NativeError> for Ended {
    fn from(error: NativeError) -> Self {
        match error.status {
            NativeStatus::Aborted => Self::Aborted,
            _ => Self::Fault(error.into()),
        }
    }
}

impl From<WorkerFault> for Ended {
    fn from(fault: WorkerFault) -> Self {
        Self::Fault(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_engine_are_told_apart() {
        let fault = |status| WorkerFault::from(NativeError { status, message: "so".into() });
        for (status, reason, message) in [
            (NativeStatus::Exception, CrashReason::CppException, "C++ exception: so"),
            (NativeStatus::OutOfMemory, CrashReason::HostOutOfMemory, "out of memory: so"),
            (NativeStatus::GpuOutOfMemory, CrashReason::DeviceOutOfMemory, "out of memory on a GPU: so"),
            (NativeStatus::Failed, CrashReason::EngineError, "engine failure: so"),
        ] {
            assert_eq!((fault(status).reason, fault(status).to_string().as_str()), (reason, message));
        }
        assert_eq!(fault(NativeStatus::OutOfMemory).status(), Status::OutOfMemory);
        assert!(!fault(NativeStatus::GpuOutOfMemory).taints, "an allocation that failed in order");
    }
}
