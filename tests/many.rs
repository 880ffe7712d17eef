//! Many requests from many threads, some cancelled: nothing lost, nothing doubled, nothing left. Alone in its process,
//! because it counts the process's threads and descriptors.

mod support;

use llamapen::{Event, Request, Status, Supervisor, TokenStream};
use std::collections::BTreeMap;
use std::sync::Mutex;

const THREADS: usize = 8;
const REQUESTS: usize = 200;

#[test]
fn two_hundred_requests_fifty_cancelled() {
    // The first supervisor initialises llama.cpp for good; what that leaves is not what this test is about.
    drop(support::start(&support::config()));
    let (threads, descriptors) = (support::threads(), support::descriptors());

    let workers = std::thread::available_parallelism().unwrap().get().min(2) as u32;
    let supervisor = support::start(&support::config().with_workers(workers).with_slots(2));
    let ends = Mutex::new(BTreeMap::<String, usize>::new());
    let streams = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (supervisor, ends, streams) = (&supervisor, &ends, &streams);
            scope.spawn(move || {
                for i in (thread..REQUESTS).step_by(THREADS) {
                    let (end, stream) = one_request(supervisor, i, i % 4 == 0);
                    streams.lock().unwrap().push(stream);
                    *ends.lock().unwrap().entry(end).or_default() += 1;
                }
            });
        }
    });
    assert_eq!(ends.into_inner().unwrap(), BTreeMap::from([("CANCELLED".into(), 50), ("finished".into(), 150)]));
    let health = supervisor.health().unwrap();
    assert_eq!(health.queue_depth, 0);

    supervisor.stop().unwrap();
    // What a worker was just doing when its request was cancelled would show now.
    for mut stream in streams.into_inner().unwrap() {
        assert_eq!(stream.next(), None, "an event after the end");
    }
    support::eventually("threads end", || support::threads() == threads);
    assert_eq!(support::descriptors(), descriptors);
}

/// Runs request `i` to its end, cancelling it after a few tokens if asked to. Returns how it ended.
fn one_request(supervisor: &Supervisor, i: usize, cancel: bool) -> (String, TokenStream) {
    let request = Request::prompt(format!("Number {i} is")).with_ignore_eos(true);
    let mut stream = supervisor.submit(request.with_max_tokens(if cancel { 900 } else { 6 })).unwrap();
    let (mut tokens, mut end) = (0, None);
    while let Some(event) = stream.next() {
        assert!(end.is_none(), "request {i}: {event:?} after its terminal event");
        match event {
            Event::Token(token) => {
                assert_eq!(token.index, tokens);
                tokens += 1;
                assert!(!cancel || tokens <= 3, "request {i}: a token after the cancel");
                if cancel && tokens == 3 {
                    stream.cancel().unwrap();
                }
            }
            Event::Finished(finished) => {
                assert_eq!((finished.usage.completion_tokens, tokens), (6, 6));
                end = Some("finished".to_owned());
            }
            Event::Failed(failed) => {
                assert_eq!(failed.status, Status::Cancelled, "{}", failed.message);
                end = Some(failed.status.to_string());
            }
            _ => {}
        }
    }
    (end.expect("exactly one terminal event"), stream)
}
