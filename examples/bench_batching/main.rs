//! What many requests in one worker cost each other, for `make bench-batching`, which compares it with tests/reference.
//!
//! `bench_batching streams|prefix|fairness|guesses --model FILE [--threads N] ...` prints one line of JSON.

mod fairness;
mod guesses;
mod options;
mod prefix;
mod streams;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((what, rest)) = args.split_first() else {
        return Err("usage: bench_batching WHAT --model FILE ...".into());
    };
    let options = options::Options::parse(rest)?;
    let result = match what.as_str() {
        "streams" => streams::measure(&options)?,
        "prefix" => prefix::measure(&options)?,
        "fairness" => fairness::measure(&options)?,
        "guesses" => guesses::measure(&options)?,
        other => return Err(format!("nothing is known of '{other}'").into()),
    };
    println!("{result}");
    Ok(())
}
