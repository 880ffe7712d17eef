//! Requests that all come at once, on threads and on processes in turn.
//!
//! `--streams N --n-prompt N --n-predict N --rounds N`: both supervisors are there all the time, and one of them idles; which is
//! first changes from round to round. Prompts are new ones in each round, and the same on both.

use crate::options::{Options, greedy, words};
use crate::tier::{TIERS, start};
use llamapen::{Event, Request, Supervisor, TokenStream};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::time::Instant;

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let (n_streams, n_prompt): (u32, u32) = (options.get("streams", 1)?, options.get("n-prompt", 32)?);
    let (n_predict, rounds): (u32, u32) = (options.get("n-predict", 128)?, options.get("rounds", 7)?);
    let mut supervisors = Vec::new();
    for (name, isolation) in TIERS {
        supervisors.push((name, start(options, isolation)?, Vec::new()));
    }
    for round in 0..=rounds {
        let mut answers = Vec::new();
        for (_, supervisor, results) in &mut supervisors {
            let prompt = |stream| words(supervisor, 100 * round + stream, n_prompt);
            let requests = (0..n_streams).map(|stream| greedy(prompt(stream), n_predict)).collect();
            let (result, tokens) = run(supervisor, requests)?;
            // The first one warms both up.
            if round > 0 {
                results.push(result);
            }
            answers.push(tokens);
        }
        if answers[0] != answers[1] {
            return Err("the tiers gave different answers".into());
        }
        supervisors.reverse();
    }
    Ok(supervisors
        .into_iter()
        .map(|(name, _, results)| (name.to_owned(), results.into()))
        .collect::<Map<_, _>>()
        .into())
}

type Tokens = Vec<i32>;

/// Tokens per second, and the tokens of each stream.
fn run(supervisor: &Supervisor, requests: Vec<Request>) -> Result<(Value, Vec<Tokens>), Box<dyn Error>> {
    let start = Instant::now();
    let streams = requests.into_iter().map(|request| supervisor.submit(request)).collect::<Result<Vec<_>, _>>()?;
    let answers = std::thread::scope(|scope| {
        let readers: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| read(stream))).collect();
        readers.into_iter().map(|reader| reader.join().map_err(|_| "a reader panicked")?).collect::<Result<Vec<_>, _>>()
    })?;
    let total = start.elapsed().as_secs_f64();
    let generated: usize = answers.iter().map(|(tokens, _)| tokens.len()).sum();
    // From when all have begun until the first has ended.
    let from = answers.iter().filter_map(|(_, times)| times.first()).max().copied().unwrap_or(start);
    let until = answers.iter().filter_map(|(_, times)| times.last()).min().copied().unwrap_or(start);
    let steady = answers.iter().flat_map(|(_, times)| times).filter(|time| **time > from && **time <= until).count();
    let seconds = until.saturating_duration_since(from).as_secs_f64();
    let result = json!({ "tok_s": generated as f64 / total, "steady_tok_s": steady as f64 / seconds });
    Ok((result, answers.into_iter().map(|(tokens, _)| tokens).collect()))
}

fn read(stream: TokenStream) -> Result<(Tokens, Vec<Instant>), String> {
    let (mut tokens, mut times) = (Vec::new(), Vec::new());
    for event in stream {
        match event {
            Event::Token(token) => {
                tokens.push(token.token);
                times.push(Instant::now());
            }
            Event::Failed(failed) => return Err(failed.message),
            _ => {}
        }
    }
    Ok((tokens, times))
}
