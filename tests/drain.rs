//! Leases and draining on the real model: what is there finishes, nothing new comes in, and a deadline ends the rest.

mod support;

use llamapen::{
    DrainReport, Error, Event, Lease, Next, Request, State, Status, Supervisor, SupervisorConfig, TokenStream,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{LONG, read};

fn endless() -> Request {
    Request::prompt("Once").with_ignore_eos(true)
}

fn brief() -> Request {
    endless().with_max_tokens(8)
}

fn one_slot() -> Supervisor {
    support::start(&support::config().with_n_ctx(4096).with_slots(1))
}

/// A request that has taken the slot.
fn run(supervisor: &Supervisor, request: Request) -> TokenStream {
    let running = supervisor.submit(request).unwrap();
    let Next::Event(Event::Started(_)) = running.next_event(Some(LONG)).unwrap() else { panic!("it starts") };
    running
}

fn state(supervisor: &Supervisor) -> State {
    supervisor.health().unwrap().state
}

fn drains(supervisor: &Supervisor) {
    support::eventually("it drains", || state(supervisor) == State::Draining);
}

fn refused<T>(result: Result<T, Error>) {
    let Err(Error::Rejected(rejected)) = result else { panic!("it must be refused") };
    assert_eq!((rejected.status, rejected.policy, rejected.retriable), (Status::Draining, "drain", true));
}

fn is_over(supervisor: &Supervisor, report: DrainReport) {
    assert_eq!(state(supervisor), State::Stopped);
    assert_eq!(supervisor.lease().err().unwrap().status(), Status::PoolUnavailable);
    assert_eq!(supervisor.submit(brief()).err().unwrap().status(), Status::PoolUnavailable);
    assert_eq!(supervisor.drain(None).unwrap(), report, "idempotent");
}

fn leases(supervisor: &Supervisor) -> usize {
    let (health, metrics) = (supervisor.health().unwrap(), supervisor.metrics().unwrap());
    let samples = support::prometheus::parse(&metrics.to_prometheus());
    let shown: Vec<_> = samples.iter().filter(|s| s.name == "llamapen_leases").map(|s| s.value as usize).collect();
    assert_eq!(shown, [metrics.leases as usize]);
    health.leases
}

#[test]
fn what_runs_and_what_waits_finishes_and_nothing_new_comes_in() {
    let supervisor = one_slot();
    let running = run(&supervisor, endless().with_max_tokens(200));
    let waiting: Vec<_> = (0..3).map(|_| supervisor.submit(brief()).unwrap()).collect();
    let report = std::thread::scope(|scope| {
        let drain = scope.spawn(|| supervisor.drain(Some(LONG)).unwrap());
        drains(&supervisor);
        refused(supervisor.submit(brief()));
        refused(supervisor.lease());
        drain.join().unwrap()
    });
    // What had ended by then can still be read.
    assert_eq!(running.filter(|event| matches!(event, Event::Token(_))).count(), 200);
    for stream in waiting {
        assert_eq!(read(stream).unwrap().tokens.len(), 8);
    }
    assert_eq!((report.forced, report.leases_left, report.requests_failed), (false, 0, 0));
    assert!(report.duration_ms > 0);
    is_over(&supervisor, report);
    let requests = supervisor.metrics().unwrap().requests;
    assert_eq!(requests.rejected_total["DRAINING"], 1);
    assert_eq!(requests.failed_total.len(), 0, "{:?}", requests.failed_total);
}

#[test]
fn a_deadline_ends_what_is_left_with_draining_once() {
    let supervisor = one_slot();
    let running = run(&supervisor, endless());
    let waiting = supervisor.submit(brief()).unwrap();
    let lease = supervisor.lease().unwrap();
    let report = supervisor.drain(Some(Duration::from_millis(200))).unwrap();
    assert_eq!((report.forced, report.leases_left, report.requests_failed), (true, 1, 2));
    assert!(report.duration_ms >= 200);
    let last = running.last();
    let Some(Event::Failed(failed)) = last else { panic!("{last:?}") };
    for failed in [failed, read(waiting).unwrap_err()] {
        assert_eq!((failed.status, failed.retriable), (Status::Draining, true));
        assert!(failed.message.contains("drained"), "{failed:?}");
    }
    assert_eq!(lease.submit(brief()).err().unwrap().status(), Status::PoolUnavailable);
    assert_eq!(leases(&supervisor), 1);
    drop(lease);
    assert_eq!(leases(&supervisor), 0);
    is_over(&supervisor, report);
}

#[test]
fn a_lease_keeps_it_from_ending_and_its_requests_are_taken_meanwhile() {
    let supervisor = one_slot();
    let (first, second) = (supervisor.lease().unwrap(), supervisor.lease().unwrap());
    assert_eq!(leases(&supervisor), 2);
    let report = std::thread::scope(|scope| {
        let drains_at = [None, Some(LONG)].map(|timeout| {
            scope.spawn({
                let supervisor = &supervisor;
                move || supervisor.drain(timeout).unwrap()
            })
        });
        drains(&supervisor);
        drop(first);
        refused(supervisor.submit(brief()));
        assert_eq!(read(second.submit(brief()).unwrap()).unwrap().tokens.len(), 8);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((state(&supervisor), leases(&supervisor)), (State::Draining, 1), "idle, but for the lease");
        drop(second);
        let [report, same] = drains_at.map(|drain| drain.join().unwrap());
        assert_eq!(report, same);
        report
    });
    assert!(!report.forced && report.duration_ms >= 100, "{report:?}");
    is_over(&supervisor, report);
}

#[test]
fn leases_of_many_threads_are_counted_and_refused_from_the_drain_on() {
    let supervisor = one_slot();
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    match supervisor.lease() {
                        Ok(lease) => {
                            taken.fetch_add(1, Ordering::Relaxed);
                            let _ = lease_in_another(lease).join();
                        }
                        Err(error) => {
                            assert!(matches!(error.status(), Status::Draining | Status::PoolUnavailable), "{error}");
                            return;
                        }
                    }
                }
            });
        }
        support::eventually("leases", || taken.load(Ordering::Relaxed) > 100);
        let report = supervisor.drain(Some(LONG)).unwrap();
        assert_eq!((report.forced, report.leases_left), (false, 0));
    });
    assert_eq!(leases(&supervisor), 0);
}

/// A lease may be given back by another thread.
fn lease_in_another(lease: Lease) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || drop(lease))
}

#[test]
fn an_idle_one_ends_at_once_also_while_it_loads_and_a_stop_ends_a_drain() {
    let engine = llamapen::prepare(&support::config().with_mmap(false)).unwrap();
    let loading = Supervisor::start(engine, SupervisorConfig::default()).unwrap();
    let report = loading.drain(None).unwrap();
    assert!(!report.forced, "{report:?}");
    is_over(&loading, report);

    let supervisor = one_slot();
    let running = run(&supervisor, endless());
    let report = std::thread::scope(|scope| {
        let drain = scope.spawn(|| supervisor.drain(None).unwrap());
        drains(&supervisor);
        supervisor.stop().unwrap();
        drain.join().unwrap()
    });
    assert_eq!((report.forced, report.requests_failed), (true, 1));
    assert!(matches!(running.last(), Some(Event::Failed(failed)) if failed.status == Status::Draining));
    is_over(&supervisor, report);

    let stopped = one_slot();
    stopped.stop().unwrap();
    let report = stopped.drain(Some(Duration::ZERO)).unwrap();
    assert_eq!((report.forced, report.leases_left, report.requests_failed), (false, 0, 0));
}

/// Wakers run on llamapen's threads.
#[test]
fn on_a_thread_of_llamapen_it_is_refused_instead_of_waiting_for_itself() {
    use std::task::{Context, Wake, Waker};
    struct Drains(std::sync::Weak<Supervisor>, std::sync::mpsc::Sender<Result<DrainReport, Error>>);
    impl Wake for Drains {
        fn wake(self: std::sync::Arc<Self>) {
            // Another one is upgraded until the test is over: the last drop must not be here.
            if let Some(supervisor) = self.0.upgrade() {
                let _ = self.1.send(supervisor.drain(None));
            }
        }
    }
    let supervisor = std::sync::Arc::new(one_slot());
    let (send, receive) = std::sync::mpsc::channel();
    let waker = Waker::from(std::sync::Arc::new(Drains(std::sync::Arc::downgrade(&supervisor), send)));
    let mut stream = Box::pin(supervisor.submit(endless()).unwrap());
    // Until one has to wait for the next event: then it is woken.
    while futures_core::Stream::poll_next(stream.as_mut(), &mut Context::from_waker(&waker)).is_ready() {}
    assert_eq!(receive.recv_timeout(LONG).unwrap().unwrap_err().status(), Status::Unsupported);
    assert_ne!(state(&supervisor), State::Draining);
}
