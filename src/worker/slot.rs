//! One sequence of a worker's context, and the request it serves.

use super::WorkerFault;
use super::random::uniform;
use super::utf8::Utf8Stream;
use crate::event::{Event, FinishReason, Finished, Timings, Token, Usage};
use crate::job::Job;
use crate::native::{Model, Sampler};
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
    /// Tokens of its prompt that are decoded at a time.
    pub piece: usize,
    sampler: Sampler,
    text: Utf8Stream,
    started: Instant,
    prefill_done: Option<Instant>,
    first_token: Option<Instant>,
}

/// Whether a slot goes on after a token.
pub(super) enum After {
    GoOn,
    Free,
}

impl Running {
    pub(super) fn new(job: Arc<Job>, prompt: Vec<i32>, limit: u32, piece: usize, sampler: Sampler) -> Self {
        Self {
            job,
            prompt,
            prefilled: 0,
            last: 0,
            generated: 0,
            limit,
            piece,
            sampler,
            text: Utf8Stream::default(),
            started: Instant::now(),
            prefill_done: None,
            first_token: None,
        }
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.prefilled < self.prompt.len()
    }

    /// Position of the token to decode next.
    pub(super) fn position(&self) -> u32 {
        self.prompt_tokens() + self.generated - 1
    }

    pub(super) fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.prompt.len()).expect("fits n_ctx")
    }

    /// Picks the next token from its logits and gives it to the consumer.
    pub(super) fn sample(&mut self, model: &Model, logits: &[f32]) -> Result<After, WorkerFault> {
        self.prefill_done.get_or_insert_with(Instant::now);
        let token = self.sampler.pick(logits, uniform(self.job.seed, self.generated))?;
        if model.is_eog(token) && !self.job.request.ignore_eos {
            return Ok(self.finish(FinishReason::Stop));
        }
        self.sampler.accept(token)?;
        model.token_bytes(token, self.text.bytes())?;
        let logits = self.job.request.logits.then(|| logits.to_vec());
        let event = Token { index: self.generated, token, text: self.text.take(), logits };
        self.last = token;
        self.generated += 1;
        self.first_token.get_or_insert_with(Instant::now);
        if !self.job.events.push(Event::Token(event)) {
            return Ok(After::Free);
        }
        #[cfg(feature = "fault-injection")]
        self.inject_fault()?;
        match self.generated >= self.limit {
            true => Ok(self.finish(FinishReason::Length)),
            false => Ok(After::GoOn),
        }
    }

    fn finish(&mut self, reason: FinishReason) -> After {
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
        let now = Instant::now();
        let prefill_done = self.prefill_done.unwrap_or(now);
        let timings = Timings {
            queued_ms: ms(self.job.submitted, self.started),
            prefill_ms: ms(self.started, prefill_done),
            decode_ms: ms(prefill_done, now),
            first_token_ms: self.first_token.map_or(0.0, |then| ms(self.job.submitted, then)),
        };
        let usage = Usage { prompt_tokens: self.prompt_tokens(), completion_tokens: self.generated };
        self.job.events.push(Event::Finished(Finished { reason, text: self.text.finish(), usage, timings }));
        After::Free
    }

    #[cfg(feature = "fault-injection")]
    fn inject_fault(&mut self) -> Result<(), WorkerFault> {
        use crate::request::Fault;
        match self.job.request.fault {
            Some(Fault::Panic) => panic!("injected panic"),
            Some(Fault::CppException) => Ok(crate::native::throw_exception()?),
            Some(Fault::BadToken) => {
                self.last = i32::MAX;
                Ok(())
            }
            None => Ok(()),
        }
    }
}
