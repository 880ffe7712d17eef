//! How long a running stream waits for its next token while the long prompt of another request is decoded.
//!
//! `--n-long N --n-plain N --max-stall-ms N`; prints the gaps between the stream's tokens, in milliseconds: `plain` of so
//! many tokens before the prompt, `beside` of those while it was decoded.

use crate::options::{Options, greedy, piece, words};
use llamapen::Event;
use serde_json::{Value, json};
use std::error::Error;
use std::sync::mpsc;
use std::time::Instant;

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let (n_long, n_plain): (u32, usize) = (options.get("n-long", 2000)?, options.get("n-plain", 100)?);
    let supervisor = options.start(&options.engine()?.with_slots(2).with_n_ctx(4096))?;
    let piece_at_start = piece(&supervisor)?;

    let running = supervisor.submit(greedy(words(&supervisor, 1, 32), 4000))?;
    let canceller = running.canceller();
    let (send, times) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for event in running {
            if matches!(event, Event::Token(_)) && send.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    let mut tokens: Vec<Instant> = times.iter().take(n_plain + 1).collect();

    let submitted = Instant::now();
    let mut done = None;
    for event in supervisor.submit(greedy(words(&supervisor, 2, n_long), 1))? {
        match event {
            Event::Token(_) => done = Some(Instant::now()),
            Event::Failed(failed) => return Err(failed.message.into()),
            _ => {}
        }
    }
    let done = done.ok_or("the long prompt gave no token")?;
    // To the next token, which waited for the last piece.
    while tokens.last().is_none_or(|time| *time < done) {
        tokens.push(times.recv().map_err(|_| "the running stream ended before the prompt was done")?);
    }
    canceller.cancel()?;
    reader.join().map_err(|_| "the reader panicked")?;

    let gaps = tokens.windows(2).map(|pair| (pair[1], pair[1].duration_since(pair[0]).as_secs_f64() * 1e3));
    let (beside, plain): (Vec<_>, Vec<_>) = gaps.partition(|(end, _)| *end > submitted);
    let only_ms = |gaps: Vec<(Instant, f64)>| gaps.into_iter().map(|(_, ms)| ms).collect::<Vec<_>>();
    Ok(json!({
        "piece": [piece_at_start, piece(&supervisor)?],
        "prompt_s": done.duration_since(submitted).as_secs_f64(),
        "plain": only_ms(plain),
        "beside": only_ms(beside),
    }))
}
