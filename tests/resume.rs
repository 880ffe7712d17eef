//! A stream outlives its worker: it goes on in the next one with the tokens that it would have had. Needs the
//! `fault-injection` feature.
#![cfg(feature = "fault-injection")]

mod support;

use futures_core::Stream;
use llamapen::{EngineConfig, Event, Fault, Next, Request, State, Status, Supervisor, SupervisorConfig, TokenStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake};
use std::time::Duration;
use support::{Answer, greedy, read, words};

/// Workers are restarted at once, and as often as it takes. Prompts are decoded whole: how they are cut depends on time.
fn unlimited() -> SupervisorConfig {
    SupervisorConfig::default()
        .with_max_stall(Duration::from_secs(60))
        .with_restarts(1000, Duration::from_secs(1))
        .with_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .with_breaker_failures(1000)
}

/// What a worker measures at its start is quickly done with small batches.
fn engine(slots: u32) -> EngineConfig {
    support::config().with_n_ubatch(64).with_slots(slots)
}

fn answer(supervisor: &Supervisor, request: &Request) -> Answer {
    read(supervisor.submit(request.clone()).unwrap()).unwrap()
}

/// Reads until so many tokens were given.
fn tokens(stream: &TokenStream, n: usize) -> Vec<i32> {
    let mut tokens = vec![];
    while tokens.len() < n {
        match stream.next_event(Some(support::LONG)).unwrap() {
            Next::Event(Event::Token(token)) => tokens.push(token.token),
            Next::Event(Event::Started(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    tokens
}

fn reads_on(stream: &mut TokenStream, mut before: Vec<i32>) -> (Vec<i32>, u32) {
    let mut restarts = 0;
    for event in stream {
        match event {
            Event::Token(token) => {
                assert_eq!(token.index as usize, before.len());
                before.push(token.token);
            }
            Event::Restarted(_) => restarts += 1,
            Event::Finished(_) => {}
            other => panic!("{other:?}"),
        }
    }
    (before, restarts)
}

/// Something else in the same worker panics.
fn crash(supervisor: &Supervisor) {
    let faulty = Request::prompt("a").with_ignore_eos(true).with_max_resumes(0).with_fault(Fault::Panic);
    assert_eq!(read(supervisor.submit(faulty).unwrap()).unwrap_err().status, Status::WorkerReset);
}

/// Of all that has a state between two tokens.
fn requests() -> Vec<Request> {
    let plain = || Request::tokens(words(1, 40)).with_max_tokens(60).with_ignore_eos(true).with_seed(7);
    let sampled = || plain().with_temperature(1.2);
    let mut penalties = sampled().with_repeat_penalty(1.3);
    (penalties.dry_multiplier, penalties.xtc_probability, penalties.frequency_penalty) = (0.8, 0.3, 0.2);
    let mut mirostat = sampled();
    mirostat.mirostat = 2;
    vec![
        plain().with_temperature(0.0),
        sampled(),
        penalties,
        mirostat,
        sampled().with_logprobs(3).with_stop(["never to be seen"]).with_stop_tokens([3]),
        plain().with_temperature(0.0).with_max_tokens(120).with_context_shift(4),
    ]
}

#[test]
fn a_stream_goes_on_as_if_nothing_had_happened() {
    // From a snapshot, and from the prompt.
    for every in [32, 0] {
        let config = unlimited().with_snapshots(every, 1 << 30).with_quarantine(Duration::ZERO);
        let supervisor = support::start_with(&engine(2).with_n_ctx(110), config);
        for (i, request) in requests().into_iter().enumerate() {
            let alone = answer(&supervisor, &request);
            for after in if every > 0 { [1, 40].as_slice() } else { &[40] } {
                let mut stream = supervisor.submit(request.clone()).unwrap();
                let before = tokens(&stream, *after);
                crash(&supervisor);
                let (tokens, restarts) = reads_on(&mut stream, before);
                assert_eq!(restarts, 1);
                assert_eq!(tokens, alone.tokens, "request {i}, snapshots every {every}, crash after {after} tokens");
            }
        }
        support::eventually("snapshots are gone", || supervisor.health().unwrap().snapshot_bytes == 0);
    }
}

#[test]
fn whole_answers_are_the_same_and_the_record_tells() {
    let supervisor = support::start_with(&engine(1), unlimited());
    let request = Request::prompt("Once upon a time").with_temperature(0.9).with_seed(3).with_max_tokens(60);
    let request = request.with_ignore_eos(true).with_logprobs(2);
    let alone = answer(&supervisor, &request);
    let mut stream = supervisor.submit(request.with_fault(Fault::Panic)).unwrap();
    let mut text = String::new();
    for event in stream.by_ref() {
        match event {
            Event::Token(token) => text.push_str(&token.text),
            Event::Restarted(restarted) => {
                assert_eq!((restarted.attempt, restarted.tokens_kept), (1, 1));
                assert!(restarted.reason.contains("injected panic"), "{restarted:?}");
            }
            Event::Finished(finished) => text.push_str(&finished.text),
            _ => {}
        }
    }
    assert_eq!(text, alone.text);
    let record = stream.run_record().unwrap().unwrap();
    assert!(record.resumes == 1 && record.replay_ms > 0.0, "{record:?}");
    assert_eq!((record.usage.completion_tokens, record.replayed_tokens), (60, 1));
    let requests = supervisor.metrics().unwrap().requests;
    assert_eq!((requests.accepted_total, requests.resumed_total), (2, 1));
}

/// Only what came since the snapshot is decoded again, or everything if it cannot be used.
#[test]
fn a_snapshot_is_used_unless_it_is_damaged() {
    let supervisor = support::start_with(&engine(2), unlimited());
    let request = greedy(words(2, 40)).with_max_tokens(100);
    let alone = answer(&supervisor, &request);
    for (request, replayed) in [(request.clone(), 0..80), (request.with_fault(Fault::DamagedSnapshot), 80..108)] {
        let mut stream = supervisor.submit(request).unwrap();
        let before = tokens(&stream, 80);
        crash(&supervisor);
        let (tokens, restarts) = reads_on(&mut stream, before);
        assert_eq!((restarts, tokens), (1, alone.tokens.clone()));
        let record = stream.run_record().unwrap().unwrap();
        // The first snapshot is of the prompt, others are of it and 32 tokens and more: when, the time says that they cost.
        assert!(replayed.contains(&record.replayed_tokens), "{record:?}");
    }
}

#[test]
fn snapshots_keep_to_their_budget() {
    let config = unlimited().with_snapshots(8, 1_000_000);
    let supervisor = support::start_with(&engine(2), config);
    let (mut most, mut last) = (0, 0);
    let streams: Vec<_> =
        (0..2).map(|i| supervisor.submit(greedy(words(i, 8)).with_max_tokens(120)).unwrap()).collect();
    support::eventually("they run", || supervisor.health().unwrap().workers[0].active == 2);
    support::eventually("they end", || {
        // While one takes the place of another there are both, for less than from one look to the next.
        let bytes = supervisor.health().unwrap().snapshot_bytes;
        most = most.max(bytes.min(last));
        last = bytes;
        supervisor.health().unwrap().workers[0].active == 0
    });
    assert!(most > 100_000 && most <= 1_000_000, "{most}");
    streams.into_iter().for_each(|stream| drop(read(stream).unwrap()));
    support::eventually("snapshots are gone", || supervisor.health().unwrap().snapshot_bytes == 0);
}

/// The worker's other requests go on; the one that kills it every time does not, and is refused from then on.
#[test]
fn a_request_that_workers_die_of_is_put_in_quarantine_and_bystanders_are_not() {
    let supervisor = support::start_with(&engine(4), unlimited().with_quarantine(Duration::from_secs(2)));
    let bystander = |i: i32| greedy(words(i, 20)).with_max_tokens(80).with_max_resumes(20);
    let alone: Vec<_> = (0..3).map(|i| answer(&supervisor, &bystander(i)).tokens).collect();
    let streams: Vec<_> = (0..3).map(|i| supervisor.submit(bystander(i)).unwrap()).collect();
    support::eventually("they run", || supervisor.health().unwrap().workers[0].active == 3);
    let poisoned = greedy(words(9, 20)).with_max_resumes(20).with_fault(Fault::PanicAlways);
    let failed = read(supervisor.submit(poisoned.clone()).unwrap()).unwrap_err();
    assert_eq!((failed.status, failed.retriable), (Status::PoisonedRequest, false), "{failed:?}");
    for (stream, alone) in streams.into_iter().zip(alone) {
        let answer = read(stream).unwrap();
        assert!((1..=3).contains(&answer.restarts), "{}", answer.restarts);
        assert_eq!(answer.tokens, alone);
    }
    let refused = supervisor.submit(poisoned.clone()).err().unwrap();
    assert_eq!(
        (refused.status(), refused.policy(), refused.retriable()),
        (Status::PoisonedRequest, Some("quarantine"), false)
    );
    assert!(refused.retry_after().unwrap() <= Duration::from_secs(2));
    assert_eq!(answer(&supervisor, &bystander(1)).tokens.len(), 80, "others are served");
    std::thread::sleep(refused.retry_after().unwrap());
    let failed = read(supervisor.submit(poisoned).unwrap()).unwrap_err();
    assert_eq!(failed.status, Status::PoisonedRequest, "tried again, and found again");
}

#[test]
fn the_number_of_resumes_is_a_budget() {
    let supervisor = support::start_with(&engine(1), unlimited().with_quarantine(Duration::ZERO));
    let request = greedy(words(1, 10)).with_max_tokens(20).with_fault(Fault::PanicAlways);
    for (budget, said) in [(0, "injected panic"), (4, "went on in another worker 4 times")] {
        let restarts = supervisor.health().unwrap().workers[0].restarts;
        let failed = read(supervisor.submit(request.clone().with_max_resumes(budget)).unwrap()).unwrap_err();
        assert!(failed.status == Status::WorkerReset && failed.message.contains(said), "{failed:?}");
        support::eventually("ready again", || supervisor.health().unwrap().state == State::Ready);
        assert_eq!(supervisor.health().unwrap().workers[0].restarts, restarts + budget + 1);
    }
}

#[test]
fn a_cancel_between_two_workers_is_heard() {
    let config = unlimited().with_backoff(Duration::from_millis(300), Duration::from_millis(300));
    let supervisor = support::start_with(&engine(2), config);
    // The second crash in a row waits.
    crash(&supervisor);
    let stream = supervisor.submit(greedy(words(1, 40)).with_max_tokens(500)).unwrap();
    let waiting = supervisor.submit(greedy(words(2, 10)).with_max_tokens(5)).unwrap();
    tokens(&stream, 2);
    crash(&supervisor);
    assert!(supervisor.health().unwrap().snapshot_bytes > 0);
    stream.cancel().unwrap();
    assert_eq!(supervisor.health().unwrap().snapshot_bytes, 0, "nobody will go on from it");
    assert_eq!(
        stream.last().map(|event| matches!(event, Event::Failed(f) if f.status == Status::Cancelled)),
        Some(true)
    );
    assert_eq!(read(waiting).unwrap().tokens.len(), 5);
    assert_eq!(supervisor.health().unwrap().queue_depth, 0);
}

/// Holds up whoever wakes it, once: a host's waker runs on the worker's thread.
struct Slow(AtomicBool);

impl Wake for Slow {
    fn wake(self: Arc<Self>) {
        if !self.0.swap(true, Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(10));
        }
    }
}

/// A worker that is taken for dead while it waits for the host gives nothing when it comes back, and takes nothing with it.
#[test]
fn a_worker_that_was_taken_for_dead_is_not_heard_any_more() {
    let config = unlimited().with_stall_limit(Duration::from_secs(5));
    let supervisor = support::start_with(&engine(2), config);
    let request = greedy(words(4, 20)).with_max_tokens(30);
    let alone = answer(&supervisor, &request);
    let mut stream = supervisor.submit(request.clone()).unwrap();
    let slow = Arc::new(Slow(AtomicBool::new(false)));
    assert!(Pin::new(&mut stream).poll_next(&mut Context::from_waker(&slow.clone().into())).is_pending());
    support::eventually("it waits", || slow.0.load(Ordering::SeqCst));
    let others: Vec<_> = (0..4).map(|_| supervisor.submit(request.clone()).unwrap()).collect();
    let answers: Vec<_> = others.into_iter().map(|other| read(other).unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.tokens == alone.tokens));
    let resumed = read(stream).unwrap();
    assert_eq!((resumed.restarts, resumed.tokens), (1, alone.tokens.clone()));
    assert_eq!(supervisor.health().unwrap().workers[0].restarts, 1);
    // The old one is back by now.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(answer(&supervisor, &request).tokens, alone.tokens);
    assert_eq!(supervisor.health().unwrap().workers[0].restarts, 1);
}
