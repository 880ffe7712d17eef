//! One sequence of a worker's context, and the request it serves.

use super::draft::Drafter;
use super::logprobs::LogSoftmax;
use super::random::{uniform, uniform_xtc};
use super::stop::{Released, release};
use super::utf8::Utf8Stream;
use super::{Guesses, WorkerFault};
use crate::event::{Event, FinishReason, Finished, Logprobs, Timings, Token, TokenLogprob, Usage};
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
    sampler: Sampler,
    logprobs: Option<LogSoftmax>,
    bytes: Utf8Stream,
    /// Text that was not given yet, because a stop string may begin in it.
    held: String,
    started: Instant,
    prefill_done: Option<Instant>,
    first_token: Option<Instant>,
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
        prompt: Vec<i32>,
        limit: u32,
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
            sampler,
            logprobs,
            bytes: Utf8Stream::default(),
            held: String::new(),
            started: Instant::now(),
            prefill_done: None,
            first_token: None,
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
        self.prefill_done.get_or_insert_with(Instant::now);
        let (seed, index) = (self.job.seed, self.generated);
        let draw = Draw { choice: uniform(seed, index), xtc: uniform_xtc(seed, index) };
        let token = self.sampler.pick(logits, draw)?;
        if self.job.request.stop_tokens.contains(&token) {
            return Ok(self.finish(End { stop_token: Some(token), ..End::new(FinishReason::StopToken) }));
        }
        if model.is_eog(token) && !self.job.request.ignore_eos {
            return Ok(self.finish(End::new(FinishReason::Stop)));
        }
        self.sampler.accept(token)?;
        model.token_bytes(token, self.bytes.bytes())?;
        let old = self.held.len();
        self.bytes.take(&mut self.held);
        let Released { text, stop } = release(&self.job.request.stop, &mut self.held, old);
        let logprobs = self.logprobs.as_mut().map(|of| logprobs(of, model, logits, token)).transpose()?;
        let logits = self.job.request.logits.then(|| logits.to_vec());
        let event = Token { index, token, text, logprobs, logits };
        self.last = token;
        self.drafter.came(token);
        self.generated += 1;
        self.first_token.get_or_insert_with(Instant::now);
        if !self.job.events.push(Event::Token(event)) {
            return Ok(After::Free);
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

    fn finish(&mut self, end: End) -> After {
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
        let now = Instant::now();
        let prefill_done = self.prefill_done.unwrap_or(now);
        let timings = Timings {
            queued_ms: ms(self.job.submitted, self.started),
            prefill_ms: ms(self.started, prefill_done),
            decode_ms: ms(prefill_done, now),
            first_token_ms: self.first_token.map_or(0.0, |then| ms(self.job.submitted, then)),
        };
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
        self.job.events.push(Event::Finished(Finished { reason, stop_string, stop_token, text, usage, timings }));
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
