//! Whatever comes, in any order, for a while: every stream ends once, and nothing is left behind, neither on the heap nor
//! in the KV cache. One test, in a process of its own: what others allocate would be counted too.

#[path = "support/heap.rs"]
mod heap;
mod support;

use heap::Live;
use llamapen::{EngineConfig, Event, Request, Status, Supervisor, SupervisorConfig, TokenStream, WorkerHealth};
use std::time::{Duration, Instant};
use support::{greedy, words};

/// Requests of a round.
const REQUESTS: usize = 30;
/// Rounds until everything has the size that it needs: queues, slots, the store, caches of the C library.
const WARM_UP: usize = 2;
/// Measured rounds, at least.
const ROUNDS: usize = 6;
/// What the later rounds may have more than the earlier ones: less than one small block for every 20 requests in between.
const MORE: Live = Live { bytes: 2048, blocks: 4 };
const STORE: u64 = 8 << 20;

fn worker(supervisor: &Supervisor) -> WorkerHealth {
    supervisor.health().unwrap().workers[0].clone()
}

/// What was seen of the streams.
#[derive(Debug, Default)]
struct Seen {
    ended: usize,
    late: usize,
    finished: usize,
}

impl Seen {
    fn end(&mut self, stream: TokenStream, before: usize) {
        let ends: Vec<_> = stream.filter(Event::is_terminal).collect();
        assert_eq!(before + ends.len(), 1, "terminal events of a stream");
        self.ended += 1;
        match ends.first() {
            Some(Event::Finished(_)) => self.finished += 1,
            Some(Event::Failed(f)) if [Status::DeadlineUnmet, Status::DecodeTimeout].contains(&f.status) => {
                self.late += 1
            }
            _ => {}
        }
    }
}

/// Everything that a request can have and that allocates.
fn rich(mut request: Request, random: &mut fastrand::Rng) -> Request {
    request =
        request.with_temperature(1.0).with_logprobs(3).with_echo(true).with_stop(["never to be seen", "\u{1f999}"]);
    request = request.with_logit_bias([(5, 1.0)]).with_stop_tokens([7]);
    (request.dry_multiplier, request.repeat_penalty, request.xtc_probability) = (0.8, 1.1, 0.5);
    request.mirostat = random.u32(0..2);
    request
}

/// Submits, cancels, drops, sets deadlines, sends what is too long or wrong, in a random order that the seed decides.
fn round(supervisor: &Supervisor, seen: &mut Seen, goes_on: impl Fn(usize) -> bool) {
    let mut random = fastrand::Rng::with_seed(4);
    let n_vocab = supervisor.engine().info().n_vocab as i32;
    let words = |seed, n| words(seed, n).into_iter().map(|token| token % n_vocab).collect::<Vec<_>>();
    let mut streams = Vec::new();
    for _ in (0..).take_while(|n| goes_on(*n)) {
        // Beginnings are shared more often than not.
        let length = random.usize(1..80);
        let prompt = [words(random.i32(0..3), length), words(random.i32(3..1000), random.usize(0..40))].concat();
        let request = greedy(prompt).with_max_tokens(random.u32(1..30));
        let kind = random.u8(0..12);
        let submitted = match kind {
            0 => supervisor.submit(greedy(words(0, 600))),
            1 => supervisor.submit(request.with_temperature(-1.0)),
            2 => supervisor.submit(request.with_max_tokens(512)),
            6 => supervisor.submit(request.with_max_tokens(100).with_timeout_ms(random.u64(1..50))),
            7 => supervisor.submit(rich(request, &mut random)),
            8 => supervisor.submit(Request::prompt("Hello, \u{1f999}.").with_max_tokens(8)),
            _ => supervisor.submit(request),
        };
        let status = match submitted {
            Ok(mut stream) => {
                match kind {
                    3 => drop(stream),
                    4 => {
                        stream.cancel().unwrap();
                        streams.push((stream, 0));
                    }
                    5 => {
                        let ends = stream.by_ref().take(random.usize(1..4)).filter(Event::is_terminal).count();
                        stream.cancel().unwrap();
                        streams.push((stream, ends));
                    }
                    _ => streams.push((stream, 0)),
                }
                None
            }
            Err(error) => Some(error.status()),
        };
        let expected = match kind {
            0 | 2 => matches!(status, Some(Status::ContextOverflow)),
            1 => matches!(status, Some(Status::InvalidParams)),
            _ => matches!(status, None | Some(Status::QueueFull)),
        };
        assert!(expected, "kind {kind}: {status:?}");
        if streams.len() > 8 || status == Some(Status::QueueFull) && !streams.is_empty() {
            let (stream, before) = streams.swap_remove(random.usize(..streams.len()));
            seen.end(stream, before);
        }
    }
    streams.into_iter().for_each(|(stream, before)| seen.end(stream, before));
}

/// What is on the heap when nothing is to be done, less what the prefix cache is meant to hold here: saved states, and for each
/// position in the slots a node in two sets of llama.cpp's (`llama_kv_cells`). Processes hold theirs themselves.
fn at_rest(supervisor: &Supervisor) -> Live {
    support::eventually("all slots are free", || {
        worker(supervisor).active == 0 && supervisor.health().unwrap().queue_depth == 0
    });
    // A worker says that a slot is free before it frees what the request had, and a deadline is forgotten when it passes.
    let (mut last, mut since) = (heap::live(), Instant::now());
    support::eventually("the heap is at rest", || {
        let now = heap::live();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(300)
    });
    if support::in_processes() {
        return last;
    }
    let (health, node) = (worker(supervisor), 40);
    let (nodes, stored) = (2 * health.kv_used as i64, health.prefix_store_used as i64);
    Live { bytes: last.bytes - stored - nodes * node, blocks: last.blocks - nodes }
}

/// How far the least of the later rounds is above the least of the earlier ones: what leaks adds up, all else does not.
fn growth(rounds: &[Live]) -> Live {
    let least = |rounds: &[Live]| {
        let least = |of: fn(&Live) -> i64| rounds.iter().map(of).min().unwrap();
        (least(|live| live.bytes), least(|live| live.blocks))
    };
    let (earlier, later) = rounds.split_at(rounds.len() / 2);
    let (earlier, later) = (least(earlier), least(later));
    Live { bytes: later.0 - earlier.0, blocks: later.1 - earlier.1 }
}

/// Rounds of the same requests, over and over. Returns what the supervisor leaves behind.
fn nothing_is_left(config: &EngineConfig, until: Instant) -> Live {
    let before = heap::live();
    let supervisor = start(config);
    let (loaded, health) = (heap::live(), worker(&supervisor));
    let counted = loaded.bytes - before.bytes >= health.memory_bytes as i64;
    assert_ne!(counted, support::in_processes(), "llama.cpp's buffers are counted where they are here");
    let (mut seen, mut rounds) = (Seen::default(), Vec::with_capacity(10_000));
    while rounds.len() < WARM_UP + ROUNDS || Instant::now() < until {
        round(&supervisor, &mut seen, |n| n < REQUESTS);
        rounds.push(at_rest(&supervisor));
        kv_is_accounted_for(config, &supervisor);
    }
    let growth = growth(&rounds[WARM_UP..]);
    let series: Vec<_> = rounds.iter().map(|live| (live.bytes, live.blocks)).collect();
    println!("{seen:?}; live bytes and blocks after each of {} rounds: {series:?}", rounds.len());
    assert!(growth.bytes <= MORE.bytes && growth.blocks <= MORE.blocks, "a leak: {growth:?} in {series:?}");
    assert!(seen.late > 0 && seen.finished > REQUESTS, "{seen:?}");
    drop(supervisor);
    heap::live()
}

fn start(config: &EngineConfig) -> Supervisor {
    support::start_with(config, SupervisorConfig::default().with_queue_capacity(8))
}

fn kv_is_accounted_for(config: &EngineConfig, supervisor: &Supervisor) {
    let health = worker(supervisor);
    assert_eq!(health.restarts, 0);
    match config.prefix_cache {
        true => assert!(health.kv_used <= health.kv_total && health.prefix_store_used <= STORE, "{health:?}"),
        false => assert_eq!((health.kv_used, health.prefix_store_used), (0, 0)),
    }
}

#[test]
fn whatever_comes_every_stream_ends_once_and_nothing_is_left() {
    let seconds = std::env::var("LLAMAPEN_SOAK_SECONDS").map_or(20, |s| s.parse().unwrap());
    let (start_of_all, third) = (Instant::now(), Duration::from_secs(seconds) / 3);
    let real = support::config().with_slots(4).with_n_ctx(512).with_prefix_store_bytes(STORE);
    // Small, so that many requests go through; what it says means nothing.
    let cached = real.clone().with_model(support::synthetic().join("llama.gguf"));
    let plain = cached.clone().with_prefix_store_bytes(0).with_prefix_cache(false);
    let after_one = nothing_is_left(&plain, start_of_all + third);
    let after_two = nothing_is_left(&cached, start_of_all + 2 * third);
    // Not a leak of each request, but of each supervisor.
    let (bytes, blocks) = (after_two.bytes - after_one.bytes, after_two.blocks - after_one.blocks);
    println!("left by the second supervisor: {bytes} bytes, {blocks} blocks");
    assert!(bytes <= MORE.bytes && blocks <= MORE.blocks, "{bytes} bytes, {blocks} blocks");

    // A real model decodes so slowly that most of what comes, comes in the middle of something.
    let (supervisor, mut seen) = (start(&real), Seen::default());
    let end = Instant::now() + third;
    round(&supervisor, &mut seen, |_| Instant::now() < end);
    at_rest(&supervisor);
    kv_is_accounted_for(&real, &supervisor);
    assert!(seen.ended > 10 && seen.late > 0, "{seen:?}");
    println!("{seen:?} of a real model");
}
