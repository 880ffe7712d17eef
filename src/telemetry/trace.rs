//! One request, followed from event to event: counts, times, logs.

use super::counters::{Identity, Telemetry, WorkerCounters};
use crate::event::{Event, Failed, FinishReason, Finished, Timings, Usage};
use crate::process::Process;
use crate::status::Status;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{Span, field};

/// Where a request stands in time. What deadlines are measured by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub submitted: Instant,
    pub started: Option<Instant>,
    pub first_token: Option<Instant>,
    pub last_token: Option<Instant>,
    pub ended: Option<Instant>,
}

/// Follows one request. Lives in its event queue, under that lock.
pub(crate) struct Trace {
    telemetry: Arc<Telemetry>,
    span: ManuallyDrop<Span>,
    process: Process,
    progress: Progress,
    worker: Option<u32>,
    usage: Usage,
    cached_tokens: u32,
    resumes: u32,
    /// Tokens that were decoded again to catch up with what earlier runs had given, and what that took.
    replayed: u32,
    replay: Duration,
    end: Option<End>,
    /// Called after the first token: then another deadline may be the nearest.
    on_first_token: Option<OnFirstToken>,
}

type OnFirstToken = Box<dyn FnOnce() + Send>;

/// How a request ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    Finished(FinishReason, Timings),
    Failed(Failed),
}

/// What a record says of a request that has ended.
pub(super) struct Ending<'a> {
    pub identity: &'a Identity,
    pub worker: Option<u32>,
    pub usage: Usage,
    pub cached_tokens: u32,
    pub resumes: u32,
    pub replayed: u32,
    pub replay: Duration,
    pub timings: Timings,
    pub end: &'a End,
}

/// What is to be logged of an event: outside the lock, because a subscriber is the host's code.
pub(crate) struct Note {
    span: Span,
    worker: Option<u32>,
    queue_position: u32,
    usage: Usage,
    cached_tokens: u32,
    timings: Timings,
    of: Of,
}

enum Of {
    Started,
    FirstToken(Option<OnFirstToken>),
    Restarted(String),
    Ended(End),
}

impl Trace {
    pub(crate) fn new(telemetry: Arc<Telemetry>, request: u64, seed: u64, submitted: Instant) -> Self {
        // Level ERROR, so that whatever is logged inside it can be told apart, at any level of filter.
        let span =
            tracing::error_span!("request", pool_id = telemetry.identity.pool_id, request, seed, worker = field::Empty);
        Self {
            telemetry,
            span: ManuallyDrop::new(span),
            process: Process::current(),
            progress: Progress { submitted, started: None, first_token: None, last_token: None, ended: None },
            worker: None,
            usage: Usage::default(),
            cached_tokens: 0,
            resumes: 0,
            replayed: 0,
            replay: Duration::ZERO,
            end: None,
            on_first_token: None,
        }
    }

    pub(crate) fn on_first_token(&mut self, call: impl FnOnce() + Send + 'static) {
        self.on_first_token = Some(Box::new(call));
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// It is in the queue now. Counted under the queue's lock, so that no count of an end comes before.
    pub(crate) fn accepted(&self) {
        self.telemetry.counts.accepted.add(1);
        self.telemetry.comes();
    }

    /// It goes to the engine of `telemetry`, before any worker has taken it up.
    pub(crate) fn moves(&mut self, telemetry: Arc<Telemetry>) {
        if self.progress.ended.is_none() {
            telemetry.comes();
            self.telemetry.leaves();
            self.telemetry = telemetry;
        }
    }

    pub(crate) fn span(&self) -> Span {
        Span::clone(&self.span)
    }

    /// So many tokens were guessed ahead, and so many of them came true.
    pub(crate) fn drafted(&mut self, tokens: u32, accepted: u32) {
        // The end of a request has its own sums.
        if self.end.is_none() {
            self.usage.draft_tokens += tokens;
            self.usage.draft_accepted += accepted;
        }
        if let Some(counters) = self.counters() {
            counters.draft_tokens.add(tokens.into());
            counters.draft_accepted.add(accepted.into());
        }
    }

    /// Another worker runs it.
    pub(crate) fn taken_up(&mut self, worker: u32) {
        self.worker = Some(worker);
    }

    /// It has caught up with what earlier runs had given.
    pub(crate) fn caught_up(&mut self, tokens: u32, took: Duration) {
        self.replayed += tokens;
        self.replay += took;
    }

    fn counters(&self) -> Option<&WorkerCounters> {
        Some(&**self.telemetry.workers.get(self.worker? as usize)?)
    }

    /// Takes note of an event that the consumer will get. What is returned is to be told after unlocking.
    pub(crate) fn observe(&mut self, event: &Event, now: Instant) -> Option<Note> {
        let of = match event {
            Event::Started(started) => {
                self.progress.started = Some(now);
                self.worker = Some(started.worker);
                (self.usage.prompt_tokens, self.cached_tokens) = (started.prompt_tokens, started.cached_tokens);
                let counters = self.counters()?;
                counters.latency_queue.add_time(now.duration_since(self.progress.submitted));
                counters.tokens_in.add(started.prompt_tokens.into());
                counters.tokens_cached.add(started.cached_tokens.into());
                return Some(Note { queue_position: started.queue_position, ..self.note(Of::Started, now) });
            }
            Event::Token(_) => {
                let last = self.progress.last_token.replace(now);
                self.usage.completion_tokens += 1;
                self.progress.first_token.get_or_insert(now);
                let counters = self.counters()?;
                counters.tokens_out.add(1);
                if let Some(last) = last {
                    counters.latency_inter_token.add_time(now.duration_since(last));
                    return None;
                }
                counters.latency_first_token.add_time(now.duration_since(self.progress.submitted));
                Of::FirstToken(self.on_first_token.take())
            }
            Event::Restarted(restarted) => {
                self.resumes += 1;
                self.telemetry.counts.resumed.add(1);
                Of::Restarted(restarted.reason.clone())
            }
            Event::Finished(Finished { reason, timings, usage, .. }) => {
                self.usage = *usage;
                self.telemetry.counts.count_finished(*reason);
                if let Some(counters) = self.counters() {
                    counters.latency_decode.add(timings.decode_ms);
                }
                self.ended(End::Finished(*reason, *timings), now)
            }
            Event::Failed(failed) => {
                match failed.status {
                    Status::Cancelled => self.telemetry.counts.cancelled.add(1),
                    status => self.telemetry.counts.failed.add(status),
                }
                self.ended(End::Failed(failed.clone()), now)
            }
        };
        Some(self.note(of, now))
    }

    fn ended(&mut self, end: End, now: Instant) -> Of {
        self.progress.ended = Some(now);
        self.telemetry.leaves();
        if let Some(started) = self.progress.started {
            self.telemetry.service.add(now.duration_since(started));
        }
        self.end = Some(end.clone());
        Of::Ended(end)
    }

    fn note(&self, of: Of, now: Instant) -> Note {
        let (worker, usage, cached_tokens) = (self.worker, self.usage, self.cached_tokens);
        Note { span: self.span(), worker, queue_position: 0, usage, cached_tokens, timings: self.timings(now), of }
    }

    /// `None` while it has not ended.
    pub(super) fn ending(&self) -> Option<Ending<'_>> {
        Some(Ending {
            identity: &self.telemetry.identity,
            worker: self.worker,
            usage: self.usage,
            cached_tokens: self.cached_tokens,
            resumes: self.resumes,
            replayed: self.replayed,
            replay: self.replay,
            timings: self.timings(self.progress.ended?),
            end: self.end.as_ref()?,
        })
    }

    /// What it never came to takes no time.
    pub(crate) fn timings(&self, now: Instant) -> Timings {
        if let Some(End::Finished(_, timings)) = &self.end {
            return *timings;
        }
        let Progress { submitted, started, first_token, .. } = self.progress;
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
        Timings {
            queued_ms: ms(submitted, started.unwrap_or(now)),
            prefill_ms: started.map_or(0.0, |started| ms(started, first_token.unwrap_or(now))),
            decode_ms: first_token.map_or(0.0, |first| ms(first, now)),
            first_token_ms: first_token.map_or(0.0, |first| ms(submitted, first)),
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // In a forked child, closing a span could wait for a subscriber's lock that nobody there will ever release.
        if self.process.check().is_ok() {
            // A disabled span takes its place, whose own drop is not needed.
            drop(std::mem::replace(&mut *self.span, Span::none()));
        }
    }
}

impl Note {
    /// Logs it. Never a text of prompt or answer.
    pub(crate) fn tell(self) {
        let Self { span, worker, queue_position, usage, cached_tokens, timings, of } = self;
        match of {
            Of::Started => {
                span.record("worker", worker);
                tracing::debug!(
                    parent: &span, queue_position, tokens_in = usage.prompt_tokens, tokens_cached = cached_tokens,
                    latency_queue_ms = timings.queued_ms, "request started"
                );
            }
            Of::FirstToken(then) => {
                if let Some(then) = then {
                    then();
                }
                tracing::debug!(parent: &span, latency_first_token_ms = timings.first_token_ms, "first token");
            }
            Of::Restarted(reason) => tracing::warn!(
                parent: &span, tokens_out = usage.completion_tokens, last_error = reason, "request goes on in another worker"
            ),
            Of::Ended(End::Finished(reason, _)) => tracing::info!(
                parent: &span, ?reason, tokens_in = usage.prompt_tokens, tokens_out = usage.completion_tokens,
                latency_queue_ms = timings.queued_ms, latency_first_token_ms = timings.first_token_ms,
                latency_decode_ms = timings.decode_ms, "request finished"
            ),
            Of::Ended(End::Failed(failed)) if failed.status == Status::Cancelled => tracing::info!(
                parent: &span, tokens_in = usage.prompt_tokens, tokens_out = usage.completion_tokens,
                latency_queue_ms = timings.queued_ms, latency_first_token_ms = timings.first_token_ms,
                latency_decode_ms = timings.decode_ms, "request cancelled"
            ),
            Of::Ended(End::Failed(failed)) => tracing::warn!(
                parent: &span, status = %failed.status, last_error = failed.message, tokens_in = usage.prompt_tokens,
                tokens_out = usage.completion_tokens, latency_queue_ms = timings.queued_ms,
                latency_first_token_ms = timings.first_token_ms, latency_decode_ms = timings.decode_ms,
                "request failed"
            ),
        }
    }
}
