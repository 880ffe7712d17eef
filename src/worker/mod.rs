//! The decode loop: requests into slots, slots into batches, logits into tokens.
//!
//! A worker owns one context and decides nothing but what to decode next. It runs inside a fault domain: whatever goes
//! wrong in here ends this function, and the supervisor sees to the rest.

mod cache;
mod draft;
mod exact;
#[cfg(feature = "fault-injection")]
mod fault;
mod logprobs;
mod pace;
mod prefix;
mod prompt;
mod random;
mod slot;
mod state;
mod stop;
mod store;
mod utf8;

pub(crate) use state::WorkerState;

use crate::event::{Event, Failed, Started};
use crate::job::Job;
use crate::native::{Batch, Context, ContextParams, Kernels, Model, NativeError, NativeStatus, Sampler};
use crate::prepare::PreparedEngine;
use crate::status::Status;
use crate::supervisor::{Popped, Queue};
use cache::Cache;
use pace::Pace;
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
    /// Longest time that running streams wait for a piece of a prompt and a decode of their own.
    pub max_stall: Duration,
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
            n_outputs: self.prepared.n_outputs(),
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
        let pace = match self.pace(&mut context) {
            Err(e) if e.status == NativeStatus::Aborted => return Ok(()),
            pace => pace?,
        };
        self.state.set_prefill_piece(pace.piece());
        let draft_max = match self.draft_max(&mut context) {
            Err(e) if e.status == NativeStatus::Aborted => return Ok(()),
            draft_max => draft_max?,
        };
        self.state.set_draft_max(draft_max);
        ready();
        Loop {
            worker: &self,
            context,
            slots: (0..self.prepared.slots()).map(|_| None).collect(),
            cache: Cache::new(&self.prepared),
            pace,
            batch: Batch::default(),
            outputs: Vec::with_capacity(self.prepared.slots() as usize),
            draft_max,
            next_prefill: 0,
        }
        .run()
    }

    /// Measured only where somebody can wait for a piece, and where results may depend on time.
    fn pace(&self, context: &mut Context) -> Result<Pace, NativeError> {
        let (slots, n_ubatch) = (self.prepared.slots(), self.prepared.n_ubatch());
        if slots == 1 || self.prepared.deterministic() {
            return Ok(Pace::fixed(n_ubatch));
        }
        let start = Instant::now();
        let largest = n_ubatch.min(self.prepared.n_ctx());
        let pace = Pace::measure(context, slots, largest, self.some_token(), self.max_stall)?;
        self.state.beat();
        tracing::debug!(worker = self.index, piece = pace.piece(), took = ?start.elapsed(), "pace measured");
        Ok(pace)
    }

    /// The engine's, or 0 where checking guesses would change answers.
    fn draft_max(&self, context: &mut Context) -> Result<u32, NativeError> {
        let wanted = self.prepared.draft_max();
        if wanted == 0 {
            return Ok(0);
        }
        // A guess of one slot, and a batch of several such: kernels take tokens in blocks of up to 16.
        let (slot, all) = (1 + wanted, self.prepared.n_outputs().clamp(1 + wanted, 17));
        let n_vocab = self.prepared.info().n_vocab;
        let sizes = [slot, all].map(|size| size.min(self.prepared.n_ctx()));
        let exact = exact::is_exact(context, sizes, |position| (position * 31 % n_vocab).cast_signed())?;
        self.state.beat();
        if !exact {
            tracing::warn!(
                worker = self.index,
                "draft_max is without effect: with this model's quantisation, several tokens in one decode have other bits \
                 on this CPU than one by one"
            );
        }
        Ok(if exact { wanted } else { 0 })
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
        let index = batch.push(self.some_token(), 0, 0, true);
        match context.decode(&batch, Kernels::PerToken) {
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
    cache: Cache,
    pace: Pace,
    batch: Batch,
    /// Which slot has its logits at which index of the batch, its guesses following. Reused, as the batch is.
    outputs: Vec<(usize, usize)>,
    draft_max: u32,
    /// Which slot prefills next, so that several long prompts advance in turn.
    next_prefill: usize,
}

impl Loop<'_> {
    fn run(mut self) -> Result<(), WorkerFault> {
        loop {
            self.worker.state.beat();
            self.free_cancelled()?;
            self.worker.state.set_kept(self.cache.positions(), self.cache.stored());
            if !self.admit()? {
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
            self.cache.released(&mut self.context, slot)?;
        }
        Ok(())
    }

    /// Takes requests into free slots; waits for one when there is nothing else to do. False: the queue is closed.
    fn admit(&mut self) -> Result<bool, WorkerFault> {
        while self.slots.iter().any(Option::is_none) {
            let idle = self.slots.iter().all(Option::is_none);
            match self.worker.queue.pop(if idle { IDLE_BEAT } else { Duration::ZERO }) {
                Popped::Closed => return Ok(false),
                Popped::Empty => return Ok(true),
                Popped::Job(job, position) => self.start(job, position)?,
            }
            self.worker.state.beat();
        }
        Ok(true)
    }

    /// Turns a request into a running slot, or fails it.
    fn start(&mut self, job: Arc<Job>, queue_position: u32) -> Result<(), WorkerFault> {
        if job.events.is_closed() {
            return Ok(());
        }
        self.worker.state.add(job.clone());
        match self.prepare(&job) {
            Ok(mut running) => {
                let slots = &self.slots;
                let is_free = |slot: usize| slots[slot].is_none();
                let (slot, cached) = self.cache.seat(&mut self.context, &running.prompt, running.piece, is_free)?;
                running.prefilled = cached;
                let started = Started {
                    worker: self.worker.index,
                    queue_position,
                    prompt_tokens: running.prompt_tokens(),
                    cached_tokens: u32::try_from(cached).expect("at most n_ctx"),
                    seed: job.seed,
                    prompt: running.echo.take(),
                };
                job.events.push(Event::Started(started));
                self.slots[slot] = Some(running);
            }
            Err(failed) => {
                job.fail(failed);
                self.worker.state.remove(job.id);
            }
        }
        Ok(())
    }

    fn prepare(&self, job: &Arc<Job>) -> Result<Running, Failed> {
        let worker = self.worker;
        let (tokens, limit) =
            prompt::tokens(&job.request, &worker.model, worker.prepared.info(), worker.prepared.n_ctx())?;
        if job.request.context_shift && !self.context.can_shift() {
            let message = "context_shift: not with this model or its KV cache: what is in it cannot be moved";
            return Err(Failed::new(Status::Unsupported, message));
        }
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
        let piece = self.pace.piece() as usize;
        Ok(Running::new(job.clone(), tokens, limit, piece, self.draft_max, sampler, echo))
    }

    /// Processes the next piece of one prompt. Alone: a batch shape that depends on nothing but the prompt gives the
    /// same logits whatever else runs.
    fn prefill(&mut self) -> Result<(), Ended> {
        let n = self.slots.len();
        let prefilling = |i: &usize| self.slots[*i].as_ref().is_some_and(Running::is_prefilling);
        let Some(slot) = (0..n).map(|i| (self.next_prefill + i) % n).find(prefilling) else { return Ok(()) };
        self.next_prefill = (slot + 1) % n;

        let others = self.slots.iter().flatten().any(|other| !other.is_prefilling());
        let running = self.slots[slot].as_mut().expect("found above");
        let (job, piece, start) = (running.job.clone(), running.piece, running.prefilled);
        let end = running.prompt.len().min(start + piece);
        self.batch.clear();
        for position in start..end {
            let (token, last) = (running.prompt[position], position + 1 == running.prompt.len());
            self.batch.push(token, u32::try_from(position).expect("fits n_ctx"), slot as u32, last);
        }
        // From here on a cancel ends the decode; one that came before ends the request on the next turn.
        let Some(prefilling) = job.prefilling(&self.worker.state) else { return Ok(()) };
        let began = Instant::now();
        let decoded = self.context.decode(&self.batch, Kernels::Fast);
        drop(prefilling);
        match decoded {
            Ok(()) => self.worker.state.counters.decoded(self.batch.len(), began.elapsed()),
            Err(e) if e.status == NativeStatus::Aborted && self.worker.state.is_aborted() => return Err(e.into()),
            // Cancelled: nobody else was in this batch.
            Err(e) if e.status == NativeStatus::Aborted => {
                self.cache.rewind(&mut self.context, slot)?;
                return Ok(());
            }
            Err(e) if is_of_its_batch(&e) => return self.fail(slot, &e),
            Err(e) => return Err(e.into()),
        }
        running.piece = match others {
            true => self.pace.next_piece(self.batch.len() as u32, began.elapsed()) as usize,
            false => self.pace.piece() as usize,
        };
        self.cache.piece_decoded(slot, &running.prompt[start..end], piece);
        running.prefilled = end;
        match running.is_prefilling() {
            true => Ok(()),
            false => self.sample(slot, self.batch.len() - 1).map(drop),
        }
    }

    /// One token for every slot that has its prompt behind it, and more where guesses come true.
    fn generate(&mut self) -> Result<(), Ended> {
        #[cfg(feature = "fault-injection")]
        self.inject_faults()?;
        self.make_room()?;
        self.batch.clear();
        self.outputs.clear();
        let generating = self.slots.iter().flatten().filter(|running| !running.is_prefilling()).count();
        let mut room = self.worker.prepared.n_ubatch() as usize - generating;
        for (slot, running) in self.slots.iter_mut().enumerate() {
            let Some(running) = running.as_mut().filter(|r| !r.is_prefilling()) else { continue };
            let text = self.cache.tokens(slot);
            let position = u32::try_from(text.len()).expect("at most n_ctx");
            // A guess does not bring the shift of a context forward.
            running.propose(text, room.min((self.worker.prepared.n_ctx() - position - 1) as usize));
            room -= running.drafter.draft().len();
            self.outputs.push((slot, self.batch.push(running.last, position, slot as u32, true)));
            for (token, after) in running.drafter.draft().iter().zip(1..) {
                self.batch.push(*token, position + after, slot as u32, true);
            }
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        #[cfg(feature = "fault-injection")]
        self.overfill_batch();
        let began = Instant::now();
        match self.context.decode(&self.batch, Kernels::PerToken) {
            Ok(()) => {
                self.worker.state.counters.decoded(self.batch.len(), began.elapsed());
                self.pace.plain_took(began.elapsed());
            }
            Err(e) if is_of_its_batch(&e) => return self.one_by_one(&e),
            Err(e) => return Err(e.into()),
        }
        for i in 0..self.outputs.len() {
            let (slot, output) = self.outputs[i];
            self.generated(slot, output)?;
        }
        Ok(())
    }

    /// Shifts the contexts that are full; only requests that asked for it get there. Right before a decode that no cancel
    /// interrupts: that is when llama.cpp moves the keys.
    fn make_room(&mut self) -> Result<(), Ended> {
        let n_ctx = self.worker.prepared.n_ctx() as usize;
        for slot in 0..self.slots.len() {
            let Some(running) = &mut self.slots[slot] else { continue };
            if running.is_prefilling() || self.cache.tokens(slot).len() < n_ctx {
                continue;
            }
            let begins = running.prompt.first().copied() == self.worker.bos();
            let keep = running.job.request.n_keep.max(begins.into()).min(running.prompt_tokens());
            let gone = self.cache.shift(&mut self.context, slot, keep as usize)?;
            running.shifted += gone;
            if gone == 0 {
                let message = "its context could not be shifted".into();
                self.fail(slot, &NativeError { status: NativeStatus::Failed, message })?;
            }
        }
        Ok(())
    }

    /// A decode failed in a way that may be one request's fault: each is decoded alone, and those that fail alone end.
    fn one_by_one(&mut self, error: &NativeError) -> Result<(), Ended> {
        tracing::warn!(worker = self.worker.index, requests = self.outputs.len(), %error, "a decode failed: each is tried alone");
        for i in 0..self.outputs.len() {
            let (slot, _) = self.outputs[i];
            if let Some(running) = &mut self.slots[slot] {
                running.drafter.drop_draft();
            }
            if !self.cache.rewind(&mut self.context, slot)? {
                self.fail(slot, error)?;
            }
        }
        for i in 0..self.outputs.len() {
            let (slot, _) = self.outputs[i];
            let Some(running) = &self.slots[slot] else { continue };
            self.batch.clear();
            let position = u32::try_from(self.cache.tokens(slot).len()).expect("at most n_ctx");
            let output = self.batch.push(running.last, position, slot as u32, true);
            match self.context.decode(&self.batch, Kernels::PerToken) {
                Ok(()) => self.generated(slot, output)?,
                Err(e) if is_of_its_batch(&e) => self.fail(slot, &e)?,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Ends a request that could not be decoded; the others go on.
    fn fail(&mut self, slot: usize, error: &NativeError) -> Result<(), Ended> {
        self.cache.rewind(&mut self.context, slot)?;
        if let Some(running) = &self.slots[slot] {
            let message = format!("the engine could not decode this request, others go on: {error}");
            tracing::warn!(worker = self.worker.index, request = running.job.id, %error, "a request could not be decoded");
            running.job.fail(Failed::new(Status::DecodeFailed, message));
        }
        Ok(self.free(slot)?)
    }

    /// A slot's last token was decoded, and what was guessed after it: picks the next one, and goes on as long as that is
    /// what was guessed.
    fn generated(&mut self, slot: usize, output: usize) -> Result<(), Ended> {
        let running = self.slots[slot].as_ref().expect("a slot with an output runs");
        let (job, guessed) = (running.job.clone(), running.drafter.draft().len());
        let (mut picked, mut right) = (0, 0);
        while picked == right
            && let Some(running) = &self.slots[slot]
        {
            self.cache.decoded(slot, running.last);
            right = self.sample(slot, output + picked)?;
            picked += 1;
        }
        if guessed == 0 {
            return Ok(());
        }
        job.events.drafted(guessed as u32, right as u32);
        if let Some(running) = &mut self.slots[slot] {
            running.drafter.judge();
        }
        // What was decoded of a guess that was wrong is forgotten.
        if picked <= guessed && !self.cache.rewind(&mut self.context, slot)? {
            let message = "its memory cannot go back to before a guess".into();
            self.fail(slot, &NativeError { status: NativeStatus::Failed, message })?;
        }
        Ok(())
    }

    /// Picks a token from the logits of an output; says how many tokens of the slot's guess have come true by then.
    fn sample(&mut self, slot: usize, output: usize) -> Result<usize, Ended> {
        let logits = self.context.logits(output)?;
        let running = self.slots[slot].as_mut().expect("a slot with an output runs");
        let after = running.sample(&self.worker.model, logits)?;
        let right = running.drafter.right();
        if let After::Free = after {
            self.free(slot)?;
        }
        Ok(right)
    }
}

/// Whether a failure leaves the context as it was, so that those who are not to blame can go on.
fn is_of_its_batch(error: &NativeError) -> bool {
    matches!(error.status, NativeStatus::NoKvSlot | NativeStatus::Failed)
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
