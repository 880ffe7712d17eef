//! Requests that all come at once, each with a prompt of its own, in one worker that has a slot for each.
//!
//! `--streams N --n-prompt N --n-predict N`, and to find out why: `--max-stall-ms N`, `--readers each|one` (a thread per
//! stream, or one for all), `--short none|alternate|last` (half of the requests, every other one or the last ones, end
//! after a quarter of their tokens).

use crate::options::{Options, greedy, piece, words};
use llamapen::{Event, TokenStream};
use serde_json::{Value, json};
use std::error::Error;
use std::time::{Duration, Instant};

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let (n_streams, n_prompt) = (options.get("streams", 1)?, options.get("n-prompt", 128)?);
    let n_predict: u32 = options.get("n-predict", 64)?;
    let short = options.get("short", "none".to_owned())?;
    let is_short = |stream: u32| match short.as_str() {
        "none" => Ok(false),
        "alternate" => Ok(stream.is_multiple_of(2)),
        "last" => Ok(stream >= n_streams / 2),
        other => Err(format!("--short cannot be '{other}'")),
    };
    let engine = options.engine()?.with_slots(n_streams).with_n_ctx(n_prompt + n_predict);
    let supervisor = options.start(&engine)?;
    let piece_at_start = piece(&supervisor)?;
    let mut requests = Vec::new();
    for stream in 0..n_streams {
        let n_predict = if is_short(stream)? { n_predict / 4 } else { n_predict };
        requests.push(greedy(words(&supervisor, stream, n_prompt), n_predict));
    }

    let start = Instant::now();
    let streams = requests.into_iter().map(|r| supervisor.submit(r)).collect::<Result<Vec<_>, _>>()?;
    let tokens = match options.get("readers", "each".to_owned())?.as_str() {
        "each" => read_each(streams)?,
        "one" => streams.into_iter().map(read).collect::<Result<_, _>>()?,
        other => return Err(format!("--readers cannot be '{other}'").into()),
    };
    let total = start.elapsed();
    let mut result = report(start, total, n_prompt, &tokens);
    let worker = &supervisor.metrics()?.workers[0];
    let calls = &worker.decode_call_ms;
    result["piece"] = json!([piece_at_start, piece(&supervisor)?]);
    result["decode_calls"] = json!(calls.count);
    result["tokens_per_call"] = json!(worker.decode_batch_tokens.sum / calls.count as f64);
    // What is left is sampling, events and the loop itself.
    result["decode_share"] = json!(calls.sum / 1e3 / total.as_secs_f64());
    Ok(result)
}

/// When the tokens of a stream came.
type Times = Vec<Instant>;

fn read(stream: TokenStream) -> Result<Times, String> {
    let mut times = Vec::new();
    for event in stream {
        match event {
            Event::Token(_) => times.push(Instant::now()),
            Event::Failed(failed) => return Err(failed.message),
            _ => {}
        }
    }
    Ok(times)
}

fn read_each(streams: Vec<TokenStream>) -> Result<Vec<Times>, String> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = streams.into_iter().map(|stream| scope.spawn(move || read(stream))).collect();
        readers.into_iter().map(|reader| reader.join().map_err(|_| "a reader panicked".to_owned())?).collect()
    })
}

fn report(start: Instant, total: Duration, n_prompt: u32, tokens: &[Times]) -> Value {
    let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
    let (long, short): (Vec<_>, Vec<_>) = tokens.iter().partition(|times| times.len() == longest);
    let firsts = tokens.iter().filter_map(|times| times.first());
    let all_started = firsts.max().copied().unwrap_or(start);
    // While those that end last run, all of them and nobody else.
    let from = short.iter().filter_map(|times| times.last()).chain([&all_started]).max().copied().unwrap_or(start);
    let until = long.iter().filter_map(|times| times.last()).min().copied().unwrap_or(start);
    let between = long.iter().flat_map(|times| times.iter()).filter(|time| **time > from && **time <= until).count();
    let generated: usize = tokens.iter().map(Vec::len).sum();
    let seconds = until.saturating_duration_since(from).as_secs_f64();
    json!({
        "total_s": total.as_secs_f64(),
        "tok_s": (tokens.len() * n_prompt as usize + generated) as f64 / total.as_secs_f64(),
        "prefill_s": all_started.duration_since(start).as_secs_f64(),
        "steady_s": seconds,
        "generate_tok_s": if seconds > 0.0 { Some(between as f64 / seconds) } else { None },
    })
}
