//! The queue on the real model: who goes first, who gives way when it is full, and what a refusal says.

mod support;

use llamapen::{
    Error, Event, Failed, Next, Priority, QueueDepths, QueueFullPolicy, Request, Status, Supervisor, SupervisorConfig,
    TokenStream,
};
use support::{LONG, read};

fn endless() -> Request {
    Request::prompt("Once").with_ignore_eos(true)
}

fn brief(priority: Priority) -> Request {
    endless().with_max_tokens(2).with_priority(priority)
}

/// One slot, which a request holds that ends only when it is dropped.
fn busy(config: SupervisorConfig) -> (Supervisor, TokenStream) {
    let supervisor = support::start_with(&support::config().with_n_ctx(4096).with_slots(1), config);
    let running = run(&supervisor);
    (supervisor, running)
}

/// A request that has taken the slot.
fn run(supervisor: &Supervisor) -> TokenStream {
    let running = supervisor.submit(endless()).unwrap();
    let Next::Event(Event::Started(_)) = running.next_event(Some(LONG)).unwrap() else { panic!("it starts") };
    running
}

/// The failed event, and that nothing follows it.
fn failed(stream: &TokenStream) -> Failed {
    let Next::Event(Event::Failed(failed)) = stream.next_event(Some(LONG)).unwrap() else { panic!("it fails") };
    assert_eq!(stream.next_event(Some(LONG)).unwrap(), Next::End);
    failed
}

fn depths(supervisor: &Supervisor) -> (usize, usize) {
    let (health, metrics) = (supervisor.health().unwrap(), supervisor.metrics().unwrap());
    let QueueDepths { interactive, batch, .. } = health.queue_depth_by_priority;
    assert_eq!(health.queue_depth, interactive + batch);
    assert_eq!(metrics.queue_depth_by_priority, health.queue_depth_by_priority);
    let samples = support::prometheus::parse(&metrics.to_prometheus());
    for (priority, depth) in [("interactive", interactive), ("batch", batch)] {
        let of = samples.iter().filter(|s| s.name == "llamapen_queue_depth_by_priority");
        let values: Vec<_> = of.filter(|s| s.labels["priority"] == priority).map(|s| s.value).collect();
        assert_eq!(values, [depth as f64], "{priority}");
    }
    (interactive, batch)
}

#[test]
fn interactive_goes_first_and_batch_has_its_turn_after_eight() {
    let (supervisor, running) = busy(SupervisorConfig::default());
    let mut streams = Vec::new();
    // Batch came first, and waits.
    for priority in [Priority::Batch; 2].into_iter().chain([Priority::Interactive; 10]) {
        streams.push(supervisor.submit(brief(priority)).unwrap());
    }
    assert_eq!(depths(&supervisor), (10, 2));
    let mut order: Vec<_> = std::thread::scope(|scope| {
        drop(running);
        let reads: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| started_at(stream))).collect();
        reads.into_iter().map(|read| read.join().unwrap()).zip(0..).collect()
    });
    order.sort();
    let order: Vec<usize> = order.into_iter().map(|(_, i)| i).collect();
    assert_eq!(order, [2, 3, 4, 5, 6, 7, 8, 9, 0, 10, 11, 1]);
    assert_eq!(depths(&supervisor), (0, 0));
}

/// When its first event came. One slot: the next one starts only after this one has ended.
fn started_at(stream: TokenStream) -> std::time::Instant {
    let Next::Event(Event::Started(_)) = stream.next_event(Some(LONG)).unwrap() else { panic!("it starts") };
    let at = std::time::Instant::now();
    read_rest(stream);
    at
}

fn read_rest(stream: TokenStream) {
    assert!(matches!(stream.last(), Some(Event::Finished(_))));
}

#[test]
fn a_full_queue_drops_the_oldest_batch_request_once_and_retriable() {
    let config = SupervisorConfig::default().with_queue_capacity(3);
    let (supervisor, running) = busy(config.with_queue_full(QueueFullPolicy::DropOldestBatch));
    let oldest = supervisor.submit(brief(Priority::Batch)).unwrap();
    let second = supervisor.submit(brief(Priority::Batch)).unwrap();
    let kept = supervisor.submit(brief(Priority::Interactive)).unwrap();
    let third = supervisor.submit(brief(Priority::Batch)).unwrap();
    let dropped = failed(&oldest);
    assert_eq!((dropped.status, dropped.retriable), (Status::QueueFullDropLru, true), "{dropped:?}");
    assert!(dropped.message.contains("queue_capacity"), "{dropped:?}");
    let interactive = supervisor.submit(brief(Priority::Interactive)).unwrap();
    assert_eq!(failed(&second).status, Status::QueueFullDropLru);
    let last = supervisor.submit(brief(Priority::Interactive)).unwrap();
    assert_eq!(failed(&third).status, Status::QueueFullDropLru);
    // No batch request waits any more: a new one is refused, of either kind.
    for priority in [Priority::Batch, Priority::Interactive] {
        assert_eq!(supervisor.submit(brief(priority)).err().unwrap().status(), Status::QueueFull);
    }
    assert_eq!(depths(&supervisor), (3, 0));
    drop(running);
    for stream in [kept, interactive, last] {
        read(stream).unwrap();
    }
    let requests = supervisor.metrics().unwrap().requests;
    assert_eq!((requests.failed_total["QUEUE_FULL_DROP_LRU"], requests.rejected_total["QUEUE_FULL"]), (3, 2));
}

#[test]
fn a_refusal_says_by_which_rule_and_when_to_come_again() {
    let (supervisor, running) = busy(SupervisorConfig::default().with_queue_capacity(1));
    let waiting = supervisor.submit(brief(Priority::Batch)).unwrap();
    let refused = |request| supervisor.submit(request).err().unwrap();
    let full = refused(brief(Priority::Interactive));
    assert_eq!((full.policy(), full.retriable(), full.retry_after()), (Some("queue"), true, None), "nothing ended yet");
    running.cancel().unwrap();
    read_rest(waiting);
    // Two have ended, so that it is known how long they take.
    let running = run(&supervisor);
    let _waiting = supervisor.submit(brief(Priority::Interactive)).unwrap();
    let Error::Rejected(full) = refused(brief(Priority::Interactive)) else { panic!("rejected") };
    assert!(full.retry_after_ms.is_some_and(|ms| (1..LONG.as_millis() as u64).contains(&ms)), "{full:?}");
    drop(running);

    let long = refused(Request::tokens(vec![5; 5000]));
    assert_eq!((long.policy(), long.retriable(), long.retry_after()), (Some("context"), false, None));
    assert_eq!(refused(Request::prompt("a").with_top_p(2.0)).policy(), None);
    supervisor.stop().unwrap();
    assert_eq!((refused(endless()).policy(), refused(endless()).retriable()), (Some("state"), false));
}
