use super::*;
use crate::Request;
use crate::supervisor::blame::judge;
use crate::telemetry::Telemetry;

fn job(queue: &Arc<Queue>, id: u64) -> Arc<Job> {
    job_of(queue, id, "a")
}

fn job_of(queue: &Arc<Queue>, id: u64, prompt: &str) -> Arc<Job> {
    let telemetry = Arc::new(Telemetry::new(Default::default(), 1, Arc::default()));
    Arc::new(Job::new(id, Request::prompt(prompt), None, Arc::downgrade(queue), telemetry))
}

fn taker(suspects: bool) -> Taker {
    Taker { worker: 0, suspects, running: 0 }
}

/// What a worker gets without waiting.
fn taken(queue: &Queue, worker: u32, busy: bool) -> Option<u64> {
    match queue.pop(Duration::ZERO, Taker { worker, suspects: true, running: busy.into() }) {
        Popped::Job(job, _) => Some(job.id),
        _ => None,
    }
}

/// A worker that waits in a thread of its own, and what it gets.
fn waiting(queue: &Arc<Queue>, worker: u32) -> std::thread::JoinHandle<Option<u64>> {
    let before = queue.inner.lock().idle.len();
    let waits = std::thread::spawn({
        let queue = queue.clone();
        move || match queue.pop(Duration::from_secs(60), Taker { worker, suspects: true, running: 0 }) {
            Popped::Job(job, _) => Some(job.id),
            _ => None,
        }
    });
    while queue.inner.lock().idle.len() == before {
        std::thread::yield_now();
    }
    waits
}

#[test]
fn who_has_nothing_to_do_comes_first() {
    let queue = Arc::new(Queue::new(9, QueueFullPolicy::Reject));
    let idle = waiting(&queue, 1);
    // Both look at the same moment.
    let mut inner = queue.inner.lock();
    inner.waiting.push(Priority::Interactive, (job(&queue, 1), 0));
    inner.waiting.push(Priority::Interactive, (job(&queue, 2), 0));
    drop(inner);
    assert_eq!(taken(&queue, 0, true), Some(1), "there are two, and one who waits");
    assert_eq!(taken(&queue, 0, true), None, "the last one is for who waits");
    assert_eq!(idle.join().unwrap(), Some(2), "who was told of it");
    let idle = waiting(&queue, 1);
    let nothing = queue.inner.lock().next_for(Taker { running: 1, ..taker(true) });
    assert!(matches!(nothing, Next::Nothing), "nobody is woken for nothing");
    queue.close();
    assert_eq!(idle.join().unwrap(), None);
}

#[test]
fn once_measured_requests_share_a_worker_and_wait_for_it_a_while() {
    let queue = Arc::new(Queue::new(9, QueueFullPolicy::Reject));
    queue.spread(vec![1; 8], 4);
    let push = |id| assert!(queue.push(job_of(&queue, id, &format!("{id}")), false).is_ok());
    push(1);
    assert_eq!(taken(&queue, 0, false), Some(1));
    let idle = waiting(&queue, 1);
    push(2);
    assert_eq!(taken(&queue, 0, true), Some(2), "beside the first");
    // It takes too long, or dies.
    push(3);
    assert_eq!(idle.join().unwrap(), Some(3));
    let idle = waiting(&queue, 1);
    push(4);
    queue.forget(0);
    assert_eq!(idle.join().unwrap(), Some(4));
}

#[test]
fn errands_are_for_who_has_nothing_to_do_and_requests_end_them() {
    let queue = Arc::new(Queue::new(9, QueueFullPolicy::Reject));
    let (told, tell) = crossbeam_channel::unbounded();
    let errands = || {
        let wanted = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let errand = |worker: u32| {
            let told = told.clone();
            let done = Box::new(move |micros| told.send((worker, micros)).unwrap_or_default());
            (worker, Errand::new(Measure { streams: 1, threads: 1 }, wanted.clone(), done))
        };
        queue.measure((0..2).map(errand).collect());
    };
    let pop = |worker, running| queue.pop(Duration::ZERO, Taker { worker, suspects: true, running });
    errands();
    assert!(matches!(pop(0, 1), Popped::Empty), "it has a request");
    let Popped::Errand(errand) = pop(0, 0) else { panic!("none") };
    assert!(matches!(pop(0, 0), Popped::Empty), "once");
    errand.answer(Some(5));
    assert_eq!(tell.try_recv(), Ok((0, Some(5))));
    assert!(queue.push(job(&queue, 1), false).is_ok());
    assert_eq!(tell.try_recv(), Ok((1, None)), "whoever wanted it is told");
    errands();
    assert!(matches!(pop(1, 0), Popped::Job(..)), "requests come first");
}

#[test]
fn of_those_that_wait_the_one_that_knows_the_beginning_takes_it() {
    let queue = Arc::new(Queue::new(9, QueueFullPolicy::Reject));
    let push = |id, prompt: &str| assert!(queue.push(job_of(&queue, id, prompt), false).is_ok());
    let (long, other) = ("once upon a time ".repeat(40), "something else".to_owned());
    push(1, &(long.clone() + "one"));
    assert_eq!(taken(&queue, 1, false), Some(1));
    push(2, &other);
    assert_eq!(taken(&queue, 0, false), Some(2));
    let knows = waiting(&queue, 1);
    push(3, &(long.clone() + "another"));
    assert_eq!(knows.join().unwrap(), Some(3));
    // For one that knows it no longer, nothing is left.
    let knew = waiting(&queue, 1);
    queue.forget(1);
    // Nobody is told of these.
    let put = |id| queue.inner.lock().waiting.push(Priority::Interactive, (job_of(&queue, id, &long), 0));
    put(4);
    assert_eq!(taken(&queue, 0, false), Some(4));
    // A busy one that knows it is not waited for.
    put(5);
    assert_eq!(taken(&queue, 2, false), Some(5));
    queue.close();
    assert_eq!(knew.join().unwrap(), None);
}

/// One who left two requests to another one that waits, which took the first, has the second: it does not sleep beside it.
#[test]
fn what_was_left_to_one_who_then_took_another_is_taken_at_once() {
    let queue = Arc::new(Queue::new(9, QueueFullPolicy::Reject));
    let push = |id| assert!(queue.push(job(&queue, id), false).is_ok());
    push(1);
    assert_eq!(taken(&queue, 1, false), Some(1), "now worker 1 knows how they begin");
    let other = waiting(&queue, 0);
    let began = Instant::now();
    // Told of them, and not there yet.
    queue.inner.lock().idle.push(1);
    push(2);
    push(3);
    std::thread::sleep(Duration::from_millis(50));
    queue.inner.lock().idle.retain(|worker| *worker != 1);
    assert_eq!(taken(&queue, 1, false), Some(2));
    assert_eq!(other.join().unwrap(), Some(3));
    assert!(began.elapsed() < Duration::from_secs(30), "nobody told it");
}

#[test]
fn first_in_first_out_bounded_and_a_cancelled_job_gives_its_place_back() {
    let queue = Arc::new(Queue::new(2, QueueFullPolicy::Reject));
    let (a, b, c) = (job(&queue, 1), job(&queue, 2), job(&queue, 3));
    assert!(queue.push(a.clone(), false).is_ok() && queue.push(b, false).is_ok());
    assert!(matches!(queue.push(c.clone(), false), Err(PushError::Full(2))));
    a.cancel().unwrap();
    assert!(queue.push(c, false).is_ok());
    let ids: Vec<_> = std::iter::from_fn(|| match queue.pop(Duration::ZERO, taker(true)) {
        Popped::Job(job, _) => Some(job.id),
        _ => None,
    })
    .collect();
    assert_eq!(ids, [2, 3]);
}

#[test]
fn those_whose_worker_died_come_first_and_suspects_only_where_they_are_welcome() {
    let queue = Arc::new(Queue::new(1, QueueFullPolicy::Reject));
    let (suspect, bystander) = (job(&queue, 2), job(&queue, 3));
    let mut parts = [(*suspect.part(), 0)];
    judge(&mut parts);
    *suspect.part() = parts[0].0;
    assert!(queue.push(job(&queue, 1), false).is_ok());
    assert!(queue.push_again(suspect) && queue.push_again(bystander), "past the bound");
    assert_eq!(queue.depths().total(), 3);
    for (suspects, id) in [(false, 3), (false, 1), (true, 2)] {
        assert!(matches!(queue.pop(Duration::ZERO, taker(suspects)), Popped::Job(job, 0) if job.id == id));
    }
    assert!(queue.push_again(job(&queue, 4)));
    queue.remove(4);
    assert!(queue.push_again(job(&queue, 5)));
    assert_eq!(queue.close().len(), 1);
    assert!(!queue.push_again(job(&queue, 6)));
}

#[test]
fn closing_wakes_a_waiting_worker_and_returns_the_rest() {
    let queue = Arc::new(Queue::new(8, QueueFullPolicy::Reject));
    let worker = std::thread::spawn({
        let queue = queue.clone();
        move || matches!(queue.pop(Duration::from_secs(60), taker(true)), Popped::Closed)
    });
    std::thread::sleep(Duration::from_millis(10));
    assert!(queue.close().is_empty());
    assert!(worker.join().unwrap());
    assert!(matches!(queue.push(job(&queue, 1), true), Err(PushError::Closed)));
}

#[test]
fn who_has_nothing_to_do_gets_a_request_first() {
    let queue = Arc::new(Queue::new(8, QueueFullPolicy::Reject));
    let waits = |busy| {
        let queue = queue.clone();
        let by = Taker { running: u32::from(busy), ..taker(true) };
        std::thread::spawn(move || match queue.pop(Duration::from_secs(60), by) {
            Popped::Job(job, _) => Some(job.id),
            _ => None,
        })
    };
    let busy = waits(true);
    std::thread::sleep(Duration::from_millis(50));
    let idle = waits(false);
    std::thread::sleep(Duration::from_millis(50));
    assert!(queue.push(job(&queue, 1), false).is_ok());
    assert_eq!(idle.join().unwrap(), Some(1));
    assert!(queue.push(job(&queue, 2), false).is_ok());
    assert_eq!(busy.join().unwrap(), Some(2));
    let (busy, idle) = (waits(true), waits(false));
    std::thread::sleep(Duration::from_millis(50));
    queue.close();
    assert_eq!((busy.join().unwrap(), idle.join().unwrap()), (None, None));
}

#[test]
fn held_it_sends_workers_home_and_keeps_what_comes_in() {
    let queue = Arc::new(Queue::new(8, QueueFullPolicy::Reject));
    assert!(queue.push(job(&queue, 1), false).is_ok());
    assert!(!queue.hold_if(|| true), "one waits");
    assert!(matches!(queue.pop(Duration::ZERO, taker(true)), Popped::Job(..)));
    assert!(!queue.hold_if(|| false));
    assert!(matches!(queue.pop(Duration::ZERO, taker(true)), Popped::Empty));
    assert!(queue.hold_if(|| true));
    assert!(queue.push(job(&queue, 2), false).is_ok());
    assert!(matches!(queue.pop(Duration::from_secs(60), taker(true)), Popped::Closed));
    queue.release();
    assert!(matches!(queue.pop(Duration::ZERO, taker(true)), Popped::Job(job, _) if job.id == 2));
}

#[test]
fn while_it_drains_only_those_with_a_lease_come_in_and_what_waits_is_taken() {
    let queue = Arc::new(Queue::new(8, QueueFullPolicy::Reject));
    assert!(queue.push(job(&queue, 1), false).is_ok());
    queue.drain();
    assert!(matches!(queue.push(job(&queue, 2), false), Err(PushError::Draining)));
    assert!(queue.push(job(&queue, 3), true).is_ok());
    for id in [1, 3] {
        assert!(matches!(queue.pop(Duration::ZERO, taker(true)), Popped::Job(job, _) if job.id == id));
    }
    queue.close();
    queue.drain();
    assert!(matches!(queue.push(job(&queue, 4), true), Err(PushError::Closed)), "it stays closed");
}
