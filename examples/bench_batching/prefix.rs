//! The time to the first token of a prompt whose beginning is known, and where it is known from.
//!
//! `--n-shared N --n-tail N`: the prompts begin with the same N tokens and end with others. Each time is compared with
//! that of such a prompt on an empty cache of the same supervisor.

use crate::options::{Options, greedy, piece, words};
use llamapen::{EngineConfig, Event, Request, Supervisor, TokenStream};
use serde_json::{Value, json};
use std::error::Error;
use std::time::Instant;

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let (n_shared, n_tail): (u32, u32) = (options.get("n-shared", 1500)?, options.get("n-tail", 32)?);
    // Room for a stream that still runs when the second prompt is done.
    let n_ctx = n_shared + n_tail + 256;
    let engine = options.engine()?.with_n_ctx(n_ctx);
    let one = one_slot(options, &engine.clone().with_slots(1), n_shared, n_tail)?;
    let busy = busy_slot(options, &engine.with_slots(2), n_shared, n_tail)?;
    Ok(json!({ "one": one, "busy": busy }))
}

fn prompt(supervisor: &Supervisor, n_shared: u32, tail: u32, n_tail: u32) -> Vec<i32> {
    [words(supervisor, 0, n_shared), words(supervisor, tail, n_tail)].concat()
}

/// The same slot, then the store after another prompt had the slot.
fn one_slot(options: &Options, engine: &EngineConfig, n_shared: u32, n_tail: u32) -> Result<Value, Box<dyn Error>> {
    let supervisor = options.start(&engine.clone().with_prefix_store_bytes(256 << 20))?;
    let ask = |tail| first_token(&supervisor, greedy(prompt(&supervisor, n_shared, tail, n_tail), 1)).map(|f| f.0);
    let cold = ask(1)?.of_cached(0)?;
    let same = ask(2)?.of_cached(n_shared)?;
    first_token(&supervisor, greedy(words(&supervisor, 9, n_shared / 4), 1))?.0.of_cached(0)?;
    let store = ask(3)?.of_cached(n_shared)?;
    Ok(json!({ "piece": piece(&supervisor)?, "cold_ms": cold, "same_slot_ms": same, "store_ms": store }))
}

/// Copied from a slot that goes on generating.
fn busy_slot(options: &Options, engine: &EngineConfig, n_shared: u32, n_tail: u32) -> Result<Value, Box<dyn Error>> {
    let supervisor = options.start(engine)?;
    let (cold, running) = first_token(&supervisor, greedy(prompt(&supervisor, n_shared, 1, n_tail), 255))?;
    let (copied, _) = first_token(&supervisor, greedy(prompt(&supervisor, n_shared, 2, n_tail), 1))?;
    if supervisor.health()?.workers[0].active == 0 {
        return Err("the first stream ended before the second had its token".into());
    }
    drop(running);
    let (cold, copied) = (cold.of_cached(0)?, copied.of_cached(n_shared)?);
    Ok(json!({ "piece": piece(&supervisor)?, "cold_ms": cold, "copied_ms": copied }))
}

struct First {
    ms: f64,
    cached: u32,
}

impl First {
    /// The time, if so much of the prompt was cached: else it would be the time of something else.
    fn of_cached(&self, tokens: u32) -> Result<f64, String> {
        match self.cached == tokens {
            true => Ok(self.ms),
            false => Err(format!("{} tokens were cached and not {tokens}", self.cached)),
        }
    }
}

/// Milliseconds from `submit` to the first token, and the stream that goes on.
fn first_token(supervisor: &Supervisor, request: Request) -> Result<(First, TokenStream), Box<dyn Error>> {
    let start = Instant::now();
    let mut stream = supervisor.submit(request)?;
    let mut cached = 0;
    loop {
        match stream.next() {
            Some(Event::Started(started)) => cached = started.cached_tokens,
            Some(Event::Token(_)) => return Ok((First { ms: start.elapsed().as_secs_f64() * 1e3, cached }, stream)),
            Some(Event::Failed(failed)) => return Err(failed.message.into()),
            Some(_) => {}
            None => return Err("no token came".into()),
        }
    }
}
