//! What preparing costs, for `make bench-prepare`: times and memory of `prepare` and its parts.
//!
//! `bench_prepare MODEL.gguf [ROUNDS]` prints JSON: medians in milliseconds, memory in bytes. `bench_prepare --large q4_k
//! FILE.gguf` (or `f16`) writes the file of a 40 GB model that takes next to no disk.

#[path = "../tests/support/large.rs"]
mod large;

use llamapen::model::{hash_file, read_header};
use llamapen::{EngineConfig, MachineSnapshot, preflight, prepare, prepare_on};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// Hashing all of a larger file would be measuring the disk.
const LARGEST_HASHED: u64 = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--large", "q4_k", file] => println!("{}", large::write(file.as_ref(), large::Weights::Q4K)?),
        ["--large", "f16", file] => println!("{}", large::write(file.as_ref(), large::Weights::F16)?),
        [model] => measure(model, 50)?,
        [model, rounds] => measure(model, rounds.parse()?)?,
        _ => return Err("usage: bench_prepare MODEL.gguf [ROUNDS]".into()),
    }
    Ok(())
}

fn measure(model: &str, rounds: usize) -> Result<(), Box<dyn Error>> {
    let config = EngineConfig::new(model);
    let machine = MachineSnapshot::new(8, 64 << 30);
    // First, while nothing of it is in this process's heap.
    let before = resident("VmRSS:")?;
    prepare_on(&config, &machine)?;
    let growth = resident("VmHWM:")?.saturating_sub(before);

    let here = median(rounds, || prepare(&config));
    let on_snapshot = median(rounds, || prepare_on(&config, &machine))?;
    let observe = median(rounds, || Ok::<_, llamapen::Error>(MachineSnapshot::observe()))?;
    let report = median(rounds, || Ok::<_, llamapen::Error>(preflight(&config)))?;
    let header = median(rounds, || read_header(Path::new(model)))?;
    let bytes = Path::new(model).metadata()?.len();
    let hash = match bytes <= LARGEST_HASHED {
        true => Some(median(rounds.div_ceil(10), || hash_file(Path::new(model), &mut |_| ControlFlow::Continue(())))?),
        false => None,
    };
    let json = serde_json::json!({
        "bytes": bytes,
        "header_bytes": read_header(Path::new(model))?.data_offset(),
        "growth_bytes": growth,
        // On a machine that it does not fit, there is no time but a reason.
        "prepare_ms": here.as_ref().ok(),
        "refused": here.as_ref().err().map(ToString::to_string),
        "prepare_on_ms": on_snapshot,
        "observe_ms": observe,
        "preflight_ms": report,
        "header_ms": header,
        "hash_gb_per_s": hash.map(|ms| bytes as f64 / 1e6 / ms),
    });
    println!("{json}");
    Ok(())
}

/// Milliseconds of one call in the middle of `rounds`, after some that are not counted.
fn median<T, E>(rounds: usize, mut call: impl FnMut() -> Result<T, E>) -> Result<f64, E> {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + 3 {
        let start = Instant::now();
        let made = call()?;
        if round >= 3 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        drop(made);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Bytes of memory: `VmRSS:` now, `VmHWM:` at most so far.
fn resident(key: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB"));
    Ok(value.ok_or("/proc/self/status has no memory in it")?.parse::<u64>()? * 1024)
}
