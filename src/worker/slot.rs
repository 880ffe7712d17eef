//! One sequence of a worker's context, and the request it serves.

use super::draft::Drafter;
use super::logprobs::LogSoftmax;
use super::random::{uniform, uniform_xtc};
use super::snapshot::Snapshot;
use super::stop::{Released, release};
use super::utf8::Utf8Stream;
use super::{Guesses, WorkerFault};
use crate::event::{Event, Failed, FinishReason, Finished, Logprobs, Token, TokenLogprob, Usage};
use crate::job::Job;
use crate::native::{Draw, Model, NativeError, Sampler};
use std::sync::Arc;
use std::time::Instant;

/// A request in a slot: where it stands.
pub(super) struct Running {
    pub job: Arc<Job>,
    pub prompt: Vec<i32>,
    /// Prompt tokens that are in the KV cache, also those that were there before.
    pub prefilled: usize,
    /// The token to decode next, once the prompt is done.
    pub last: i32,
    pub generated: u32,
    /// Most tokens to generate.
    pub limit: u32,
    /// The prompt's text, if it is to be given.
    pub echo: Option<String>,
    /// Tokens of its prompt that are decoded at a time.
    pub piece: usize,
    pub drafter: Drafter,
    /// Tokens that were taken out of the context to make room.
    pub shifted: u32,
    /// Tokens that the slot held when a snapshot was last taken, or would have been.
    pub snapshot_at: usize,
    /// Which run of its request this is, see [`crate::event_queue`].
    run: u32,
    /// Tokens that earlier runs gave: they come again, and are not given again.
    given: Vec<i32>,
    /// The first of them that this run decodes.
    replay_from: usize,
    sampler: Sampler,
    logprobs: Option<LogSoftmax>,
    bytes: Utf8Stream,
    /// Text that was not given yet, because a stop string may begin in it.
    held: String,
    began: Instant,
}

/// What ended a generation, and by which of several.
struct End {
    reason: FinishReason,
    stop_string: Option<String>,
    stop_token: Option<i32>,
}

impl End {
    fn new(reason: FinishReason) -> Self {
        Self { reason, stop_string: None, stop_token: None }
    }
}

/// Whether a slot goes on after a token.
pub(super) enum After {
    GoOn,
    Free,
}

impl Running {
    pub(super) fn new(
        job: Arc<Job>,
        (run, given): (u32, Vec<i32>),
        (prompt, limit): (Vec<i32>, u32),
        piece: usize,
        guesses: Guesses,
        sampler: Sampler,
        echo: Option<String>,
    ) -> Self {
        let logprobs = job.request.logprobs.map(|n| LogSoftmax::new(n as usize));
        let drafter = Drafter::new(job.request.draft_max.unwrap_or(guesses.most).min(guesses.most), guesses.cost);
        Self {
            job,
            prompt,
            prefilled: 0,
            last: 0,
            generated: 0,
            limit,
            echo,
            piece,
            drafter,
            shifted: 0,
            snapshot_at: 0,
            run,
            given,
            replay_from: 0,
            sampler,
            logprobs,
            bytes: Utf8Stream::default(),
            held: String::new(),
            began: Instant::now(),
        }
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.prefilled < self.prompt.len()
    }

    pub(super) fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.prompt.len()).expect("fits n_ctx")
    }

    /// Guesses what comes after the token to decode next, at most `room` tokens; `text` is what was decoded.
    pub(super) fn propose(&mut self, text: &[i32], room: usize) {
        // The last token that may come is not decoded.
        let left = (self.limit - self.generated - 1) as usize;
        self.drafter.propose(text, self.last, room.min(left));
    }

    /// Picks the next token from its logits and gives it to the consumer.
    pub(super) fn sample(&mut self, model: &Model, logits: &[f32]) -> Result<After, WorkerFault> {
        let (seed, index) = (self.job.seed, self.generated);
        let draw = Draw { choice: uniform(seed, index), xtc: uniform_xtc(seed, index) };
        let given = self.given.get(index as usize).copied();
        let token = match given {
            Some(token) if !self.follows_choices() => token,
            _ => self.sampler.pick(logits, draw)?,
        };
        let Released { text, stop } = match given {
            Some(token) => self.came_again(model, token)?,
            None if self.job.request.stop_tokens.contains(&token) => {
                return Ok(self.finish(End { stop_token: Some(token), ..End::new(FinishReason::StopToken) }));
            }
            None if model.is_eog(token) && !self.job.request.ignore_eos => {
                return Ok(self.finish(End::new(FinishReason::Stop)));
            }
            None => self.take(model, token)?,
        };
        if given.is_none() {
            let logprobs = self.logprobs.as_mut().map(|of| logprobs(of, model, logits, token)).transpose()?;
            let logits = self.job.request.logits.then(|| logits.to_vec());
            if !self.job.events.push_from(self.run, Event::Token(Token { index, token, text, logprobs, logits })) {
                return Ok(After::Free);
            }
            if self.run > 0 {
                self.job.part().generated(self.generated);
            }
        }
        if let Some(stop) = stop {
            // What follows it in the same token is not text either.
            self.bytes = Utf8Stream::default();
            let stop_string = Some(self.job.request.stop[stop].clone());
            return Ok(self.finish(End { stop_string, ..End::new(FinishReason::StopString) }));
        }
        match self.generated >= self.limit {
            true => Ok(self.finish(End::new(FinishReason::Length))),
            false => Ok(After::GoOn),
        }
    }

    /// A token is the next one: all that depends on it, and the text that can be given now.
    fn take(&mut self, model: &Model, token: i32) -> Result<Released, WorkerFault> {
        self.sampler.accept(token)?;
        model.token_bytes(token, self.bytes.bytes())?;
        let old = self.held.len();
        self.bytes.take(&mut self.held);
        let released = release(&self.job.request.stop, &mut self.held, old);
        self.last = token;
        self.drafter.came(token);
        self.generated += 1;
        Ok(released)
    }

    /// A token that an earlier run gave.
    fn came_again(&mut self, model: &Model, token: i32) -> Result<Released, WorkerFault> {
        let released = self.take(model, token)?;
        if self.generated as usize == self.given.len() {
            let (took, tokens) = (self.began.elapsed(), self.given.len() - self.replay_from);
            tracing::debug!(request = self.job.id, tokens, ?took, "request has caught up");
            self.job.events.caught_up(tokens as u32, took);
        }
        Ok(released)
    }

    /// Whether its sampler's state follows from what was chosen before, and from which logits: it has no snapshots.
    fn follows_choices(&self) -> bool {
        self.job.request.mirostat != 0
    }

    /// Whether it is to have snapshots, for another run.
    pub(super) fn wants_snapshots(&self) -> bool {
        self.job.request.max_resumes > self.run && !self.follows_choices() && !self.is_prefilling()
    }

    /// Goes on from a snapshot, in a slot that holds it now.
    pub(super) fn go_on_from(&mut self, model: &Model, snapshot: &Snapshot) -> Result<(), WorkerFault> {
        self.prefilled = self.prompt.len();
        self.shifted = snapshot.shifted();
        self.snapshot_at = snapshot.held().tokens.len();
        self.replay_from = snapshot.generated() as usize;
        for i in 0..self.replay_from {
            self.came_again(model, self.given[i])?;
        }
        Ok(())
    }

    /// Ends it. Without effect if it has ended, or gone on in another run.
    pub(super) fn fail(&self, failed: Failed) {
        self.job.events.push_from(self.run, Event::Failed(failed));
    }

    fn finish(&mut self, end: End) -> After {
        let (draft_tokens, draft_accepted) = self.drafter.totals();
        let usage = Usage {
            prompt_tokens: self.prompt_tokens(),
            completion_tokens: self.generated,
            draft_tokens,
            draft_accepted,
            shifted_tokens: self.shifted,
        };
        let End { reason, stop_string, stop_token } = end;
        let text = std::mem::take(&mut self.held) + &self.bytes.finish();
        let timings = self.job.events.trace(|trace| trace.timings(Instant::now()));
        let finished = Finished { reason, stop_string, stop_token, text, usage, timings };
        #[cfg(feature = "fault-injection")]
        let _stamped = super::fault::Stamped::now(&self.job);
        self.job.events.push_from(self.run, Event::Finished(finished));
        After::Free
    }
}

/// Without a copy of what is whole.
fn whole(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn logprobs(of: &mut LogSoftmax, model: &Model, logits: &[f32], token: i32) -> Result<Logprobs, NativeError> {
    of.read(logits);
    let likeliest = of.top();
    let mut top = Vec::with_capacity(likeliest.len());
    for (token, logprob) in likeliest {
        let mut bytes = Vec::new();
        model.token_bytes(token, &mut bytes)?;
        top.push(TokenLogprob { token, logprob, text: whole(bytes) });
    }
    let logit = usize::try_from(token).ok().and_then(|i| logits.get(i)).copied().unwrap_or(f32::NEG_INFINITY);
    Ok(Logprobs { logprob: of.logprob(logit), top })
}
