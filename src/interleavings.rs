//! Models of the queues, for loom: each runs in every order in which its threads can come to the locks. A wake-up that is
//! missed shows as a deadlock. `make loom`.

use crate::Request;
use crate::config::QueueFullPolicy;
use crate::event::{Event, Failed, FinishReason, Finished, Timings, Token, Usage};
use crate::event_queue::Next;
use crate::job::Job;
use crate::status::Status;
use crate::supervisor::{Popped, Queue, Taker};
use crate::telemetry::Telemetry;
use loom::thread;
use std::sync::Arc;
use std::time::Duration;

const WORKER: Taker = Taker { worker: 0, suspects: true, running: 0 };
const LONG: Duration = Duration::from_secs(60);

fn queue() -> Arc<Queue> {
    Arc::new(Queue::new(2, QueueFullPolicy::Reject))
}

fn job(queue: &Arc<Queue>, id: u64) -> Arc<Job> {
    let telemetry = Arc::new(Telemetry::new(Default::default(), 1, Arc::default()));
    Arc::new(Job::new(id, Request::prompt("a"), Some(0), Arc::downgrade(queue), telemetry))
}

fn token() -> Event {
    Event::Token(Token { index: 0, token: 1, text: "a".into(), logprobs: None, logits: None })
}

fn finished() -> Event {
    let (usage, timings) = (Usage::default(), Timings::default());
    let (text, reason) = (String::new(), FinishReason::Length);
    Event::Finished(Finished { reason, stop_string: None, stop_token: None, text, usage, timings })
}

/// What a consumer reads, to the end.
fn read(job: &Job) -> Vec<Event> {
    std::iter::from_fn(|| match job.events.next(None).unwrap() {
        Next::Event(event) => Some(event),
        Next::Timeout | Next::End => None,
    })
    .collect()
}

/// A worker that gives a token and finishes, a caller that cancels, a consumer: one terminal event, and it is the last.
#[test]
fn a_request_ends_exactly_once() {
    loom::model(|| {
        let job = job(&queue(), 1);
        let worker = thread::spawn({
            let job = job.clone();
            move || {
                let token = job.events.push(token());
                let end = job.events.push(finished());
                assert!(token || !end, "after a refusal everything is refused");
                end
            }
        });
        let caller = thread::spawn({
            let job = job.clone();
            move || job.events.cancel()
        });
        let events = read(&job);
        let (by_worker, by_caller) = (worker.join().unwrap(), caller.join().unwrap());
        assert!(by_worker != by_caller, "exactly one of them ended it");
        assert_eq!(events.iter().filter(|event| event.is_terminal()).count(), 1);
        assert!(events.last().unwrap().is_terminal());
        assert_eq!(matches!(events.last().unwrap(), Event::Finished(_)), by_worker);
        assert_eq!(job.events.next(None).unwrap(), Next::End);
    });
}

/// The control thread fails what a worker left, while the worker still ends it itself.
#[test]
fn of_two_ends_one_counts() {
    loom::model(|| {
        let job = job(&queue(), 1);
        let ends = [finished(), Event::Failed(Failed::new(Status::WorkerReset, "x"))].map(|end| {
            let job = job.clone();
            thread::spawn(move || job.events.push(end))
        });
        let events = read(&job);
        let won: usize = ends.into_iter().map(|end| usize::from(end.join().unwrap())).sum();
        assert_eq!((won, events.len()), (1, 1));
    });
}

/// A request that is queued while the queue closes is taken by the worker, given back or refused: one of them.
#[test]
fn a_request_is_not_lost_when_the_queue_closes() {
    loom::model(|| {
        let queue = queue();
        let submitter = thread::spawn({
            let queue = queue.clone();
            move || queue.push(job(&queue, 1), false).is_ok()
        });
        let worker = thread::spawn({
            let queue = queue.clone();
            move || {
                let mut taken = 0;
                loop {
                    match queue.pop(LONG, WORKER) {
                        Popped::Job(..) => taken += 1,
                        Popped::Closed => return taken,
                        Popped::Empty | Popped::Errand(_) => unreachable!("nothing times out, and nothing is measured"),
                    }
                }
            }
        });
        let given_back = queue.close().len();
        let (accepted, taken) = (submitter.join().unwrap(), worker.join().unwrap());
        assert_eq!(taken + given_back, usize::from(accepted));
    });
}

/// Two workers wait, two requests come one after the other: both are taken, and nobody sleeps on. Also where the one leaves
/// them to the other, which has had their beginning before.
#[test]
fn no_worker_sleeps_beside_a_request() {
    for knows in [false, true] {
        loom::model(move || two_workers_take_two_requests(knows));
    }
}

fn two_workers_take_two_requests(one_knows: bool) {
    let queue = queue();
    if one_knows {
        assert!(queue.push(job(&queue, 0), false).is_ok());
        assert!(matches!(queue.pop(Duration::ZERO, WORKER), Popped::Job(..)));
    }
    let workers = [0, 1].map(|worker| {
        let queue = queue.clone();
        thread::spawn(move || match queue.pop(LONG, Taker { worker, ..WORKER }) {
            Popped::Job(job, _) => job.id,
            _ => unreachable!("it stays open"),
        })
    });
    for id in [1, 2] {
        assert!(queue.push(job(&queue, id), false).is_ok());
    }
    let [a, b] = workers.map(|worker| worker.join().unwrap());
    assert_eq!(a + b, 3, "each was taken by one worker");
}

/// A cancel and a worker that takes the request: it leaves the queue once, and ends as cancelled.
#[test]
fn a_cancelled_request_leaves_the_queue_once() {
    loom::model(|| {
        let queue = queue();
        let job = job(&queue, 1);
        assert!(queue.push(job.clone(), false).is_ok());
        let worker = thread::spawn({
            let queue = queue.clone();
            move || match queue.pop(Duration::ZERO, WORKER) {
                Popped::Job(job, _) => Some(job.events.push(token())),
                _ => None,
            }
        });
        job.cancel().unwrap();
        let gave_a_token = worker.join().unwrap().unwrap_or(false);
        assert_eq!(queue.depths().total(), 0);
        let events = read(&job);
        assert!(matches!(&events[..], [Event::Failed(failed)] if failed.status == Status::Cancelled), "{gave_a_token}");
    });
}
