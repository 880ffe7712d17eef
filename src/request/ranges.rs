//! The ranges of the numbers in a request.

use super::Request;
use crate::config::in_range;
use crate::error::{Error, Result};

const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;
const MAX_STOP_TOKENS: usize = 256;
/// llama.cpp would cut longer ones.
const MAX_BREAKER_BYTES: usize = 40;
const MAX_BREAKERS: usize = 16;

pub(super) fn check(request: &Request) -> Result<()> {
    let r = request;
    in_range("temperature", r.temperature, 0.0..=100.0)?;
    in_range("dynatemp_range", r.dynatemp_range, 0.0..=100.0)?;
    in_range("dynatemp_exponent", r.dynatemp_exponent, 0.0..=100.0)?;
    in_range("top_k", r.top_k, 0..=i32::MAX as u32)?;
    in_range("top_p", r.top_p, 0.0..=1.0)?;
    in_range("min_p", r.min_p, 0.0..=1.0)?;
    in_range("typical_p", r.typical_p, 0.0..=1.0)?;
    in_range("top_n_sigma", r.top_n_sigma, -1.0..=100.0)?;
    in_range("xtc_probability", r.xtc_probability, 0.0..=1.0)?;
    in_range("xtc_threshold", r.xtc_threshold, 0.0..=1.0)?;
    in_range("min_keep", r.min_keep, 0..=65_536)?;
    in_range("mirostat", r.mirostat, 0..=2)?;
    in_range("mirostat_tau", r.mirostat_tau, 0.0..=100.0)?;
    in_range("mirostat_eta", r.mirostat_eta, 0.0..=1.0)?;
    in_range("repeat_penalty", r.repeat_penalty, f32::MIN_POSITIVE..=10.0)?;
    in_range("frequency_penalty", r.frequency_penalty, -10.0..=10.0)?;
    in_range("presence_penalty", r.presence_penalty, -10.0..=10.0)?;
    in_range("penalty_last_n", r.penalty_last_n, 0..=65_536)?;
    in_range("dry_multiplier", r.dry_multiplier, 0.0..=100.0)?;
    in_range("dry_base", r.dry_base, 1.0..=100.0)?;
    in_range("dry_allowed_length", r.dry_allowed_length, 0..=65_536)?;
    in_range("dry_penalty_last_n", r.dry_penalty_last_n, 0..=65_536)?;
    texts("dry_sequence_breakers", &r.dry_sequence_breakers, MAX_BREAKERS, MAX_BREAKER_BYTES)?;
    if let Some(i) = r.dry_sequence_breakers.iter().position(|text| text.contains('\0')) {
        let problem = "holds a NUL character, where llama.cpp would end the text";
        return Err(Error::invalid(format!("dry_sequence_breakers[{i}]"), problem));
    }
    for (i, (_, bias)) in r.logit_bias.iter().enumerate() {
        if *bias != f32::NEG_INFINITY {
            in_range(&format!("logit_bias[{i}]"), *bias, -1000.0..=1000.0)?;
        }
    }
    texts("stop", &r.stop, MAX_STOPS, MAX_STOP_BYTES)?;
    at_most("stop_tokens", r.stop_tokens.len(), MAX_STOP_TOKENS)?;
    in_range("logprobs", r.logprobs.unwrap_or(0), 0..=20)
}

fn texts(what: &str, texts: &[String], most: usize, most_bytes: usize) -> Result<()> {
    at_most(what, texts.len(), most)?;
    match texts.iter().position(|text| !(1..=most_bytes).contains(&text.len())) {
        None => Ok(()),
        Some(i) => {
            let problem = format!("has {} bytes; give 1 to {most_bytes}", texts[i].len());
            Err(Error::invalid(format!("{what}[{i}]"), problem))
        }
    }
}

fn at_most(what: &str, n: usize, most: usize) -> Result<()> {
    match n <= most {
        true => Ok(()),
        false => Err(Error::invalid(what, format!("has {n} entries; give at most {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_its_field() {
        let refused = |field: &str, change: &dyn Fn(&mut Request)| {
            let mut request = Request::prompt("a");
            request.validate().unwrap();
            change(&mut request);
            let error = request.validate().unwrap_err();
            assert_eq!(error.status(), crate::Status::InvalidParams);
            assert!(error.to_string().starts_with(&format!("{field}:")), "{field}: {error}");
        };
        macro_rules! floats {
            ($($field:ident: $($bad:expr),+;)+) => {
                $(for bad in [$($bad),+, f32::NAN, f32::INFINITY] {
                    refused(stringify!($field), &|r| r.$field = bad);
                })+
            };
        }
        floats! {
            temperature: -0.1, 100.1; dynatemp_range: -0.1, 100.1; dynatemp_exponent: -1.0, 101.0; top_p: -0.1, 1.1;
            min_p: -0.1, 1.1; typical_p: -0.1, 1.1; top_n_sigma: -2.0, 101.0; xtc_probability: -0.1, 1.1;
            xtc_threshold: -0.1, 1.1; mirostat_tau: -1.0, 101.0; mirostat_eta: -0.1, 1.1; repeat_penalty: 0.0, 11.0;
            frequency_penalty: -11.0, 11.0; presence_penalty: -11.0, 11.0; dry_multiplier: -1.0, 101.0;
            dry_base: 0.9, 101.0;
        }
        refused("mirostat", &|r| r.mirostat = 3);
        refused("min_keep", &|r| r.min_keep = 65_537);
        refused("top_k", &|r| r.top_k = u32::MAX);
        refused("penalty_last_n", &|r| r.penalty_last_n = 65_537);
        refused("dry_penalty_last_n", &|r| r.dry_penalty_last_n = 65_537);
        refused("dry_allowed_length", &|r| r.dry_allowed_length = 65_537);
        refused("dry_sequence_breakers", &|r| r.dry_sequence_breakers = vec!["a".into(); 17]);
        refused("dry_sequence_breakers[1]", &|r| r.dry_sequence_breakers = vec!["a".into(), "b".repeat(41)]);
        refused("dry_sequence_breakers[0]", &|r| r.dry_sequence_breakers = vec!["a\0".into()]);
        refused("logit_bias[1]", &|r| r.logit_bias = vec![(0, f32::NEG_INFINITY), (1, f32::NAN)]);
        refused("logit_bias[0]", &|r| r.logit_bias = vec![(0, 1001.0)]);
        refused("stop", &|r| r.stop = vec!["a".into(); 17]);
        refused("stop[1]", &|r| r.stop = vec!["a".into(), String::new()]);
        refused("stop[0]", &|r| r.stop = vec!["é".repeat(129)]);
        refused("stop_tokens", &|r| r.stop_tokens = vec![0; 257]);
        refused("logprobs", &|r| r.logprobs = Some(21));
    }
}
