//! Deterministic mode, with every seed of 64: byte for byte the same again, after a worker's restart, through restarts in
//! the middle of an answer, and in a new supervisor. Needs the `fault-injection` feature, for the restart.
#![cfg(feature = "fault-injection")]

mod support;

use llamapen::{Event, Fault, Request, Status, Supervisor, SupervisorConfig};
use std::time::Duration;

const SEEDS: u64 = 64;
const TOKENS: u32 = 8;

/// Everything that came: token, text, and the bits of the likeliest logarithms of probabilities.
type Answer = Vec<(i32, String, Vec<u64>)>;

/// `faulty`: the worker dies in the middle of every eighth answer, which goes on in the next one.
fn answers(supervisor: &Supervisor, faulty: bool) -> Vec<Answer> {
    let request = |seed: u64| {
        let prompt = Request::prompt("Once upon a time there was a llama that");
        let request = prompt.with_temperature(1.5).with_top_k(0).with_seed(seed).with_max_tokens(TOKENS);
        let request = request.with_ignore_eos(true).with_logprobs(3);
        match faulty && seed.is_multiple_of(8) {
            true => request.with_fault(Fault::Panic).with_fault_after(TOKENS / 2 + (seed / 8) as u32 % 3),
            false => request,
        }
    };
    // All wait at once: one slot takes them in turn.
    let streams: Vec<_> = (0..SEEDS).map(|seed| supervisor.submit(request(seed)).unwrap()).collect();
    let read = |stream| {
        let mut answer = Answer::new();
        for event in stream {
            match event {
                Event::Token(token) => {
                    let logprobs = token.logprobs.unwrap();
                    let top = logprobs.top.iter().map(|other| other.logprob.to_bits());
                    let bits = std::iter::once(logprobs.logprob.to_bits()).chain(top).collect();
                    answer.push((token.token, token.text, bits));
                }
                Event::Failed(failed) => panic!("{}", failed.message),
                _ => {}
            }
        }
        assert_eq!(answer.len(), TOKENS as usize);
        answer
    };
    streams.into_iter().map(read).collect()
}

#[test]
fn sixty_four_seeds_over_restarts() {
    let threads = std::thread::available_parallelism().unwrap().get().min(2) as u32;
    let config = support::config().with_deterministic(true).with_threads(threads);
    let often = SupervisorConfig::default()
        .with_restarts(100, Duration::from_secs(60))
        .with_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .with_breaker_failures(100);
    let supervisor = support::start_with(&config, often);
    let first = answers(&supervisor, false);
    let mut different = first.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), SEEDS as usize, "each seed tells another story");
    assert!(answers(&supervisor, false) == first, "the same worker, again");

    let fault = Request::prompt("a").with_ignore_eos(true).with_max_resumes(0).with_fault(Fault::Panic);
    assert_eq!(support::read(supervisor.submit(fault).unwrap()).unwrap_err().status, Status::WorkerReset);
    assert!(answers(&supervisor, false) == first, "after the worker's restart");
    assert_eq!(supervisor.health().unwrap().workers[0].restarts, 1);
    assert!(answers(&supervisor, true) == first, "through restarts, in the middle of answers");
    assert_eq!(supervisor.health().unwrap().workers[0].restarts, 1 + SEEDS as u32 / 8);

    drop(supervisor);
    assert!(answers(&support::start(&config), false) == first, "in a new supervisor");
}
