//! What can be said of a request before it is queued, without native code: the exact check follows in the worker.

use crate::config::{Isolation, in_range};
use crate::error::{Error, Rejected, Result};
use crate::prepare::PreparedEngine;
use crate::request::{Fault, Request};
use crate::status::Status;

/// Refuses what cannot fit for certain. Counts are lower bounds: no token stands for more than `max_token_bytes`.
pub(super) fn check(request: &Request, engine: &PreparedEngine) -> Result<()> {
    let (info, n_ctx) = (engine.info(), u64::from(engine.n_ctx()));
    in_vocabulary("tokens", request.tokens.iter().flatten(), info.n_vocab)?;
    in_vocabulary("stop_tokens", &request.stop_tokens, info.n_vocab)?;
    in_vocabulary("logit_bias", request.logit_bias.iter().map(|(token, _)| token), info.n_vocab)?;
    if request.messages.is_some() && info.chat_template.is_none() {
        let message = "messages: the model's file has no chat template; send a prompt in the model's own format";
        return Err(Error::Unsupported(message.into()));
    }
    if request.fault.is_some_and(Fault::is_of_a_process) && engine.isolation() == Isolation::Thread {
        return Err(Error::Unsupported("fault: it is for workers that are processes".into()));
    }
    if request.fault.is_some_and(Fault::is_of_a_gpu) && engine.devices().is_empty() {
        return Err(Error::Unsupported("fault: it is for engines on GPUs, and this one uses none".into()));
    }
    in_range("draft_max", request.draft_max.unwrap_or(0), 0..=engine.draft_max())?;
    in_range("n_keep", request.n_keep, 0..=engine.n_ctx() / 2)?;
    let at_least = at_least_tokens(request, engine);
    let max_tokens = u64::from(request.max_tokens.filter(|_| !request.context_shift).unwrap_or(1));
    if at_least + max_tokens > n_ctx {
        let message = format!(
            "the input has at least {at_least} tokens and max_tokens is {max_tokens}, but a slot's context holds {n_ctx}; shorten one of them, or prepare with a larger n_ctx"
        );
        return Err(Rejected::new(Status::ContextOverflow, "context", message).into());
    }
    Ok(())
}

fn in_vocabulary<'a>(what: &str, tokens: impl IntoIterator<Item = &'a i32>, n_vocab: u32) -> Result<()> {
    let unknown = |id: &&i32| u32::try_from(**id).map_or(true, |id| id >= n_vocab);
    match tokens.into_iter().enumerate().find(|(_, id)| unknown(id)) {
        None => Ok(()),
        Some((i, id)) => {
            let problem = format!("{id} is not a token of this model's vocabulary, 0 to {}", n_vocab.saturating_sub(1));
            Err(Error::invalid(format!("{what}[{i}]"), problem))
        }
    }
}

fn at_least_tokens(request: &Request, engine: &PreparedEngine) -> u64 {
    if let Some(tokens) = &request.tokens {
        return tokens.len() as u64;
    }
    let bytes: usize = match (&request.prompt, &request.messages) {
        (Some(text), _) => text.len(),
        (_, Some(messages)) => messages.iter().map(|m| m.content.trim().len()).sum(),
        _ => 0,
    };
    // These two keep every byte of a text; others may normalise it and drop some.
    let keeps_bytes = matches!(engine.info().tokenizer_model.as_deref(), Some("gpt2" | "llama"));
    match u64::from(engine.info().max_token_bytes) {
        longest if keeps_bytes && longest > 0 => (bytes as u64).div_ceil(longest).max(1),
        _ => 1,
    }
}
