//! [`RunRecord`]: what is needed to tell one request from another afterwards, and to run it again.

use super::trace::{End, Ending, Trace};
use crate::build_info::build_info;
use crate::event::{FinishReason, Timings, Usage};
use crate::model::Digest;
use crate::request::Request;
use crate::status::Status;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A request that has ended, for the caller's own files: what ran, with which parameters, how long and how it ended. It
/// holds no text of prompt or answer. Serializes to JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunRecord {
    /// Version of this crate.
    pub llamapen_version: &'static str,
    /// Version of llama.cpp.
    pub engine_version: String,
    /// `sha256:` over the engine's sources, flags and compiler.
    pub engine_digest: String,
    /// Name of the pool.
    pub pool_id: String,
    /// Which of several equal pools it is.
    pub replica_id: u32,
    /// Devices it may use.
    pub device_mask: String,
    /// What the model is called.
    pub model_id: String,
    /// Digests of the model's files that were given and verified; empty if none was given.
    pub model_digests: Vec<String>,
    /// Digests of the headers of the model's files, one per file.
    pub header_digests: Vec<String>,
    /// Number of the request, counted from 0 in its supervisor.
    pub request: u64,
    /// The worker that ran it; `None` if it never left the queue.
    pub worker: Option<u32>,
    /// Seed of the sampling: the request's, the engine's, or the one that was drawn.
    pub seed: u64,
    /// The request as it was given, without its input.
    pub parameters: Value,
    /// `sha256:` of the input: of the prompt's UTF-8, of the messages as compact JSON (`[{"role":…,"content":…}]`), or of
    /// the tokens as little-endian 32-bit numbers.
    pub input_digest: String,
    /// Token counts.
    pub usage: Usage,
    /// How many tokens of the prompt were already in the KV cache.
    pub cached_tokens: u32,
    /// How often it went on in another worker, because its own had died.
    pub resumes: u32,
    /// Tokens of the answer that were decoded again for that: those since the last snapshot.
    pub replayed_tokens: u32,
    /// Milliseconds until what had been given was caught up with, the waiting for a worker not counted.
    pub replay_ms: f64,
    /// Where the time went.
    pub timings: Timings,
    /// What ended the generation, if it is complete.
    pub reason: Option<FinishReason>,
    /// Why it failed, if it did.
    pub status: Option<Status>,
    /// What happened then.
    pub error: Option<String>,
}

impl RunRecord {
    /// `None` while it has not ended.
    pub(crate) fn of(trace: &Trace, id: u64, seed: u64, request: &Request) -> Option<Self> {
        let Ending { identity, worker, usage, cached_tokens, resumes, replayed, replay, timings, end } =
            trace.ending()?;
        let identity = identity.clone();
        let (reason, status, error) = match end {
            End::Finished(reason, _) => (Some(*reason), None, None),
            End::Failed(failed) => (None, Some(failed.status), Some(failed.message.clone())),
        };
        Some(Self {
            llamapen_version: build_info().llamapen_version,
            engine_version: identity.engine_version,
            engine_digest: identity.engine_digest,
            pool_id: identity.pool_id,
            replica_id: identity.replica_id,
            device_mask: identity.device_mask,
            model_id: identity.model_id,
            model_digests: identity.model_digests,
            header_digests: identity.header_digests,
            request: id,
            worker,
            seed,
            parameters: parameters(request),
            input_digest: input_digest(request),
            usage,
            cached_tokens,
            resumes,
            replayed_tokens: replayed,
            replay_ms: replay.as_secs_f64() * 1e3,
            timings,
            reason,
            status,
            error,
        })
    }

    /// The whole of it as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data with string keys")
    }
}

fn parameters(request: &Request) -> Value {
    let mut parameters = serde_json::to_value(request).expect("plain data with string keys");
    if let Some(fields) = parameters.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "prompt" | "messages" | "tokens"));
    }
    parameters
}

fn input_digest(request: &Request) -> String {
    let mut hash = Sha256::new();
    if let Some(prompt) = &request.prompt {
        hash.update(prompt);
    }
    if let Some(messages) = &request.messages {
        hash.update(serde_json::to_vec(messages).expect("plain data"));
    }
    for token in request.tokens.iter().flatten() {
        hash.update(token.to_le_bytes());
    }
    Digest::Sha256(hash.finalize().into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    #[test]
    fn the_digest_is_of_the_input_alone_and_the_parameters_are_without_it() {
        // printf %s MARKER | sha256sum
        let digest = "sha256:efbaa13ba0b07c03a8c22ea5b54b8ecc54ebbdf4911759a3aa7aa2be390f22a7";
        let prompt = Request::prompt("MARKER").with_max_tokens(3);
        assert_eq!(input_digest(&prompt), digest);
        assert_eq!(input_digest(&Request::tokens([1])), input_digest(&Request::prompt("\u{1}\0\0\0")));
        let chat = Request::chat([Message::user("MARKER")]);
        assert_eq!(input_digest(&chat), input_digest(&Request::prompt(r#"[{"role":"user","content":"MARKER"}]"#)));
        for request in [prompt, chat, Request::tokens([1, 2])] {
            let kept = parameters(&request);
            assert!(!kept.to_string().contains("MARKER"), "{kept}");
            assert!(kept.get("tokens").is_none() && kept.get("temperature").is_some(), "{kept}");
        }
    }
}
