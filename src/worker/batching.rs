//! The loop: requests into slots, slots into batches, logits into tokens.

use super::cache::Cache;
use super::pace::Pace;
use super::prefix::close_ranks;
use super::slot::{After, Running};
use super::snapshot::{LEAST_PAUSE, Snapshot};
use super::{Ended, Guesses, Measured, Worker, WorkerFault, prompt};
use crate::event::{Event, Failed, Started};
use crate::job::Job;
use crate::native::{Batch, Context, Kernels, NativeError, NativeStatus, Sampler};
use crate::status::Status;
use crate::supervisor::{Popped, Taker};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often an idle worker shows that it is alive.
const IDLE_BEAT: Duration = Duration::from_millis(500);

pub(super) struct Loop<'a> {
    pub(super) worker: &'a Worker,
    pub(super) context: Context,
    pub(super) slots: Vec<Option<Running>>,
    pub(super) cache: Cache,
    pace: Pace,
    pub(super) batch: Batch,
    /// Which slot has its logits at which index of the batch, its guesses following. Reused, as the batch is.
    outputs: Vec<(usize, usize)>,
    /// Which slots run; reused, too.
    runs: Vec<bool>,
    guesses: Guesses,
    /// Which slot prefills next, so that several long prompts advance in turn.
    next_prefill: usize,
    /// Memory for the next snapshot, and when that may be taken.
    spare: Vec<u8>,
    next_snapshot: Instant,
}

impl<'a> Loop<'a> {
    pub(super) fn new(worker: &'a Worker, context: Context, Measured { pace, guesses }: Measured) -> Self {
        let slots = worker.prepared.slots();
        Self {
            worker,
            context,
            slots: (0..slots).map(|_| None).collect(),
            cache: Cache::new(&worker.prepared),
            pace,
            batch: Batch::default(),
            outputs: Vec::with_capacity(slots as usize),
            runs: Vec::with_capacity(slots as usize),
            guesses,
            next_prefill: 0,
            spare: Vec::new(),
            next_snapshot: Instant::now(),
        }
    }

    /// Until the queue is closed.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        loop {
            self.free_cancelled()?;
            self.worker.state.set_kept(self.cache.positions(), self.cache.stored());
            self.worker.state.beat();
            if !self.admit()? {
                return Ok(());
            }
            self.close_ranks()?;
            self.prefill()?;
            self.generate()?;
            self.snapshot()?;
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
            self.worker.state.remove(self.worker.life, running.job.id);
            if running.job.events.is_closed() {
                running.job.ended();
            }
            self.cache.released(&mut self.context, slot)?;
        }
        Ok(())
    }

    /// Takes requests into free slots; waits for one when there is nothing else to do. False: it is to end.
    fn admit(&mut self) -> Result<bool, Ended> {
        while self.slots.iter().any(Option::is_none) {
            let idle = self.slots.iter().all(Option::is_none);
            if self.worker.state.is_retired() {
                return Ok(!idle);
            }
            let suspects = !self.slots.iter().flatten().any(|running| running.job.part().is_suspect());
            let running = self.slots.iter().flatten().count() as u32;
            let by = Taker { worker: self.worker.index, suspects, running };
            match self.worker.queue.pop(if idle { IDLE_BEAT } else { Duration::ZERO }, by) {
                Popped::Closed => return Ok(false),
                Popped::Empty => return Ok(true),
                Popped::Errand(errand) => self.measure(errand)?,
                Popped::Job(job, position) => {
                    if !self.worker.state.add(self.worker.life, job.clone()) {
                        // This worker was taken for dead meanwhile; its successor may have it, if there will be one.
                        if !self.worker.queue.push_again(job.clone()) {
                            job.fail(Failed::new(Status::Draining, "the supervisor was stopped"));
                        }
                        return Ok(false);
                    }
                    self.start(job, position)?;
                    // One per turn: prompts are decoded one after the other, and other workers want some, too.
                    if !idle {
                        return Ok(true);
                    }
                }
            }
            self.worker.state.beat();
        }
        Ok(true)
    }

    /// Moves a running request beside the others, one per turn.
    fn close_ranks(&mut self) -> Result<(), Ended> {
        self.runs.clear();
        self.runs.extend(self.slots.iter().map(Option::is_some));
        let Some((from, to)) = close_ranks(&self.runs) else { return Ok(()) };
        let held = self.cache.tokens(from).len();
        if !self.cache.exchange(&mut self.context, from, to)? {
            return Ok(());
        }
        self.slots.swap(from, to);
        if self.cache.tokens(to).len() != held {
            // Going on from nothing would give a wrong answer.
            let message = "its state was lost when it changed its slot".into();
            self.fail(to, &NativeError { status: NativeStatus::Failed, message })?;
        }
        Ok(())
    }

    /// Turns a request into a running slot, or fails it.
    fn start(&mut self, job: Arc<Job>, queue_position: u32) -> Result<(), WorkerFault> {
        if job.events.is_closed() {
            self.worker.state.remove(self.worker.life, job.id);
            return Ok(());
        }
        let (run, given) = (job.events.run(), job.events.given(<[i32]>::to_vec));
        match self.prepare(&job, (run, given)) {
            Ok(mut running) => {
                let slot = match self.resume(&mut running)? {
                    Some(slot) => slot,
                    None => self.seat(&mut running)?,
                };
                let cached = running.prefilled;
                if job.events.taken_up(run, self.worker.index) {
                    self.slots[slot] = Some(running);
                    return Ok(());
                }
                let started = Started {
                    worker: self.worker.index,
                    queue_position,
                    prompt_tokens: running.prompt_tokens(),
                    cached_tokens: u32::try_from(cached).expect("at most n_ctx"),
                    seed: job.seed,
                    prompt: running.echo.take(),
                };
                job.events.push_from(run, Event::Started(started));
                self.slots[slot] = Some(running);
            }
            Err(failed) => {
                if job.events.push_from(run, Event::Failed(failed)) {
                    job.ended();
                }
                self.worker.state.remove(self.worker.life, job.id);
            }
        }
        Ok(())
    }

    /// Finds a slot, and in it or elsewhere what is known of the prompt.
    fn seat(&mut self, running: &mut Running) -> Result<usize, WorkerFault> {
        let slots = &self.slots;
        let is_free = |slot: usize| slots[slot].is_none();
        let (slot, cached) = self.cache.seat(&mut self.context, &running.prompt, running.piece, is_free)?;
        running.prefilled = cached;
        Ok(slot)
    }

    /// The same for a request that another worker ran, from its snapshot. `None`: there is none, or it cannot be used.
    fn resume(&mut self, running: &mut Running) -> Result<Option<usize>, WorkerFault> {
        // Taken out: should the engine die of it, the next run begins with the prompt.
        let Some(snapshot) = running.job.snapshot().take() else { return Ok(None) };
        let Some(state) = snapshot.sound_state() else {
            let (worker, request) = (self.worker.index, running.job.id);
            tracing::warn!(worker, request, "a snapshot is damaged: all tokens of the request are decoded again");
            return Ok(None);
        };
        let slots = &self.slots;
        let is_free = |slot: usize| slots[slot].is_none();
        let slot = self.cache.resume(&mut self.context, snapshot.held(), &state, is_free)?;
        if slot.is_some() {
            running.go_on_from(&self.worker.model, &snapshot)?;
            running.job.resumed(snapshot);
        }
        Ok(slot)
    }

    /// Takes a snapshot of one request, if one is due.
    fn snapshot(&mut self) -> Result<(), WorkerFault> {
        let (policy, began) = (&self.worker.snapshots, Instant::now());
        if began < self.next_snapshot {
            return Ok(());
        }
        let slots = self.slots.iter_mut().enumerate();
        for (slot, running) in slots.filter_map(|(i, slot)| slot.as_mut().map(|running| (i, running))) {
            let held = self.cache.tokens(slot).len();
            if !running.wants_snapshots() || !policy.is_due(held, running.snapshot_at) {
                continue;
            }
            running.snapshot_at = held;
            let Some(size) = self.cache.state_size(&mut self.context, slot)? else { continue };
            // Its lock is held for no call of the engine, which may die.
            let has_room = policy.has_room(size, running.job.snapshot().as_ref());
            if !has_room {
                continue;
            }
            let Some(held) = self.cache.save(&mut self.context, slot, &mut self.spare)? else { continue };
            let progress = (running.generated, running.shifted);
            let new = Snapshot::take(policy, held, progress, &mut self.spare, running.job.snapshot().as_ref());
            if let Some(new) = new {
                #[cfg(feature = "fault-injection")]
                let new = super::fault::damaged(&running.job, new);
                self.spare = running.job.save(new);
            }
            self.next_snapshot = Instant::now() + began.elapsed() * LEAST_PAUSE;
            return Ok(());
        }
        Ok(())
    }

    fn prepare(&self, job: &Arc<Job>, earlier: (u32, Vec<i32>)) -> Result<Running, Failed> {
        let worker = self.worker;
        #[cfg(feature = "fault-injection")]
        super::fault::before_tokenising(job);
        let (tokens, limit) =
            prompt::tokens(&job.request, &worker.model, worker.prepared.info(), worker.prepared.n_ctx())?;
        if job.request.context_shift && !self.context.can_shift() {
            let message = "context_shift: not with this model or its KV cache: what is in it cannot be moved";
            return Err(Failed::new(Status::Unsupported, message));
        }
        let engine = |e: NativeError| {
            let fault = WorkerFault::from(e);
            Failed::new(fault.status(), fault.message)
        };
        let mut sampler = Sampler::new(worker.model.clone(), &prompt::sampling(&job.request)).map_err(engine)?;
        #[cfg(feature = "fault-injection")]
        super::fault::prepare_sampler(job, &mut sampler);
        for token in &tokens {
            sampler.accept(*token).map_err(engine)?;
        }
        let echo = match job.request.echo {
            true => Some(worker.model.render(&tokens).map_err(engine)?),
            false => None,
        };
        let piece = self.pace.piece() as usize;
        Ok(Running::new(job.clone(), earlier, (tokens, limit), piece, self.guesses, sampler, echo))
    }

    /// Processes the next piece of one prompt. Alone: a batch shape that depends on nothing but the prompt gives the
    /// same logits whatever else runs.
    fn prefill(&mut self) -> Result<(), Ended> {
        let n = self.slots.len();
        let prefilling = |i: &usize| self.slots[*i].as_ref().is_some_and(Running::is_prefilling);
        let Some(slot) = (0..n).map(|i| (self.next_prefill + i) % n).find(prefilling) else { return Ok(()) };
        self.next_prefill = (slot + 1) % n;

        let others = self.slots.iter().flatten().any(|other| !other.is_prefilling());
        let somebody_waits = others || self.worker.cancels_wait();
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
        #[cfg(feature = "fault-injection")]
        super::fault::before_a_piece(&job);
        let began = Instant::now();
        let decoded = decode(self.worker, &mut self.context, &self.batch, Kernels::Fast);
        drop(prefilling);
        match decoded {
            Ok(()) => {}
            Err(e) if e.status == NativeStatus::Aborted && self.worker.state.is_aborted() => return Err(e.into()),
            // Cancelled: nobody else was in this batch.
            Err(e) if e.status == NativeStatus::Aborted => {
                self.cache.rewind(&mut self.context, slot)?;
                return Ok(());
            }
            Err(e) if is_of_its_batch(&e) => return self.fail(slot, &e),
            Err(e) => return Err(e.into()),
        }
        running.piece = match somebody_waits {
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
        match decode(self.worker, &mut self.context, &self.batch, Kernels::PerToken) {
            Ok(()) => self.pace.plain_took(began.elapsed()),
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
            match decode(self.worker, &mut self.context, &self.batch, Kernels::PerToken) {
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
            running.fail(Failed::new(Status::DecodeFailed, message));
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

/// Calls the engine, and counts that.
fn decode(worker: &Worker, context: &mut Context, batch: &Batch, kernels: Kernels) -> Result<(), NativeError> {
    let began = Instant::now();
    context.compute_with(worker.state.cores().share());
    let decoded = context.decode(batch, kernels);
    match &decoded {
        Ok(()) => worker.state.decoded(batch.len(), began.elapsed()),
        Err(e) if is_of_its_batch(e) => worker.state.decode_failed(),
        Err(_) => {}
    }
    decoded
}

/// Whether a failure leaves the context as it was, so that those who are not to blame can go on.
fn is_of_its_batch(error: &NativeError) -> bool {
    matches!(error.status, NativeStatus::NoKvSlot | NativeStatus::Failed)
}
