//! What this reader accepts, llama.cpp must not abort on.
//!
//! Files are broken in tens of thousands of ways, and each that [`ModelInfo::from_gguf`] accepts is handed to the real
//! loader, in a child process with little memory that may die of it: then the test names the file. A load error is
//! fine. Where a model loads, a worker's first steps follow: tokenizing, a context, one decode.

mod child;
mod corpus;
mod mutate;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::{Gguf, ModelInfo, seeds};
use child::{Child, Death, Outcome};

/// Accepted files to try where the environment names no number: a share that takes well under a minute.
const MUTANTS: u64 = 5_000;

fn accepted(bytes: &[u8]) -> bool {
    Gguf::read(Cursor::new(bytes)).and_then(|gguf| ModelInfo::from_gguf(&gguf)).is_ok()
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => default,
    }
}

#[test]
fn every_seed_runs() {
    let mut child = Child::start();
    for (name, builder) in seeds::all() {
        let bytes = builder.build();
        let info = builder.read().and_then(|gguf| ModelInfo::from_gguf(&gguf));
        assert!(info.is_ok(), "{name}: {}", info.unwrap_err());
        if let Ok(folder) = std::env::var("LLAMAPEN_SEEDS") {
            std::fs::write(format!("{folder}/{name}.gguf"), &bytes).unwrap();
        }
        let outcome = child.run(&bytes).unwrap_or_else(|death| panic!("{name}: {death}"));
        let expected = if matches!(name, "bert" | "modern-bert" | "t5") { Outcome::Context } else { Outcome::Decoded };
        assert_eq!(outcome, expected, "{name}");
    }
}

#[derive(Default)]
struct Tally {
    tried: AtomicU64,
    accepted: AtomicU64,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    deaths: Mutex<Vec<(u64, Death, PathBuf)>>,
}

/// `LLAMAPEN_MUTANTS` is how many accepted files to try, `LLAMAPEN_MUTANTS_FROM` the number of the first one.
#[test]
fn accepted_mutants_do_not_end_the_loader() {
    let started = Instant::now();
    let wanted = number("LLAMAPEN_MUTANTS", MUTANTS);
    let next = AtomicU64::new(number("LLAMAPEN_MUTANTS_FROM", 0));
    let seeds = seeds::all();
    let known: HashSet<u64> = seeds.iter().map(|(_, builder)| hash(&builder.build())).collect();
    let (known, tally) = (Mutex::new(known), Tally::default());
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                let mut child = Child::start();
                while tally.accepted.load(Relaxed) < wanted {
                    let index = next.fetch_add(1, Relaxed);
                    let bytes = mutate::mutant(&seeds, index);
                    tally.tried.fetch_add(1, Relaxed);
                    if !accepted(&bytes) || !known.lock().unwrap().insert(hash(&bytes)) {
                        continue;
                    }
                    tally.accepted.fetch_add(1, Relaxed);
                    match child.run(&bytes) {
                        Ok(outcome) => _ = tally.outcomes[outcome as usize].fetch_add(1, Relaxed),
                        Err(death) => {
                            let kept = keep(index, &bytes);
                            tally.deaths.lock().unwrap().push((index, death, kept));
                        }
                    }
                }
            });
        }
    });
    let deaths = tally.deaths.into_inner().unwrap();
    let (tried, accepted) = (tally.tried.into_inner(), tally.accepted.into_inner());
    let mut report = format!("{accepted} distinct accepted mutants of {tried} tried, {} seeds:", seeds.len());
    for (outcome, count) in Outcome::ALL.iter().zip(tally.outcomes) {
        write!(report, " {} {outcome},", count.into_inner()).unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    write!(report, " {} deaths; {seconds:.0} s, {:.2} ms each", deaths.len(), seconds * 1e3 / accepted as f64).unwrap();
    println!("{report}");
    for (index, death, kept) in &deaths {
        println!("mutant {index}, kept as {}: {death}", kept.display());
    }
    assert!(deaths.is_empty(), "{report}");
    // Mutations that nothing accepts would show nothing.
    assert!(accepted * 10 > tried, "{report}");
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Keeps a file that ended the loader, for whoever looks into it.
fn keep(index: u64, bytes: &[u8]) -> PathBuf {
    let folder = std::env::temp_dir().join("llamapen-deaths");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{index}.gguf"));
    std::fs::write(&path, bytes).unwrap();
    path
}
