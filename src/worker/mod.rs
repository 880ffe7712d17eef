//! The decode loop: requests into slots, slots into batches, logits into tokens.
//!
//! A worker owns one context and decides nothing but what to decode next. It runs inside a fault domain: whatever goes
//! wrong in here ends this function, and the supervisor sees to the rest.

mod logprobs;
mod prompt;
mod random;
mod slot;
mod state;
mod stop;
mod utf8;

pub(crate) use state::WorkerState;

use crate::event::{Event, Failed, Started};
use crate::job::Job;
use crate::native::{Batch, Context, ContextParams, Model, NativeError, NativeStatus, Sampler};
use crate::prepare::PreparedEngine;
use crate::status::Status;
use crate::supervisor::{Popped, Queue};
use slot::{After, Running};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often an idle worker shows that it is alive.
const IDLE_BEAT: Duration = Duration::from_millis(500);

pub(crate) struct Worker {
    pub index: u32,
    pub model: Arc<Model>,
    pub prepared: Arc<PreparedEngine>,
    pub queue: Arc<Queue>,
    pub state: Arc<WorkerState>,
}

/// Why a worker cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct WorkerFault {
    pub status: Status,
    pub message: String,
}

impl From<NativeError> for WorkerFault {
    fn from(error: NativeError) -> Self {
        let (status, what) = match error.status {
            NativeStatus::OutOfMemory => (Status::OutOfMemory, "out of memory"),
            NativeStatus::Exception => (Status::WorkerReset, "C++ exception"),
            _ => (Status::WorkerReset, "engine failure"),
        };
        Self { status, message: format!("{what}: {error}") }
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
            n_threads: self.prepared.threads(),
            flash_attention: self.prepared.flash_attention(),
            kv_type_k: kv_type_k.ggml(),
            kv_type_v: kv_type_v.ggml(),
            swa_full: self.prepared.swa_full(),
        };
        let mut context = Context::new(self.model.clone(), &params, self.state.abort_flag())?;
        self.report_memory(&context)?;
        if !self.decode_one(&mut context)? {
            return Ok(());
        }
        self.state.beat();
        ready();
        let slots = (0..self.prepared.slots()).map(|_| None).collect();
        Loop { worker: &self, context, slots, batch: Batch::default(), next_prefill: 0 }.run()
    }

    /// Keeps what was really allocated, and says where the plan was too low.
    fn report_memory(&self, context: &Context) -> Result<(), WorkerFault> {
        let (used, plan) = (context.memory()?, self.prepared.memory());
        self.state.set_memory(used.cache + used.compute);
        let workers = u64::from(self.prepared.workers());
        let planned: u64 = plan.places.iter().map(|place| place.cache + place.compute).sum::<u64>() / workers;
        let allocated = used.cache + used.compute;
        if allocated > planned {
            tracing::warn!(worker = self.index, allocated, planned, "the context took more memory than was planned");
        }
        tracing::debug!(worker = self.index, allocated, planned, weights = used.weights, "context made");
        Ok(())
    }

    /// Decodes one token: what readiness means. False if it was aborted because the supervisor stops.
    fn decode_one(&self, context: &mut Context) -> Result<bool, WorkerFault> {
        let mut batch = Batch::default();
        let token = self.prepared.info().bos_token_id.and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
        let index = batch.push(token, 0, 0, true);
        match context.decode(&batch) {
            Err(e) if e.status == NativeStatus::Aborted => return Ok(false),
            other => other?,
        }
        if context.logits(index)?.iter().any(|logit| logit.is_nan()) {
            let message = "the model's first token has logits that are no numbers: its weights are damaged".into();
            return Err(WorkerFault { status: Status::LoadFailed, message });
        }
        context.clear(0)?;
        Ok(true)
    }
}

struct Loop<'a> {
    worker: &'a Worker,
    context: Context,
    slots: Vec<Option<Running>>,
    batch: Batch,
    /// Which slot prefills next, so that several long prompts advance in turn.
    next_prefill: usize,
}

impl Loop<'_> {
    fn run(mut self) -> Result<(), WorkerFault> {
        loop {
            self.worker.state.beat();
            self.free_cancelled()?;
            if !self.admit() {
                return Ok(());
            }
            match self.prefill().and_then(|()| self.generate()) {
                Ok(()) => {}
                // The supervisor stops; it has ended the requests itself.
                Err(Ended::Aborted) => return Ok(()),
                Err(Ended::Fault(fault)) => return Err(fault),
            }
        }
    }

    fn free_cancelled(&mut self) -> Result<(), WorkerFault> {
        for i in 0..self.slots.len() {
            if self.slots[i].as_ref().is_some_and(|running| running.job.events.is_closed()) {
                self.free(i)?;
            }
        }
        Ok(())
    }

    fn free(&mut self, slot: usize) -> Result<(), WorkerFault> {
        if let Some(running) = self.slots[slot].take() {
            self.worker.state.remove(running.job.id);
            self.context.clear(u32::try_from(slot).expect("few slots"))?;
        }
        Ok(())
    }

    /// Takes requests into free slots; waits for one when there is nothing else to do. False: the queue is closed.
    fn admit(&mut self) -> bool {
        while let Some(free) = self.slots.iter().position(Option::is_none) {
            let idle = self.slots.iter().all(Option::is_none);
            match self.worker.queue.pop(if idle { IDLE_BEAT } else { Duration::ZERO }) {
                Popped::Closed => return false,
                Popped::Empty => return true,
                Popped::Job(job, position) => self.slots[free] = self.start(job, position),
            }
            self.worker.state.beat();
        }
        true
    }

    /// Turns a request into a running slot, or fails it.
    fn start(&self, job: Arc<Job>, queue_position: u32) -> Option<Running> {
        if job.events.is_closed() {
            return None;
        }
        self.worker.state.add(job.clone());
        match self.prepare(&job) {
            Ok(mut running) => {
                let started = Started {
                    worker: self.worker.index,
                    queue_position,
                    prompt_tokens: running.prompt_tokens(),
                    cached_tokens: 0,
                    seed: job.seed,
                    prompt: running.echo.take(),
                };
                job.events.push(Event::Started(started));
                Some(running)
            }
            Err(failed) => {
                job.fail(failed);
                self.worker.state.remove(job.id);
                None
            }
        }
    }

    fn prepare(&self, job: &Arc<Job>) -> Result<Running, Failed> {
        let worker = self.worker;
        let (tokens, limit) =
            prompt::tokens(&job.request, &worker.model, worker.prepared.info(), worker.prepared.n_ctx())?;
        let engine = |e: NativeError| {
            let fault = WorkerFault::from(e);
            Failed::new(fault.status, fault.message)
        };
        let mut sampler = Sampler::new(worker.model.clone(), &prompt::sampling(&job.request)).map_err(engine)?;
        for token in &tokens {
            sampler.accept(*token).map_err(engine)?;
        }
        let echo = match job.request.echo {
            true => Some(worker.model.render(&tokens).map_err(engine)?),
            false => None,
        };
        Ok(Running::new(job.clone(), tokens, limit, sampler, echo))
    }

    /// Processes the next piece of one prompt. Alone: a batch shape that depends on nothing but the prompt gives the
    /// same logits whatever else runs.
    fn prefill(&mut self) -> Result<(), Ended> {
        let n = self.slots.len();
        let prefilling = |i: &usize| self.slots[*i].as_ref().is_some_and(Running::is_prefilling);
        let Some(slot) = (0..n).map(|i| (self.next_prefill + i) % n).find(prefilling) else { return Ok(()) };
        self.next_prefill = (slot + 1) % n;

        let running = self.slots[slot].as_mut().expect("found above");
        let end = running.prompt.len().min(running.prefilled + self.worker.prepared.n_ubatch() as usize);
        self.batch.clear();
        for position in running.prefilled..end {
            let (token, last) = (running.prompt[position], position + 1 == running.prompt.len());
            self.batch.push(token, u32::try_from(position).expect("fits n_ctx"), slot as u32, last);
        }
        let began = Instant::now();
        self.context.decode(&self.batch)?;
        self.worker.state.counters.decoded(self.batch.len(), began.elapsed());
        running.prefilled = end;
        match running.is_prefilling() {
            true => Ok(()),
            false => self.sample(slot, self.batch.len() - 1),
        }
    }

    /// One token for every slot that has its prompt behind it.
    fn generate(&mut self) -> Result<(), Ended> {
        self.batch.clear();
        let mut outputs = Vec::with_capacity(self.slots.len());
        for (slot, running) in self.slots.iter().enumerate() {
            if let Some(running) = running.as_ref().filter(|r| !r.is_prefilling()) {
                outputs.push((slot, self.batch.push(running.last, running.position(), slot as u32, true)));
            }
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        self.context.decode(&self.batch)?;
        self.worker.state.counters.decoded(self.batch.len(), began.elapsed());
        for (slot, output) in outputs {
            self.sample(slot, output)?;
        }
        Ok(())
    }

    fn sample(&mut self, slot: usize, output: usize) -> Result<(), Ended> {
        let logits = self.context.logits(output)?;
        let running = self.slots[slot].as_mut().expect("a slot with an output runs");
        if let After::Free = running.sample(&self.worker.model, logits)? {
            self.free(slot)?;
        }
        Ok(())
    }
}

/// Why the loop ends before the queue does.
enum Ended {
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
