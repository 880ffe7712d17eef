//! What it costs that workers are processes, beside workers that are threads in the same run, for `make bench-process`.
//!
//! `bench_process streams|latency|restarts|memory --model FILE [--workers N] [--slots N] [--threads N] ...` prints one line of
//! JSON.

mod latency;
mod memory;
#[allow(dead_code, reason = "another benchmark's, which has more of it")]
#[path = "../bench_batching/options.rs"]
mod options;
mod restarts;
mod streams;
mod tier;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    llamapen::worker_main_if_child();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((what, rest)) = args.split_first() else {
        return Err("usage: bench_process WHAT --model FILE ...".into());
    };
    let options = options::Options::parse(rest)?;
    let result = match what.as_str() {
        "streams" => streams::measure(&options)?,
        "latency" => latency::measure(&options)?,
        "restarts" => restarts::measure(&options)?,
        "memory" => memory::measure(&options)?,
        other => return Err(format!("nothing is known of '{other}'").into()),
    };
    println!("{result}");
    Ok(())
}
