//! Many requests in one worker: what they share (batches, prefixes, a context) and what they do not (results, ends).

mod support;

use llamapen::{EngineConfig, Event, Request, Status, Supervisor, SupervisorConfig, WorkerHealth, prepare};
use std::time::Duration;
use support::{Answer, greedy, read, words};

/// Pieces of one size whatever the machine does meanwhile.
fn patient() -> SupervisorConfig {
    SupervisorConfig::default().with_max_stall(Duration::from_secs(60))
}

fn run(supervisor: &Supervisor, request: Request) -> Answer {
    read(supervisor.submit(request).unwrap()).unwrap()
}

fn worker(supervisor: &Supervisor) -> WorkerHealth {
    supervisor.health().unwrap().workers[0].clone()
}

#[test]
fn thirty_two_at_once_answer_as_each_does_alone() {
    let config = support::config().with_slots(32).with_n_ctx(96).with_n_ubatch(32).with_prefix_cache(false);
    let supervisor = support::start_with(&config, patient());
    assert_eq!(worker(&supervisor).prefill_piece, 32);
    // Shorter and longer than a piece, so that they join and leave at different times.
    let requests: Vec<_> =
        (0..32).map(|i| greedy(words(i, 3 + 2 * i as usize)).with_max_tokens(12 + i as u32 % 8)).collect();
    let alone: Vec<_> = requests.iter().map(|request| run(&supervisor, request.clone())).collect();
    let streams: Vec<_> = requests.iter().map(|request| supervisor.submit(request.clone()).unwrap()).collect();
    for (stream, alone) in streams.into_iter().zip(&alone) {
        assert_eq!(&read(stream).unwrap(), alone);
    }
    support::eventually("nothing is kept", || worker(&supervisor).kv_used == 0);
}

/// Long enough that other batch shapes would give other bits: from 64 queries on, and with several threads from 512 keys
/// on, flash attention goes other ways.
#[test]
fn neighbours_change_no_bit_of_a_long_prompt() {
    for (threads, n) in [(1, 200), (2, 520)] {
        let config = support::config().with_threads(threads).with_slots(4).with_n_ubatch(128).with_prefix_cache(false);
        let supervisor = support::start_with(&config, patient());
        let request = greedy(words(0, n)).with_max_tokens(12).with_logits(true);
        let (alone, _) = logits(&supervisor, &request);
        // Two generate all the time, a third has its prompt processed in turns with this one.
        let mut others: Vec<_> = (1..3).map(|i| supervisor.submit(greedy(words(i, 9))).unwrap()).collect();
        for other in &mut others {
            while !matches!(other.next(), Some(Event::Token(_))) {}
        }
        others.push(supervisor.submit(greedy(words(3, 200))).unwrap());
        let (beside, _) = logits(&supervisor, &request);
        assert_eq!(beside.len(), 12);
        support::eventually("only the others still run", || worker(&supervisor).active == 3);
        assert!(alone == beside, "neighbours changed the bits of {n} tokens with {threads} threads");
    }
}

#[test]
fn pieces_are_measured_and_bounded() {
    let config = support::config().with_slots(2).with_n_ubatch(256);
    let hasty = support::start_with(&config, SupervisorConfig::default().with_max_stall(Duration::from_millis(10)));
    let (piece, largest) = (worker(&hasty).prefill_piece, 256);
    assert!(piece.is_power_of_two() && (4..largest).contains(&piece), "{piece} tokens in 10 ms");
    assert_eq!(run(&hasty, greedy(words(0, 300)).with_max_tokens(4)).tokens.len(), 4);
    // Where nobody can wait, nothing is measured.
    let lonely = SupervisorConfig::default().with_max_stall(Duration::from_millis(10));
    assert_eq!(worker(&support::start_with(&support::config(), lonely)).prefill_piece, 256);
}

#[test]
fn a_second_request_decodes_only_what_is_new() {
    let supervisor = support::start(&support::config().with_n_ctx(2048).with_prefix_store_bytes(0));
    let (first, second) = ([words(1, 1500), words(2, 20)].concat(), [words(1, 1500), words(3, 20)].concat());
    let cold = run(&supervisor, greedy(first.clone()).with_max_tokens(4));
    assert_eq!(cold.cached_tokens, 0);
    assert_eq!(run(&supervisor, greedy(second).with_max_tokens(4)).cached_tokens, 1500);
    // The same again: all but the last token, whose logits are needed.
    let again = run(&supervisor, greedy(first.clone()).with_max_tokens(4));
    let all = run(&supervisor, greedy(first).with_max_tokens(4));
    assert_eq!((again.cached_tokens, all.cached_tokens), (1500, 1519));
    // The last token that was given was never decoded.
    support::eventually("the positions are counted", || worker(&supervisor).kv_used == 1520 + 3);
    assert_eq!(worker(&supervisor).kv_total, 2048);
    // Another beginning, and the cache switched off.
    assert_eq!(run(&supervisor, greedy(words(9, 50)).with_max_tokens(1)).cached_tokens, 0);
    let off = support::start(&support::config().with_prefix_cache(false));
    assert_eq!([0, 1].map(|_| run(&off, greedy(words(1, 100)).with_max_tokens(1)).cached_tokens), [0, 0]);
}

#[test]
fn a_prefix_is_copied_from_a_busy_slot_bit_by_bit() {
    let supervisor = support::start_with(&support::config().with_slots(2), patient());
    let shared = words(1, 300);
    let mut busy = supervisor.submit(greedy([shared.clone(), words(2, 9)].concat())).unwrap();
    while !matches!(busy.next(), Some(Event::Token(_))) {}
    let next = greedy([shared.clone(), words(3, 60)].concat()).with_logits(true).with_max_tokens(24);
    let (logits, cached) = logits(&supervisor, &next);
    assert_eq!(cached, 300);
    busy.cancel().unwrap();
    // The same computed in one slot: the shared part, then the rest.
    let plain = support::start_with(&support::config().with_slots(2), patient());
    run(&plain, greedy([shared, words(2, 9)].concat()).with_max_tokens(1));
    let (expected, cached) = self::logits(&plain, &next);
    assert_eq!(cached, 300);
    assert!(logits == expected, "a copy differs from what it was copied from");
}

/// All logits of a request, and how many of its tokens were cached.
fn logits(supervisor: &Supervisor, request: &Request) -> (Vec<Vec<f32>>, u32) {
    let (mut logits, mut cached) = (vec![], 0);
    for event in supervisor.submit(request.clone()).unwrap() {
        match event {
            Event::Started(started) => cached = started.cached_tokens,
            Event::Token(token) => logits.push(token.logits.unwrap()),
            Event::Failed(failed) => panic!("{}", failed.message),
            _ => {}
        }
    }
    (logits, cached)
}

/// A request is moved beside those that run; what it and the other slot hold goes along, bit by bit.
#[test]
fn slots_are_exchanged_with_what_they_hold() {
    let supervisor = support::start_with(&support::config().with_slots(4), patient());
    let alone = support::start_with(&support::config(), patient());
    let ask = |i: i32, more: i32| greedy([words(i, 100), words(more, 9)].concat()).with_max_tokens(6).with_logits(true);
    for i in 0..4 {
        run(&supervisor, greedy(words(i, 100)).with_max_tokens(1));
    }
    // The first slot runs. The others' texts go on in the slot after it, wherever they are.
    let mut running = supervisor.submit(greedy(words(9, 30))).unwrap();
    while !matches!(running.next(), Some(Event::Token(_))) {}
    for (i, more) in [(3, 20), (1, 21), (3, 22), (2, 23)] {
        run(&alone, greedy(words(7, 50)).with_max_tokens(1));
        run(&alone, greedy(words(i, 100)).with_max_tokens(1));
        let expected = logits(&alone, &ask(i, more));
        assert_eq!(expected.1, 100);
        assert!(logits(&supervisor, &ask(i, more)) == expected, "text {i} has other bits");
    }
    running.cancel().unwrap();
}

#[test]
fn a_prefix_that_lost_its_slot_comes_back_from_the_store() {
    let config = support::config().with_prefix_store_bytes(64 << 20);
    let supervisor = support::start(&config);
    let first = || greedy(words(1, 300)).with_max_tokens(8).with_logits(true);
    let (cold, _) = logits(&supervisor, &first());
    let (warm, cached) = logits(&supervisor, &first());
    assert_eq!(cached, 299);
    assert_eq!(run(&supervisor, greedy(words(2, 300)).with_max_tokens(1)).cached_tokens, 0);
    support::eventually("it is stored", || worker(&supervisor).prefix_store_used > 0);
    let used = worker(&supervisor).prefix_store_used;
    assert!(used > 1 << 20 && used <= 64 << 20, "{used}");
    let (restored, cached) = logits(&supervisor, &first());
    assert_eq!((cached, cold.len()), (299, 8));
    assert!(restored == warm, "a restored state differs from the one that was saved");
    // It is part of the memory plan, and means nothing without the cache.
    let overhead = |config: &EngineConfig| prepare(config).unwrap().memory().host().overhead;
    assert_eq!(overhead(&config), overhead(&support::config()) + (64 << 20));
    let useless = prepare(&config.clone().with_prefix_cache(false)).unwrap_err();
    assert_eq!(useless.status(), Status::InvalidParams, "{useless}");
    // A budget that no state fits in saves nothing.
    let small = support::start(&config.with_prefix_store_bytes(1 << 10));
    let cached = [1, 2, 1].map(|seed| run(&small, greedy(words(seed, 300)).with_max_tokens(1)).cached_tokens);
    assert_eq!((cached, worker(&small).prefix_store_used), ([0; 3], 0));
}

#[test]
fn deterministic_mode_reuses_only_what_has_the_same_bits() {
    let config = support::config().with_deterministic(true).with_n_ubatch(48).with_prefix_store_bytes(64 << 20);
    let supervisor = support::start(&config);
    let request = greedy(words(1, 400)).with_max_tokens(48).with_logits(true);
    let (cold, cached) = logits(&supervisor, &request);
    assert_eq!(cached, 0);
    let (warm, cached) = logits(&supervisor, &request);
    assert_eq!(cached, 384, "eight whole pieces of 48");
    assert!(cold == warm, "reuse changed the bits");
    // What was generated was decoded one by one: of a conversation that goes on, only the prompt's pieces are used.
    let tokens: Vec<i32> = run(&supervisor, greedy(words(1, 400)).with_max_tokens(100)).tokens;
    let longer = [words(1, 400), tokens, words(3, 9)].concat();
    assert_eq!(run(&supervisor, greedy(longer).with_max_tokens(1)).cached_tokens, 384);
    run(&supervisor, greedy(words(2, 200)).with_max_tokens(1));
    let (restored, cached) = logits(&supervisor, &request);
    assert_eq!(cached, 384);
    assert!(cold == restored, "the store changed the bits");
}

/// Models whose memory cannot forget a tail. Their weights are zeros: what they say means nothing.
#[test]
fn states_are_continued_whole_or_not_at_all() {
    for (name, cuttable) in [("gemma3", true), ("mamba2", false), ("jamba", false), ("granitehybrid", false)] {
        let config = EngineConfig::new(support::synthetic().join(format!("{name}.gguf"))).with_threads(1);
        let config = config.with_n_ctx(512).with_slots(2).with_prefix_store_bytes(256 << 20);
        let supervisor = support::start_with(&config, patient());
        let tokens = |n: i32| (0..n).map(|i| 3 + i % 7).collect::<Vec<_>>();
        let first = run(&supervisor, greedy(tokens(100)).with_max_tokens(4));
        assert_eq!(first.cached_tokens, 0, "{name}");
        // All that is held, the generated tokens but the last one included.
        let whole = [tokens(100), first.tokens[..3].to_vec(), vec![4, 5]].concat();
        let continued = run(&supervisor, greedy(whole).with_max_tokens(4));
        assert_eq!(continued.cached_tokens, 103, "{name}");
        let part = run(&supervisor, greedy(tokens(60)).with_max_tokens(4));
        assert_eq!(part.cached_tokens, if cuttable { 59 } else { 0 }, "{name}");
        // Every slot is taken over several times; a long prompt is cancelled in the middle.
        for seed in 0..6 {
            let other: Vec<i32> = (0..80).map(|i| 3 + (i * seed) % 11).collect();
            assert_eq!(run(&supervisor, greedy(other).with_max_tokens(4)).tokens.len(), 4, "{name}");
        }
        let mut cancelled = supervisor.submit(greedy(tokens(400))).unwrap();
        cancelled.next();
        cancelled.cancel().unwrap();
        assert_eq!(run(&supervisor, greedy(tokens(100)).with_max_tokens(4)).tokens, first.tokens, "{name}");
    }
}

/// Behind its window of 512 such a model has forgotten what a cut would need.
#[test]
fn a_window_that_moved_on_is_not_cut() {
    let tokens = |n: i32| (0..n).map(|i| 3 + i % 7).collect::<Vec<_>>();
    for (full, expected) in [(false, 0), (true, 399)] {
        let config = EngineConfig::new(support::synthetic().join("gemma3.gguf")).with_threads(1).with_n_ubatch(32);
        let supervisor = support::start(&config.with_n_ctx(1024).with_swa_full(full));
        run(&supervisor, greedy(tokens(1000)).with_max_tokens(1));
        assert_eq!(run(&supervisor, greedy(tokens(400)).with_max_tokens(1)).cached_tokens, expected, "full: {full}");
        run(&supervisor, greedy(tokens(1000)).with_max_tokens(1));
        let longer = run(&supervisor, greedy([tokens(1000), vec![3, 4]].concat()).with_max_tokens(1));
        assert_eq!(longer.cached_tokens, 1000, "nothing has to be cut");
    }
}

#[test]
fn a_cancel_ends_a_prompt_inside_its_decode() {
    // One piece of 1,900 tokens takes seconds. If it were not ended inside, its tokens would be in the cache.
    let config = support::config().with_n_ctx(2048).with_n_ubatch(2000);
    let supervisor = support::start_with(&config, patient());
    assert_eq!(worker(&supervisor).prefill_piece, 2000);
    let mut stream = supervisor.submit(greedy(words(1, 1900))).unwrap();
    assert!(matches!(stream.next(), Some(Event::Started(_))));
    std::thread::sleep(Duration::from_millis(20));
    stream.cancel().unwrap();
    assert_eq!(run(&supervisor, greedy(words(1, 100)).with_max_tokens(1)).cached_tokens, 0, "the piece was completed");
    // The context is as good as new.
    let after = run(&supervisor, greedy(words(2, 100)).with_max_tokens(16));
    let fresh = run(&support::start_with(&config, patient()), greedy(words(2, 100)).with_max_tokens(16));
    assert_eq!(after, fresh);
    assert_eq!(supervisor.health().unwrap().workers[0].restarts, 0);
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_request_that_cannot_be_decoded_fails_alone() {
    use llamapen::Fault;
    let supervisor = support::start_with(&support::config().with_slots(4), patient());
    let requests: Vec<_> = (0..3).map(|i| greedy(words(i, 40)).with_max_tokens(60)).collect();
    let alone: Vec<_> = requests.iter().map(|request| run(&supervisor, request.clone()).tokens).collect();
    let streams: Vec<_> = requests.into_iter().map(|request| supervisor.submit(request).unwrap()).collect();
    let faulty = supervisor.submit(greedy(words(9, 5)).with_fault(Fault::BadToken)).unwrap();
    let failed = read(faulty).unwrap_err();
    assert_eq!(failed.status, Status::DecodeFailed, "{failed:?}");
    assert!(!failed.retriable && failed.message.contains("others go on"), "{failed:?}");
    for (stream, alone) in streams.into_iter().zip(alone) {
        assert_eq!(read(stream).unwrap().tokens, alone);
    }
    assert_eq!(worker(&supervisor).restarts, 0);
    // Its slot serves again, and the prompt that was decoded before the fault is good.
    let again = run(&supervisor, greedy(words(9, 5)).with_max_tokens(4));
    assert_eq!((again.cached_tokens, again.tokens.len()), (4, 4));
}

/// A full KV cache, and a graph that failed: nobody is to blame, so all are taken back to where they were and decoded again.
#[cfg(feature = "fault-injection")]
#[test]
fn a_batch_that_fails_is_done_again_without_a_trace() {
    use llamapen::Fault;
    let config = support::config().with_slots(3).with_n_ctx(256).with_n_ubatch(512).with_prefix_cache(false);
    for config in [config.clone(), config.with_draft_max(7)] {
        let supervisor = support::start_with(&config, patient());
        let requests: Vec<_> = (0..3).map(|i| greedy(words(i, 40)).with_max_tokens(40)).collect();
        let alone: Vec<_> = requests.iter().map(|request| run(&supervisor, request.clone()).tokens).collect();
        let mut failures = 0;
        for fault in [Fault::FullCache, Fault::FailedDecode] {
            let others: Vec<_> = requests[1..].iter().map(|r| supervisor.submit(r.clone()).unwrap()).collect();
            assert_eq!(run(&supervisor, requests[0].clone().with_fault(fault)).tokens, alone[0], "{fault:?}");
            for (stream, alone) in others.into_iter().zip(&alone[1..]) {
                assert_eq!(&read(stream).unwrap().tokens, alone, "{fault:?}");
            }
            failures += 1;
            assert_eq!(supervisor.metrics().unwrap().workers[0].decode_failures_total, failures, "{fault:?}");
            assert_eq!(worker(&supervisor).restarts, 0, "{fault:?}");
        }
    }
}
