//! Memory given back while nothing runs, and taken again when there is something to do: nobody loses anything by it.

mod support;

use llamapen::{Event, Failed, Next, Request, State, Status, Supervisor, SupervisorConfig, TokenStream, prepare};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::traces::memory;
use support::{LONG, brief, child, greedy, keep_asking, read, words};

fn one_slot() -> Supervisor {
    support::start(&support::config().with_n_ctx(4096).with_slots(1))
}

fn started(supervisor: &Supervisor, request: Request) -> TokenStream {
    let running = supervisor.submit(request).unwrap();
    let Next::Event(Event::Started(_)) = running.next_event(Some(LONG)).unwrap() else { panic!("it starts") };
    running
}

fn state(supervisor: &Supervisor) -> State {
    supervisor.health().unwrap().state
}

fn maps_the_model() -> bool {
    let name = support::model().file_name().unwrap().to_string_lossy().into_owned();
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(&name)
}

/// What cycles took and left, in bytes; with it the weights and caches that were planned.
#[test]
#[ignore = "run by the other test, in a child process"]
fn child() {
    let mmap: bool = child::asked();
    let engine = prepare(&support::config().with_slots(2).with_mmap(mmap)).unwrap();
    let large = engine.memory().host().weights + engine.memory().host().cache;
    let before = memory("RssAnon:");
    let supervisor = Supervisor::start(engine, SupervisorConfig::default()).unwrap();
    let mut cycles = Vec::new();
    for _ in 0..4 {
        supervisor.wake().unwrap();
        assert!(supervisor.wait_ready(Some(LONG)).unwrap());
        read(supervisor.submit(greedy(words(1, 600)).with_max_tokens(4)).unwrap()).unwrap();
        let loaded = memory("RssAnon:") - before;
        assert_eq!(maps_the_model(), mmap && !support::in_processes());
        assert!(supervisor.unload(Some(LONG)).unwrap());
        assert!(!maps_the_model());
        assert_eq!(supervisor.health().unwrap().workers[0].memory_bytes, 0);
        cycles.push((loaded, memory("RssAnon:").saturating_sub(before)));
    }
    child::answer(&(large, cycles));
}

#[test]
fn weights_and_contexts_are_given_back() {
    for mmap in [false, true] {
        let (large, cycles): (u64, Vec<(u64, u64)>) = child::answer_of(&child::command(&mmap).output().unwrap());
        println!("mmap {mmap}: {large} bytes of weights and caches; loaded, left: {cycles:?}");
        for &(loaded, left) in &cycles {
            // What the C library keeps of small blocks, the vocabulary above all, is left.
            assert!(loaded - left >= large, "{large} {cycles:?}");
        }
        assert!(cycles[3].1 < cycles[1].1 + (4 << 20), "it does not grow: {cycles:?}");
    }
}

#[test]
fn what_waits_and_runs_finishes_first_and_a_request_loads_it_again() {
    let supervisor = one_slot();
    let before = read(supervisor.submit(greedy(words(1, 40)).with_max_tokens(20)).unwrap()).unwrap();
    let lease = supervisor.lease().unwrap();
    let running = started(&supervisor, brief().with_max_tokens(200));
    let waiting: Vec<_> = (0..3).map(|_| supervisor.submit(brief()).unwrap()).collect();
    assert!(supervisor.unload(Some(LONG)).unwrap(), "a lease does not keep it loaded");
    assert_eq!(running.filter(|event| matches!(event, Event::Token(_))).count(), 200);
    for stream in waiting {
        assert_eq!(read(stream).unwrap().tokens.len(), 8);
    }
    let health = supervisor.health().unwrap();
    assert_eq!((health.state, health.ready, health.live), (State::Unloaded, false, true));
    assert_eq!((health.load_progress, health.workers[0].ready), (0.0, false));
    assert!(supervisor.handoff().unwrap().is_some(), "it can still be bound to");
    assert!(!supervisor.wait_ready(Some(Duration::from_millis(20))).unwrap());
    assert!(supervisor.unload(Some(Duration::ZERO)).unwrap(), "it is");

    let again = read(lease.submit(greedy(words(1, 40)).with_max_tokens(20)).unwrap()).unwrap();
    assert_eq!((again.tokens, again.cached_tokens), (before.tokens, 0));
    assert_eq!(state(&supervisor), State::Ready);
    assert_eq!(supervisor.health().unwrap().workers[0].restarts, 0, "no restart");
    let requests = supervisor.metrics().unwrap().requests;
    assert_eq!((requests.accepted_total, requests.failed_total.len()), (6, 0));
}

#[test]
fn no_moment_within_the_time_leaves_all_as_it_is() {
    let supervisor = one_slot();
    let running = started(&supervisor, brief().with_max_tokens(3000));
    assert!(!supervisor.unload(Some(Duration::from_millis(100))).unwrap());
    assert_eq!(state(&supervisor), State::Ready);
    running.cancel().unwrap();
    assert_eq!(read(supervisor.submit(brief()).unwrap()).unwrap().tokens.len(), 8);
    assert_eq!(supervisor.metrics().unwrap().requests.failed_total.len(), 0);
}

#[test]
fn limits_hold_while_it_is_unloaded_and_a_cancelled_request_gives_its_place_back() {
    let supervisor = one_slot();
    assert!(supervisor.unload(Some(LONG)).unwrap());
    let late = supervisor.submit(brief().with_timeout_ms(1)).unwrap();
    let cancelled = supervisor.submit(brief()).unwrap();
    cancelled.cancel().unwrap();
    assert_eq!(read(late).unwrap_err().status, Status::DeadlineUnmet);
    assert_eq!(read(cancelled).unwrap_err().status, Status::Cancelled);
    assert!(supervisor.wait_ready(Some(LONG)).unwrap(), "they have it loaded all the same");
    assert_eq!(supervisor.health().unwrap().queue_depth, 0);
}

#[test]
fn without_requests_it_unloads_by_itself() {
    let config = SupervisorConfig::default().with_idle_unload(Duration::from_millis(300));
    let supervisor = support::start_with(&support::config(), config);
    for _ in 0..2 {
        support::eventually("it unloads", || state(&supervisor) == State::Unloaded);
        assert_eq!(read(supervisor.submit(brief()).unwrap()).unwrap().tokens.len(), 8);
    }
    let running = started(&supervisor, brief().with_max_tokens(900));
    let running = running.filter(|event| matches!(event, Event::Token(_))).count();
    assert_eq!(running, 900, "it runs longer than that");
    let error = SupervisorConfig::default().with_idle_unload(Duration::from_secs(100_000)).validate().unwrap_err();
    assert_eq!(error.to_string(), "idle_unload_ms: 100000000 is not between 0 and 86400000");
}

#[test]
fn what_cannot_be_loaded_again_has_failed_and_what_waits_is_told() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(support::model(), &path).unwrap();
    let supervisor = support::start(&support::config().with_model(&path));
    assert!(supervisor.unload(Some(LONG)).unwrap());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let failed: Vec<Failed> =
        [brief(), brief()].map(|r| supervisor.submit(r)).into_iter().flatten().map(|s| read(s).unwrap_err()).collect();
    let error = supervisor.wait_ready(Some(LONG)).unwrap_err();
    assert_eq!(error.status(), Status::StaleEngine);
    assert!(error.to_string().contains("model.gguf has changed"), "{error}");
    assert!(failed.iter().all(|f| f.status == Status::StaleEngine && f.message == failed[0].message), "{failed:?}");
    assert_eq!(state(&supervisor), State::Failed);
    for error in [supervisor.wake().unwrap_err(), supervisor.unload(None).unwrap_err()] {
        assert_eq!(error.status(), Status::PoolUnavailable);
    }
    assert_eq!(supervisor.handoff().unwrap(), None);
}

#[test]
fn a_load_after_it_can_be_cancelled_and_an_earlier_cancel_does_not_count() {
    let supervisor = one_slot();
    supervisor.cancel_load().unwrap();
    assert!(supervisor.unload(Some(LONG)).unwrap());
    supervisor.cancel_load().unwrap();
    supervisor.wake().unwrap();
    assert!(supervisor.wait_ready(Some(LONG)).unwrap());
    assert!(supervisor.unload(Some(LONG)).unwrap());
    supervisor.wake().unwrap();
    supervisor.cancel_load().unwrap();
    assert_eq!(supervisor.wait_ready(Some(LONG)).unwrap_err().status(), Status::Cancelled);
}

#[test]
fn unloaded_it_stops_and_drains_at_once_and_is_not_woken_then() {
    let supervisor = one_slot();
    assert!(supervisor.unload(None).unwrap());
    let report = supervisor.drain(Some(LONG)).unwrap();
    assert!(!report.forced);
    let stopped = one_slot();
    assert!(stopped.unload(None).unwrap());
    stopped.stop().unwrap();
    for supervisor in [&supervisor, &stopped] {
        assert_eq!(state(supervisor), State::Stopped);
        assert_eq!(supervisor.wake().unwrap_err().status(), Status::PoolUnavailable);
        assert_eq!(supervisor.unload(None).unwrap_err().status(), Status::PoolUnavailable);
    }
    let draining = one_slot();
    let lease = draining.lease().unwrap();
    assert!(draining.unload(None).unwrap());
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| draining.drain(Some(LONG)).unwrap());
        support::eventually("it drains", || state(&draining) == State::Draining);
        assert_eq!(draining.wake().unwrap_err().status(), Status::Draining);
        assert_eq!(draining.unload(None).unwrap_err().status(), Status::Draining);
        assert_eq!(read(lease.submit(brief()).unwrap()).unwrap().tokens.len(), 8, "who has a lease wakes it");
        drop(lease);
        assert!(!drain.join().unwrap().forced);
    });
}

/// Requests at every moment of unloading and loading: each ends as it should, none waits for ever.
#[test]
fn requests_at_any_moment_are_run() {
    let supervisor = support::start(&support::config().with_n_ctx(256).with_slots(2));
    let (done, cycles) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (supervisor, done) = (&supervisor, &done);
            scope.spawn(move || keep_asking(supervisor, seed, Duration::from_millis(40), done));
        }
        for _ in 0..15 {
            cycles.fetch_add(usize::from(supervisor.unload(Some(Duration::from_secs(20))).unwrap()), Ordering::Relaxed);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(cycles.into_inner() > 0, "it was unloaded at all");
    let requests = supervisor.metrics().unwrap().requests;
    assert_eq!((requests.failed_total.len(), requests.rejected_total.len()), (0, 0), "{requests:?}");
}
