//! Messages for benchmarks: the most frequent one, and the one that begins a request.

use super::message::{Run, Said, ToChild, ToHost};
use crate::event::Token;
use crate::request::Request;
use serde::{Deserialize, Serialize};

/// A message of either side.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message(Either);

#[derive(Debug, Serialize, Deserialize)]
enum Either {
    ToHost(ToHost),
    ToChild(ToChild),
}

/// A child tells its host of a token.
pub fn token_message() -> Message {
    let token = Token { index: 100, token: 12_345, text: " word".into(), logprobs: None, logits: None };
    Message(Either::ToHost(ToHost::Event { id: 7, run: 0, event: Said::Token(token) }))
}

/// A host hands its child a request of so many tokens.
pub fn request_message(tokens: i32) -> Message {
    let request = Request::tokens((0..tokens).collect::<Vec<i32>>());
    let run = Run { id: 7, run: 0, request, seed: 1, given: Vec::new(), snapshot: None };
    Message(Either::ToChild(ToChild::Run(Box::new(run))))
}
