//! Deterministic mode, with every seed of 64: byte for byte the same again, after a worker's restart, and in a new
//! supervisor. Needs the `fault-injection` feature, for the restart.
#![cfg(feature = "fault-injection")]

mod support;

use llamapen::{Event, Fault, Request, Status, Supervisor};

const SEEDS: u64 = 64;
const TOKENS: u32 = 8;

/// Everything that came: token, text, and the bits of the likeliest logarithms of probabilities.
type Answer = Vec<(i32, String, Vec<u64>)>;

fn answers(supervisor: &Supervisor) -> Vec<Answer> {
    let request = |seed: u64| {
        let prompt = Request::prompt("Once upon a time there was a llama that");
        let request = prompt.with_temperature(1.5).with_top_k(0).with_seed(seed).with_max_tokens(TOKENS);
        request.with_ignore_eos(true).with_logprobs(3)
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
    let supervisor = support::start(&config);
    let first = answers(&supervisor);
    let mut different = first.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), SEEDS as usize, "each seed tells another story");
    assert!(answers(&supervisor) == first, "the same worker, again");

    let fault = Request::prompt("a").with_ignore_eos(true).with_max_resumes(0).with_fault(Fault::Panic);
    assert_eq!(support::read(supervisor.submit(fault).unwrap()).unwrap_err().status, Status::WorkerReset);
    assert!(answers(&supervisor) == first, "after the worker's restart");
    assert_eq!(supervisor.health().unwrap().workers[0].restarts, 1);

    drop(supervisor);
    assert!(answers(&support::start(&config)) == first, "in a new supervisor");
}
