//! What happens to a request, in order: `Started`, tokens, and exactly one of `Finished` and `Failed`.

use crate::status::Status;
use serde::{Deserialize, Serialize};

/// One event of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A worker took the request up; its prompt is rendered and tokenised.
    Started(Started),
    /// The next token.
    Token(Token),
    /// The worker failed and the request goes on in another; nothing that was given is taken back.
    Restarted(Restarted),
    /// The generation is complete. Terminal.
    Finished(Finished),
    /// The request ended without completing. Terminal.
    Failed(Failed),
}

impl Event {
    /// Whether this is the last event of its request.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Failed(_))
    }
}

/// See [`Event::Started`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Started {
    /// Index of the worker that runs it.
    pub worker: u32,
    /// How many waiting requests were to be taken before it when it was submitted, later ones of a higher
    /// [`Priority`](crate::Priority) not counted.
    pub queue_position: u32,
    /// Tokens of the prompt, template and special tokens included.
    pub prompt_tokens: u32,
    /// How many of them were already in the KV cache.
    pub cached_tokens: u32,
    /// Seed of the sampling: the request's, or the one that was drawn.
    pub seed: u64,
    /// The text of the prompt as the model reads it, if the request asked for an echo: all its tokens, with what the
    /// template added and with special tokens written out.
    pub prompt: Option<String>,
}

/// See [`Event::Token`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Token {
    /// Counted from 0.
    pub index: u32,
    /// Id in the model's vocabulary.
    pub token: i32,
    /// Its text, always whole UTF-8. Empty while a code point is incomplete; its bytes come with the token that
    /// completes it. Text that may be the beginning of a stop string is held back too, until that is decided.
    pub text: String,
    /// How likely it was, and what else was, if the request asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Logprobs>,
    /// The raw logits it was picked from, one per vocabulary entry, if the request asked for them.
    #[serde(skip)]
    pub logits: Option<Vec<f32>>,
}

/// Natural logarithms of probabilities that the model gave: the softmax of its raw logits, before all sampling
/// parameters (as llama-server gives them unless `post_sampling_probs` is set).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Logprobs {
    /// Of the token that was picked. At most 0.
    pub logprob: f64,
    /// The likeliest tokens, likeliest first, as many as the request asked for; the picked one may be among them.
    pub top: Vec<TokenLogprob>,
}

/// See [`Logprobs::top`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenLogprob {
    /// Id in the model's vocabulary.
    pub token: i32,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Its own text. U+FFFD stands for bytes that are no whole code point by themselves; empty for control tokens.
    pub text: String,
}

/// See [`Event::Restarted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Restarted {
    /// Counted from 1.
    pub attempt: u32,
    /// Tokens that were kept.
    pub tokens_kept: u32,
    /// What happened to the worker.
    pub reason: String,
}

/// See [`Event::Finished`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finished {
    /// What ended the generation.
    pub reason: FinishReason,
    /// With [`FinishReason::StopString`]: which one.
    pub stop_string: Option<String>,
    /// With [`FinishReason::StopToken`]: which one. It has no event.
    pub stop_token: Option<i32>,
    /// Text that was held back: what could have become a stop string, and U+FFFD for a last code point that never became
    /// complete. Mostly empty.
    pub text: String,
    /// Token counts.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// What ended a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended its turn.
    Stop,
    /// `max_tokens`, or the end of the slot's context.
    Length,
    /// One of the request's stop strings was complete. Neither it nor what followed it was given as text.
    StopString,
    /// One of the request's stop tokens.
    StopToken,
}

/// Token counts of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens that were generated and given as events.
    pub completion_tokens: u32,
    /// Tokens that were guessed ahead, and how many of them came true, see
    /// [`EngineConfig::draft_max`](crate::EngineConfig::draft_max).
    pub draft_tokens: u32,
    /// See [`draft_tokens`](Self::draft_tokens).
    pub draft_accepted: u32,
    /// Tokens that were taken out of the context to make room, see
    /// [`Request::context_shift`](crate::Request::context_shift).
    pub shifted_tokens: u32,
}

/// Milliseconds spent on a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Timings {
    /// From `submit` until a worker took it up.
    pub queued_ms: f64,
    /// From there until the whole prompt was processed.
    pub prefill_ms: f64,
    /// From there until the end.
    pub decode_ms: f64,
    /// From `submit` until the first token was given; 0 without one.
    pub first_token_ms: f64,
}

/// See [`Event::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failed {
    /// Why, as a number.
    pub status: Status,
    /// What happened and what to do.
    pub message: String,
    /// Whether the same request may succeed when it is sent again.
    pub retriable: bool,
    /// When to send it again, in milliseconds, if that is known.
    pub retry_after_ms: Option<u64>,
}

impl Failed {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retriable: status.retriable(), retry_after_ms: None }
    }
}
