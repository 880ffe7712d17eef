//! What a caller asks of a model: input, limits and sampling.

mod fault;
mod logit_bias;
mod priority;
mod ranges;

pub use fault::Fault;
pub use priority::Priority;

use crate::config::{from_json, in_range};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Message {
    /// `system`, `user` or `assistant`; other roles go to the model's template as they are.
    pub role: String,
    /// What was said. No NUL: templates end a text there.
    pub content: String,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// Instructions to the model.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// An earlier answer of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// A request for generated text. Exactly one of `prompt`, `messages` and `tokens` is given.
///
/// ```
/// use llamapen::{Message, Request};
/// let request = Request::chat([Message::user("Why is the sky blue?")]).with_max_tokens(64).with_temperature(0.0);
/// assert!(request.validate().is_ok());
/// assert!(Request::prompt("x").with_top_p(2.0).validate().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Request {
    /// Text to go on from, as it is: special tokens in it are recognised, no template is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A conversation, rendered in the format that llama.cpp recognises in the chat template of the model's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Token ids to go on from, as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<i32>>,
    /// Most tokens to generate, at least 1. Default: what is left of the slot's context.
    pub max_tokens: Option<u32>,
    /// Seed of the sampling. Default: drawn, and reported in `Started`. Equal seeds give equal texts.
    pub seed: Option<u64>,
    /// 0 picks the likeliest token always (greedy), after biases and penalties: no filter changes that. Higher is more
    /// varied, up to 100. Default: 0.8.
    pub temperature: f32,
    /// Varies the temperature by this much around itself: lower where the model is sure, higher where not. 0 to 100;
    /// 0 turns it off. Default: 0.
    pub dynatemp_range: f32,
    /// How the model's entropy maps to that temperature, 0 to 100. Default: 1.
    pub dynatemp_exponent: f32,
    /// Keeps the likeliest `top_k` tokens; 0 keeps all. Default: 40.
    pub top_k: u32,
    /// Keeps the likeliest tokens that reach this probability together, 0 to 1; 1 keeps all. Default: 0.95.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the likeliest, 0 to 1; 0 drops none. Default: 0.05.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is closest to the expected one, until they reach this probability together, 0 to
    /// 1; 1 keeps all. Default: 1.
    pub typical_p: f32,
    /// Keeps tokens whose logit is within this many standard deviations of the largest, up to 100; 0 or less, down to
    /// -1, keeps all. Default: -1.
    pub top_n_sigma: f32,
    /// How often XTC ("exclude top choices") drops all but the least likely of the tokens that reach `xtc_threshold`,
    /// 0 to 1; 0 turns it off. Default: 0.
    pub xtc_probability: f32,
    /// Probability from which a token is a top choice, 0 to 1; above 0.5 turns XTC off. Default: 0.1.
    pub xtc_threshold: f32,
    /// How many tokens `typical_p`, `top_p`, `min_p` and XTC leave at least, up to 65536; 0 is 1. Default: 0.
    pub min_keep: u32,
    /// 1 or 2 keeps the surprise of the text near `mirostat_tau` by that version of mirostat. Then only `logit_bias` and
    /// `temperature` (not dynamic) apply beside it, as in llama.cpp. Default: 0, off.
    pub mirostat: u32,
    /// Target of mirostat in bits, 0 to 100. Default: 5.
    pub mirostat_tau: f32,
    /// How fast mirostat learns, 0 to 1. Default: 0.1.
    pub mirostat_eta: f32,
    /// Divides the logit of tokens among the last `penalty_last_n`, above 0 up to 10; 1 changes nothing. Default: 1.
    pub repeat_penalty: f32,
    /// Taken off the logit for every occurrence, -10 to 10. Default: 0.
    pub frequency_penalty: f32,
    /// Taken off the logit once a token occurred, -10 to 10. Default: 0.
    pub presence_penalty: f32,
    /// How many of the last tokens the penalties look at, up to 65536; 0 turns them off. Default: 64.
    pub penalty_last_n: u32,
    /// Strength of DRY ("don't repeat yourself"), which lowers the logit of a token that would go on with a repetition,
    /// by `dry_multiplier * dry_base ^ (length - dry_allowed_length)`. 0 to 100; 0 turns it off. Default: 0.
    pub dry_multiplier: f32,
    /// 1 to 100. Default: 1.75.
    pub dry_base: f32,
    /// Tokens that may be repeated freely, up to 65536. Default: 2.
    pub dry_allowed_length: u32,
    /// How many of the last tokens DRY looks at, up to 65536; 0 turns it off. Default: 64.
    pub dry_penalty_last_n: u32,
    /// Texts that a repetition does not reach across: at most 16 of 1 to 40 bytes. Default: newline, `:`, `"`, `*`.
    pub dry_sequence_breakers: Vec<String>,
    /// Added to the logits of tokens before everything else: -1000 to 1000, or negative infinity (in JSON `false`), which
    /// forbids the token. In JSON a list of `[token, bias]` or a map. Default: none.
    #[serde(with = "logit_bias")]
    pub logit_bias: Vec<(i32, f32)>,
    /// Texts that end the generation, at most 16 of 1 to 256 bytes. They are not given: text that may be the beginning of
    /// one is held back until that is decided. The first to be complete counts, of several the longest. Default: none.
    pub stop: Vec<String>,
    /// Tokens that end the generation, at most 256. They have no event. Default: none.
    pub stop_tokens: Vec<i32>,
    /// Gives with every token its log probability and those of this many likeliest tokens, up to 20. Default: not at all.
    pub logprobs: Option<u32>,
    /// Gives the text of the prompt in `Started`. Default: false.
    pub echo: bool,
    /// Goes on past the model's end-of-generation tokens. Default: false.
    pub ignore_eos: bool,
    /// Goes on when the slot's context is full: half of the tokens behind the first `n_keep` are taken out of it, which then
    /// read on as if they had never been there. Needs `max_tokens`, which may then be more than the context holds; not with a
    /// KV cache other than `f16` or `f32`, nor for models whose memory cannot do it. Default: false, the end of the context
    /// is the end.
    pub context_shift: bool,
    /// How many tokens at the beginning of the prompt `context_shift` leaves in the context, up to half of it; the one that
    /// begins texts always stays. Default: 0.
    pub n_keep: u32,
    /// Most tokens to guess ahead, up to the engine's [`draft_max`](crate::EngineConfig::draft_max); 0: none. The answer
    /// is the same. Default: as many as the engine allows.
    pub draft_max: Option<u32>,
    /// Gives every token's raw logits (one `f32` per vocabulary entry, before sampling) with it. Default: false.
    pub logits: bool,
    /// Which class of the queue it waits in: `interactive` or `batch`. It changes when a worker takes it up, nothing else.
    /// Default: interactive.
    pub priority: Priority,
    /// Milliseconds from `submit` after which the request fails, 1 to 86400000: with `DeadlineUnmet` while no worker has
    /// taken it up, with `DecodeTimeout` from then on. What was generated until then was given. Default: no limit.
    pub timeout_ms: Option<u64>,
    /// The same for the time from `submit` until the first token.
    pub first_token_timeout_ms: Option<u64>,
    /// The same for the time between two tokens, and from the last one until the end.
    pub inter_token_timeout_ms: Option<u64>,
    /// How often it may go on in another worker when its own dies, 0 to 1000: `Restarted`, then the next token. Its tokens go
    /// on from a snapshot or are decoded again, so the answer is the one that it would have been: bit by bit if the engine
    /// is `deterministic`, else but for last bits. 0: it fails with `WORKER_RESET` at once. Default: 3.
    pub max_resumes: u32,
    /// A fault to provoke, in builds with the `fault-injection` feature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Tokens of the answer after which it is provoked, at least 1. Default: 1.
    #[serde(skip_serializing_if = "is_one")]
    pub fault_after: u32,
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: None,
            messages: None,
            tokens: None,
            max_tokens: None,
            seed: None,
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            min_keep: 0,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: 64,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).into(),
            logit_bias: Vec::new(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            logprobs: None,
            echo: false,
            ignore_eos: false,
            context_shift: false,
            n_keep: 0,
            draft_max: None,
            logits: false,
            priority: Priority::Interactive,
            timeout_ms: None,
            first_token_timeout_ms: None,
            inter_token_timeout_ms: None,
            max_resumes: 3,
            fault: None,
            fault_after: 1,
        }
    }
}

impl Request {
    /// Goes on from a text.
    pub fn prompt(text: impl Into<String>) -> Self {
        Self { prompt: Some(text.into()), ..Self::default() }
    }

    /// Answers a conversation.
    pub fn chat(messages: impl IntoIterator<Item = Message>) -> Self {
        Self { messages: Some(messages.into_iter().collect()), ..Self::default() }
    }

    /// Goes on from token ids.
    pub fn tokens(tokens: impl Into<Vec<i32>>) -> Self {
        Self { tokens: Some(tokens.into()), ..Self::default() }
    }

    /// Reads a request from JSON; what is missing takes its default.
    pub fn from_json(json: &str) -> Result<Self> {
        from_json("request", json)
    }

    /// Sets [`max_tokens`](Self::max_tokens).
    #[must_use]
    pub fn with_max_tokens(mut self, n: u32) -> Self {
        self.max_tokens = Some(n);
        self
    }

    /// Sets [`seed`](Self::seed).
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets [`temperature`](Self::temperature).
    #[must_use]
    pub fn with_temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }

    /// Sets [`top_k`](Self::top_k).
    #[must_use]
    pub fn with_top_k(mut self, top_k: u32) -> Self {
        self.top_k = top_k;
        self
    }

    /// Sets [`top_p`](Self::top_p).
    #[must_use]
    pub fn with_top_p(mut self, top_p: f32) -> Self {
        self.top_p = top_p;
        self
    }

    /// Sets [`min_p`](Self::min_p).
    #[must_use]
    pub fn with_min_p(mut self, min_p: f32) -> Self {
        self.min_p = min_p;
        self
    }

    /// Sets [`repeat_penalty`](Self::repeat_penalty).
    #[must_use]
    pub fn with_repeat_penalty(mut self, penalty: f32) -> Self {
        self.repeat_penalty = penalty;
        self
    }

    /// Sets [`ignore_eos`](Self::ignore_eos).
    #[must_use]
    pub fn with_ignore_eos(mut self, ignore: bool) -> Self {
        self.ignore_eos = ignore;
        self
    }

    /// Sets [`logit_bias`](Self::logit_bias).
    #[must_use]
    pub fn with_logit_bias(mut self, biases: impl Into<Vec<(i32, f32)>>) -> Self {
        self.logit_bias = biases.into();
        self
    }

    /// Sets [`stop`](Self::stop).
    #[must_use]
    pub fn with_stop<S: Into<String>>(mut self, texts: impl IntoIterator<Item = S>) -> Self {
        self.stop = texts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`stop_tokens`](Self::stop_tokens).
    #[must_use]
    pub fn with_stop_tokens(mut self, tokens: impl Into<Vec<i32>>) -> Self {
        self.stop_tokens = tokens.into();
        self
    }

    /// Sets [`logprobs`](Self::logprobs).
    #[must_use]
    pub fn with_logprobs(mut self, n: u32) -> Self {
        self.logprobs = Some(n);
        self
    }

    /// Sets [`echo`](Self::echo).
    #[must_use]
    pub fn with_echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// Sets [`context_shift`](Self::context_shift), and [`n_keep`](Self::n_keep).
    #[must_use]
    pub fn with_context_shift(mut self, n_keep: u32) -> Self {
        (self.context_shift, self.n_keep) = (true, n_keep);
        self
    }

    /// Sets [`draft_max`](Self::draft_max).
    #[must_use]
    pub fn with_draft_max(mut self, n: u32) -> Self {
        self.draft_max = Some(n);
        self
    }

    /// Sets [`logits`](Self::logits).
    #[must_use]
    pub fn with_logits(mut self, logits: bool) -> Self {
        self.logits = logits;
        self
    }

    /// Sets [`priority`](Self::priority).
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets [`timeout_ms`](Self::timeout_ms).
    #[must_use]
    pub fn with_timeout_ms(mut self, ms: u64) -> Self {
        self.timeout_ms = Some(ms);
        self
    }

    /// Sets [`first_token_timeout_ms`](Self::first_token_timeout_ms).
    #[must_use]
    pub fn with_first_token_timeout_ms(mut self, ms: u64) -> Self {
        self.first_token_timeout_ms = Some(ms);
        self
    }

    /// Sets [`inter_token_timeout_ms`](Self::inter_token_timeout_ms).
    #[must_use]
    pub fn with_inter_token_timeout_ms(mut self, ms: u64) -> Self {
        self.inter_token_timeout_ms = Some(ms);
        self
    }

    /// Sets [`max_resumes`](Self::max_resumes).
    #[must_use]
    pub fn with_max_resumes(mut self, times: u32) -> Self {
        self.max_resumes = times;
        self
    }

    /// Sets [`fault`](Self::fault).
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Sets [`fault_after`](Self::fault_after).
    #[must_use]
    pub fn with_fault_after(mut self, tokens: u32) -> Self {
        self.fault_after = tokens;
        self
    }

    /// Refuses what no model could run: values out of range, no input or several.
    pub fn validate(&self) -> Result<()> {
        self.validate_input()?;
        if self.max_tokens == Some(0) {
            return Err(Error::invalid("max_tokens", "0 generates nothing; give at least 1 or leave it out"));
        }
        match (self.context_shift, self.max_tokens, self.n_keep) {
            (true, None, _) => return Err(Error::invalid("context_shift", "would never end; give max_tokens, too")),
            (false, _, 1..) => return Err(Error::invalid("n_keep", "has no meaning without context_shift")),
            _ => {}
        }
        ranges::check(self)?;
        for (field, ms) in [
            ("timeout_ms", self.timeout_ms),
            ("first_token_timeout_ms", self.first_token_timeout_ms),
            ("inter_token_timeout_ms", self.inter_token_timeout_ms),
        ] {
            in_range(field, ms.unwrap_or(1), 1..=86_400_000)?;
        }
        in_range("max_resumes", self.max_resumes, 0..=1000)?;
        in_range("fault_after", self.fault_after, 1..=u32::MAX)?;
        if self.fault.is_some() && !cfg!(feature = "fault-injection") {
            return Err(Error::Unsupported(
                "fault: this build has no fault injection (cargo feature `fault-injection`)".into(),
            ));
        }
        Ok(())
    }

    fn validate_input(&self) -> Result<()> {
        match (&self.prompt, &self.messages, &self.tokens) {
            (Some(text), None, None) if text.is_empty() => Err(Error::invalid("prompt", "is empty")),
            (None, None, Some(tokens)) if tokens.is_empty() => Err(Error::invalid("tokens", "is empty")),
            (None, Some(messages), None) => {
                if messages.is_empty() {
                    return Err(Error::invalid("messages", "is empty"));
                }
                for (i, message) in messages.iter().enumerate() {
                    if message.role.is_empty() {
                        return Err(Error::invalid(format!("messages[{i}].role"), "is empty"));
                    }
                    for (field, text) in [("role", &message.role), ("content", &message.content)] {
                        if let Some(at) = text.find('\0') {
                            let problem =
                                format!("holds a NUL character at byte {at}, where the template would end the text");
                            return Err(Error::invalid(format!("messages[{i}].{field}"), problem));
                        }
                    }
                }
                Ok(())
            }
            (Some(_), None, None) | (None, None, Some(_)) => Ok(()),
            (None, None, None) => Err(Error::invalid("request", "has no input; give prompt, messages or tokens")),
            _ => {
                Err(Error::invalid("request", "has more than one input; give only one of prompt, messages and tokens"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_input() {
        let both = Request { messages: Some(vec![Message::user("b")]), ..Request::prompt("a") };
        for bad in [Request::default(), both, Request::prompt(""), Request::tokens([]), Request::chat([])] {
            assert_eq!(bad.validate().unwrap_err().status(), crate::Status::InvalidParams, "{bad:?}");
        }
    }

    #[test]
    fn ranges_name_the_field_and_refuse_nan() {
        let bad = [
            ("temperature", Request::prompt("a").with_temperature(-0.1)),
            ("temperature", Request::prompt("a").with_temperature(f32::NAN)),
            ("top_p", Request::prompt("a").with_top_p(1.5)),
            ("min_p", Request::prompt("a").with_min_p(f32::INFINITY)),
            ("repeat_penalty", Request::prompt("a").with_repeat_penalty(0.0)),
            ("max_tokens", Request::prompt("a").with_max_tokens(0)),
            ("context_shift", Request::prompt("a").with_context_shift(0)),
            ("n_keep", Request { context_shift: false, ..Request::prompt("a").with_context_shift(1) }),
            ("timeout_ms", Request::prompt("a").with_timeout_ms(0)),
            ("first_token_timeout_ms", Request::prompt("a").with_first_token_timeout_ms(86_400_001)),
            ("inter_token_timeout_ms", Request::prompt("a").with_inter_token_timeout_ms(u64::MAX)),
            ("messages[0].content", Request::chat([Message::user("a\0b")])),
        ];
        for (field, request) in bad {
            let error = request.validate().unwrap_err();
            assert!(error.to_string().starts_with(&format!("{field}:")), "{error}");
        }
    }

    #[test]
    fn json_takes_defaults_and_refuses_unknown_keys() {
        let request = Request::from_json(r#"{"prompt": "a", "seed": 7}"#).unwrap();
        assert_eq!(request, Request::prompt("a").with_seed(7));
        let error = Request::from_json(r#"{"prompt": "a", "temprature": 1}"#).unwrap_err();
        assert!(error.to_string().contains("temprature"), "{error}");
    }
}
