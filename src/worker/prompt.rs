//! From a request to the tokens of its prompt. Runs in the worker's domain: tokenisers and templates are native code.

use crate::event::Failed;
use crate::model::ModelInfo;
use crate::native::{LogitBias, Model, NativeError, NativeStatus, Sampling, SamplingParams, apply_chat_template};
use crate::request::Request;
use crate::status::Status;
use std::ffi::CString;

/// The prompt's tokens, checked against the context, and how many tokens may follow.
pub(super) fn tokens(
    request: &Request,
    model: &Model,
    info: &ModelInfo,
    n_ctx: u32,
) -> Result<(Vec<i32>, u32), Failed> {
    let native = |what: &str| {
        let what = what.to_owned();
        move |e: NativeError| match e.status {
            NativeStatus::OutOfMemory => Failed::new(Status::OutOfMemory, format!("{what}: {e}")),
            NativeStatus::Unsupported => Failed::new(Status::Unsupported, format!("{what}: {e}")),
            _ => Failed::new(Status::InvalidParams, format!("{what}: {e}")),
        }
    };
    let tokens = match (&request.prompt, &request.messages, &request.tokens) {
        (Some(text), _, _) => model.tokenize(text, true).map_err(native("tokenising the prompt"))?,
        (_, Some(messages), _) => {
            let Some(template) = &info.chat_template else {
                let message =
                    "messages: the model's file has no chat template; send a prompt in the model's own format";
                return Err(Failed::new(Status::Unsupported, message));
            };
            let pairs: Vec<_> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
            let text = apply_chat_template(template, &pairs).map_err(native(
                "messages: the chat template in the model's file; send a prompt in the model's own format instead",
            ))?;
            let mut tokens = model.tokenize(&text, true).map_err(native("tokenising the messages"))?;
            // Some templates write the BOS that the tokeniser adds anyway; the model was trained with one.
            let bos = info.bos_token_id.and_then(|id| i32::try_from(id).ok());
            if let [first, second, ..] = tokens[..]
                && Some(first) == bos
                && first == second
            {
                tokens.remove(0);
            }
            tokens
        }
        (_, _, Some(tokens)) => tokens.clone(),
        (None, None, None) => Vec::new(),
    };
    let limit = fit(tokens.len(), request, n_ctx)?;
    Ok((tokens, limit))
}

/// How many tokens may be generated, or why the request does not fit. Nothing is ever truncated.
fn fit(prompt: usize, request: &Request, n_ctx: u32) -> Result<u32, Failed> {
    if prompt == 0 {
        return Err(Failed::new(Status::InvalidParams, "the input has no tokens"));
    }
    let overflow = |message: String| Err(Failed::new(Status::ContextOverflow, message));
    let room = u64::from(n_ctx).saturating_sub(prompt as u64);
    match request.max_tokens {
        _ if room == 0 => overflow(format!(
            "the prompt has {prompt} tokens and a slot's context {n_ctx}, one of which must be left to generate; shorten it or prepare with a larger n_ctx"
        )),
        Some(max) if u64::from(max) > room && !request.context_shift => overflow(format!(
            "the prompt has {prompt} tokens, max_tokens is {max}, together more than a slot's context of {n_ctx}; ask for at most {room} tokens or prepare with a larger n_ctx, or set context_shift"
        )),
        Some(max) => Ok(max),
        None => Ok(u32::try_from(room).expect("at most n_ctx")),
    }
}

/// The sampling of a request that was validated.
pub(super) fn sampling(request: &Request) -> Sampling {
    let int = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let params = SamplingParams {
        penalty_last_n: int(request.penalty_last_n),
        penalty_repeat: request.repeat_penalty,
        penalty_frequency: request.frequency_penalty,
        penalty_presence: request.presence_penalty,
        dry_multiplier: request.dry_multiplier,
        dry_base: request.dry_base,
        dry_allowed_length: int(request.dry_allowed_length),
        dry_penalty_last_n: int(request.dry_penalty_last_n),
        top_n_sigma: request.top_n_sigma,
        top_k: int(request.top_k),
        typical_p: request.typical_p,
        top_p: request.top_p,
        min_p: request.min_p,
        xtc_probability: request.xtc_probability,
        xtc_threshold: request.xtc_threshold,
        min_keep: request.min_keep,
        temperature: request.temperature,
        dynatemp_range: request.dynatemp_range,
        dynatemp_exponent: request.dynatemp_exponent,
        mirostat: int(request.mirostat),
        mirostat_tau: request.mirostat_tau,
        mirostat_eta: request.mirostat_eta,
    };
    Sampling {
        params,
        biases: request.logit_bias.iter().map(|&(token, bias)| LogitBias { token, bias }).collect(),
        dry_breakers: request
            .dry_sequence_breakers
            .iter()
            .filter_map(|text| CString::new(text.as_str()).ok())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(prompt: usize, max_tokens: Option<u32>, n_ctx: u32) -> Result<u32, Failed> {
        super::fit(prompt, &Request { max_tokens, ..Request::default() }, n_ctx)
    }

    #[test]
    fn what_does_not_fit_is_refused_and_nothing_truncated() {
        assert_eq!(fit(10, None, 16).unwrap(), 6);
        assert_eq!(fit(10, Some(6), 16).unwrap(), 6);
        assert_eq!(fit(15, None, 16).unwrap(), 1);
        for (prompt, max) in [(10, Some(7)), (16, None), (17, None), (16, Some(1)), (10, Some(u32::MAX))] {
            assert_eq!(fit(prompt, max, 16).unwrap_err().status, Status::ContextOverflow);
        }
        assert_eq!(fit(0, None, 16).unwrap_err().status, Status::InvalidParams);
        let shifting = Request::default().with_max_tokens(100).with_context_shift(0);
        assert_eq!(super::fit(15, &shifting, 16).unwrap(), 100);
        assert_eq!(super::fit(16, &shifting, 16).unwrap_err().status, Status::ContextOverflow);
    }
}
