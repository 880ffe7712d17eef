//! Another engine in the place of the one that runs: no request is lost, and whatever goes wrong, one of the two runs.

mod support;

use llamapen::{
    EngineConfig, Error, Event, HandoffRecord, Lease, Next, PreparedEngine, ReloadReport, Request, State, Status,
    Supervisor, SupervisorConfig, TokenStream, prepare,
};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{LONG, brief, greedy, keep_asking, read, words};
use tempfile::TempDir;

fn old_config() -> EngineConfig {
    support::config().with_n_ctx(4096).with_slots(1)
}

fn start() -> Supervisor {
    // For all threads, before any of them reloads: a place in the code that is first passed where nobody listens stays mute.
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| tracing::subscriber::set_global_default(OnReload).unwrap());
    support::start(&old_config())
}

/// The same model in another shape.
fn other() -> PreparedEngine {
    prepare(&support::config().with_n_ctx(512).with_slots(2)).unwrap()
}

/// One that fits into the memory that it may have, but not beside the old one.
fn too_large_beside(config: EngineConfig) -> PreparedEngine {
    let needs = prepare(&config).unwrap().memory().host().resident();
    prepare(&config.with_memory_limit(needs)).unwrap()
}

fn other_alone() -> PreparedEngine {
    too_large_beside(support::config().with_n_ctx(512).with_slots(2))
}

/// A copy of the model, to be damaged.
fn copy() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("copy.gguf");
    std::fs::copy(support::model(), &path).unwrap();
    (folder, path)
}

fn damage(path: &PathBuf) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
}

fn started(supervisor: &Supervisor, request: Request) -> TokenStream {
    let running = supervisor.submit(request).unwrap();
    let Next::Event(Event::Started(_)) = running.next_event(Some(LONG)).unwrap() else { panic!("it starts") };
    running
}

fn tokens(stream: TokenStream) -> usize {
    let events: Vec<_> = stream.collect();
    assert!(matches!(events.last(), Some(Event::Finished(_))), "{:?}", events.last());
    events.iter().filter(|event| matches!(event, Event::Token(_))).count()
}

fn state(supervisor: &Supervisor) -> State {
    supervisor.health().unwrap().state
}

fn reloads(supervisor: &Supervisor) {
    support::eventually("it reloads", || supervisor.health().unwrap().reloading);
}

/// What runs is the old engine, as it was.
fn is_old(supervisor: &Supervisor) {
    assert_eq!((supervisor.engine().slots(), state(supervisor)), (1, State::Ready));
    assert!(!supervisor.health().unwrap().reloading);
    let answer = read(supervisor.submit(greedy(words(1, 600)).with_max_tokens(8)).unwrap()).unwrap();
    assert_eq!(answer.tokens.len(), 8, "more than the other one's context holds");
    assert!(supervisor.handoff().unwrap().is_some_and(|record| record.slots == 1));
}

fn is_new(supervisor: &Supervisor, report: ReloadReport, beside: bool) {
    assert_eq!((report.changed, report.beside), (true, beside), "{report:?}");
    assert_eq!((supervisor.engine().slots(), state(supervisor)), (2, State::Ready));
    assert!(!supervisor.health().unwrap().reloading);
    let error = supervisor.submit(greedy(words(1, 600)).with_max_tokens(8)).err().unwrap();
    assert_eq!(error.status(), Status::ContextOverflow, "the new engine's rules");
    assert_eq!(tokens(supervisor.submit(brief()).unwrap()), 8);
    assert!(supervisor.handoff().unwrap().is_some_and(|record| record.slots == 2));
}

#[test]
fn beside_the_old_one_which_finishes_what_it_has() {
    let supervisor = start();
    let lease = supervisor.lease().unwrap();
    let running = started(&supervisor, brief().with_max_tokens(300));
    let waiting: Vec<_> =
        (0..3).map(|_| supervisor.submit(greedy(words(1, 600)).with_max_tokens(8)).unwrap()).collect();
    let report = supervisor.reload(other(), Some(LONG)).unwrap();
    assert_eq!(report.requests_failed, 0);
    assert_eq!(tokens(running), 300);
    waiting.into_iter().for_each(|stream| assert_eq!(tokens(stream), 8));
    is_new(&supervisor, report, true);
    assert_eq!(supervisor.health().unwrap().leases, 1, "a lease is the supervisor's");
    assert_eq!(tokens(lease.submit(brief()).unwrap()), 8);
    let metrics = supervisor.metrics().unwrap();
    assert_eq!((metrics.requests.accepted_total, metrics.requests.rejected_total["CONTEXT_OVERFLOW"]), (6, 1));
    assert_eq!(metrics.requests.finished_total["length"], 6, "counted over both");
    assert_eq!((metrics.workers[0].tokens_out_total, metrics.workers[0].slots), (16, 2), "the new one's");
    drop(lease);
    assert!(!supervisor.drain(Some(LONG)).unwrap().forced, "it drains as any");
}

/// Requests go to the new engine while the old one still runs one.
#[test]
fn new_requests_do_not_wait_for_the_old_ones() {
    let supervisor = start();
    let running = started(&supervisor, brief().with_max_tokens(4000));
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| supervisor.reload(other(), Some(LONG)).unwrap());
        support::eventually("the new one is there", || supervisor.engine().slots() == 2);
        assert_eq!(state(&supervisor), State::Ready);
        assert_eq!(tokens(supervisor.submit(brief()).unwrap()), 8);
        assert!(supervisor.health().unwrap().reloading, "the old one has not finished");
        running.cancel().unwrap();
        is_new(&supervisor, reload.join().unwrap(), true);
    });
}

#[test]
fn without_memory_for_both_after_the_old_one_and_what_comes_meanwhile_waits() {
    let supervisor = start();
    let running = started(&supervisor, brief().with_max_tokens(300));
    let waiting = supervisor.submit(brief()).unwrap();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| supervisor.reload(other_alone(), Some(LONG)).unwrap());
        support::eventually("requests wait for the new one", || supervisor.engine().slots() == 2);
        let health = supervisor.health().unwrap();
        assert_eq!((health.state, health.ready, health.reloading), (State::Starting, false, true));
        assert_eq!(supervisor.handoff().unwrap(), None);
        let late = supervisor.submit(brief().with_timeout_ms(1)).unwrap();
        let meanwhile: Vec<_> = (0..3).map(|_| supervisor.submit(brief()).unwrap()).collect();
        let error = supervisor.submit(greedy(words(1, 600)).with_max_tokens(8)).err().unwrap();
        assert_eq!(error.status(), Status::ContextOverflow);
        assert!(supervisor.wait_ready(Some(LONG)).unwrap());
        let report = reload.join().unwrap();
        assert_eq!((tokens(running), tokens(waiting), report.requests_failed), (300, 8, 0));
        meanwhile.into_iter().for_each(|stream| assert_eq!(tokens(stream), 8));
        assert_eq!(read(late).unwrap_err().status, Status::DeadlineUnmet, "limits hold");
        is_new(&supervisor, report, false);
    });
}

/// Whoever comes up has to run what waits.
#[test]
fn meanwhile_requests_must_fit_both_engines() {
    let supervisor = support::start(&support::config().with_n_ctx(512).with_slots(1));
    let running = started(&supervisor, brief().with_max_tokens(u32::MAX).with_context_shift(0));
    let long = || supervisor.submit(greedy(words(1, 600)).with_max_tokens(8));
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| supervisor.reload(too_large_beside(old_config()), None).unwrap());
        support::eventually("requests wait for the new one", || supervisor.engine().n_ctx() == 4096);
        let refused = long().err().map(|error| error.status());
        running.cancel().unwrap();
        assert!(!reload.join().unwrap().beside);
        assert_eq!(refused, Some(Status::ContextOverflow), "the old one could not run it");
    });
    assert_eq!(tokens(long().unwrap()), 8);
}

#[test]
fn the_same_plan_changes_nothing() {
    let supervisor = start();
    let running = started(&supervisor, brief().with_max_tokens(4000));
    let before = supervisor.handoff().unwrap();
    let report = supervisor.reload(prepare(&old_config()).unwrap(), None).unwrap();
    assert_eq!((report.changed, report.requests_failed), (false, 0));
    assert_eq!(supervisor.handoff().unwrap(), before);
    assert!(matches!(running.next_event(Some(LONG)).unwrap(), Next::Event(Event::Token(_))), "it runs on");
}

#[test]
fn another_model_with_another_vocabulary_and_name() {
    let folder = TempDir::new().unwrap();
    let config = SupervisorConfig::default().with_handoff_dir(folder.path());
    let supervisor = support::start_with(&old_config().with_pool_id("old"), config);
    let model = support::synthetic().join("llama.gguf");
    let names = || -> Vec<_> { std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name()).collect() };
    assert_eq!(names(), ["llamapen-old-0.json"]);
    for config in [EngineConfig::new(&model).with_pool_id("new"), old_config().with_pool_id("new")] {
        let engine = prepare(&config.with_threads(1).with_n_ctx(256)).unwrap();
        let n_vocab = engine.info().n_vocab as i32;
        assert!(supervisor.reload(engine, Some(LONG)).unwrap().changed);
        assert_eq!(tokens(supervisor.submit(greedy([n_vocab - 1]).with_max_tokens(4)).unwrap()), 4);
        let refused = supervisor.submit(greedy([n_vocab])).err().unwrap();
        assert_eq!(refused.status(), Status::InvalidParams, "{refused}");
        assert_eq!(names(), ["llamapen-new-0.json"], "the old one's is gone");
        let text = std::fs::read_to_string(folder.path().join("llamapen-new-0.json")).unwrap();
        assert_eq!(Some(serde_json::from_str::<HandoffRecord>(&text).unwrap()), supervisor.handoff().unwrap());
        assert_eq!(supervisor.metrics().unwrap().pool_id, "new");
    }
    supervisor.stop().unwrap();
    assert_eq!(names().len(), 0);
}

#[test]
fn a_new_one_that_fails_beside_the_old_one_changes_nothing() {
    let supervisor = start();
    let (_folder, path) = copy();
    // Damaged once it has been looked at: between the check of `reload` and the load.
    let broken = prepare(&support::config().with_model(&path).with_slots(2)).unwrap();
    let running = started(&supervisor, brief().with_max_tokens(600));
    ON_RELOAD.set(Some(Box::new(move || damage(&path))));
    let error = supervisor.reload(broken, Some(LONG)).unwrap_err();
    assert_eq!(error.status(), Status::LoadFailed);
    assert!(error.to_string().contains("the old engine goes on as before") && error.to_string().contains("copy.gguf"));
    assert_eq!(tokens(running), 600);

    let late = supervisor.reload(other(), Some(Duration::ZERO)).unwrap_err();
    assert_eq!((late.status(), late.retriable()), (Status::PoolUnready, true));
    assert!(late.to_string().contains("not ready within 0 ms"), "{late}");
    is_old(&supervisor);
    assert_eq!(supervisor.metrics().unwrap().requests.failed_total.len(), 0);
}

#[test]
fn a_new_one_that_fails_after_the_old_one_brings_it_back_with_what_waits() {
    let supervisor = start();
    for late in [false, true] {
        let (_folder, path) = copy();
        let broken = too_large_beside(support::config().with_model(&path).with_pool_id("broken").with_slots(2));
        let running = started(&supervisor, brief().with_max_tokens(300));
        let timeout = if late { Duration::ZERO } else { LONG };
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| supervisor.reload(broken, Some(timeout)).unwrap_err());
            let (mut waiting, mut cancelled) = (vec![], None);
            if !late {
                support::eventually("requests wait for the new one", || supervisor.engine().slots() == 2);
                waiting = (0..4).map(|_| supervisor.submit(brief()).unwrap()).collect();
                cancelled = Some(supervisor.submit(brief()).unwrap());
                let limited = supervisor.submit(brief().with_timeout_ms(120_000)).unwrap();
                waiting.push(limited);
                damage(&path);
            }
            let ready = scope.spawn(|| supervisor.wait_ready(Some(LONG)).unwrap());
            let error = reload.join().unwrap();
            assert!(error.to_string().contains("the old engine runs again"), "{error}");
            assert_eq!(error.status(), if late { Status::PoolUnready } else { Status::StaleEngine });
            assert!(ready.join().unwrap(), "who waits for it hears nothing of the failure");
            if let Some(cancelled) = cancelled {
                cancelled.cancel().unwrap();
            }
            for stream in waiting {
                let mut stream: TokenStream = stream;
                let events: Vec<_> = stream.by_ref().collect();
                assert!(matches!(events.last(), Some(Event::Finished(_))), "{:?}", events.last());
                let record = stream.run_record().unwrap().unwrap();
                assert_ne!(record.pool_id, "broken", "it says who ran it");
            }
        });
        let status = match running.last() {
            Some(Event::Failed(failed)) => Some(failed.status),
            _ => None,
        };
        assert_eq!(status, late.then_some(Status::Draining), "the old one had that long to finish");
        is_old(&supervisor);
    }
    let requests = supervisor.metrics().unwrap().requests;
    assert_eq!(requests.failed_total.into_iter().collect::<Vec<_>>(), [("DRAINING", 1)]);
}

#[test]
fn what_the_old_one_has_at_the_deadline_ends() {
    for (engine, beside) in [(other(), true), (other_alone(), false)] {
        let supervisor = start();
        let running = started(&supervisor, brief().with_max_tokens(u32::MAX).with_context_shift(0));
        let waiting = supervisor.submit(brief()).unwrap();
        // Long enough for the new one to be ready: it has as much time again.
        let report = supervisor.reload(engine, Some(Duration::from_secs(10))).unwrap();
        assert_eq!(report.requests_failed, 2);
        let last = running.last();
        let Some(Event::Failed(failed)) = last else { panic!("{last:?}") };
        for failed in [failed, read(waiting).unwrap_err()] {
            assert_eq!((failed.status, failed.retriable), (Status::Draining, true));
            assert!(failed.message.contains("reloaded"), "{failed:?}");
        }
        is_new(&supervisor, report, beside);
    }
}

#[test]
fn one_reload_at_a_time_and_cancelling_its_load_keeps_the_old_one() {
    let supervisor = start();
    let running = started(&supervisor, brief().with_max_tokens(4000));
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| supervisor.reload(other(), None).unwrap());
        reloads(&supervisor);
        let error = supervisor.reload(other(), None).unwrap_err();
        assert_eq!(error.status(), Status::Busy);
        assert!(error.to_string().contains("another thread reloads"), "{error}");
        running.cancel().unwrap();
        is_new(&supervisor, reload.join().unwrap(), true);
    });
    // Without a mapping, it takes a while.
    let slow = || prepare(&support::config().with_n_ctx(768).with_mmap(false)).unwrap();
    for (engine, now) in [
        (slow(), "goes on as before"),
        (too_large_beside(support::config().with_n_ctx(768).with_mmap(false)), "runs again"),
    ] {
        let error = cancelled_reload(&supervisor, engine).unwrap_err();
        assert_eq!(error.status(), Status::Cancelled, "{error}");
        assert!(error.to_string().contains(now), "{error}");
        assert!(supervisor.wait_ready(Some(Duration::ZERO)).unwrap(), "it is ready when that returns");
        assert_eq!(supervisor.engine().n_ctx(), 512);
    }
}

#[test]
fn stop_and_drain_end_it_in_order() {
    for alone in [false, true] {
        for stop in [false, true] {
            let supervisor = start();
            let running = started(&supervisor, brief().with_max_tokens(400));
            let engine = if alone { other_alone() } else { other() };
            std::thread::scope(|scope| {
                let reload = scope.spawn(|| supervisor.reload(engine, None));
                reloads(&supervisor);
                match stop {
                    true => supervisor.stop().unwrap(),
                    false => drop(supervisor.drain(Some(LONG)).unwrap()),
                }
                if let Err(error) = reload.join().unwrap() {
                    let status = error.status();
                    assert!(matches!(status, Status::Draining | Status::PoolUnavailable), "{alone} {stop}: {error}");
                }
            });
            assert_eq!(state(&supervisor), State::Stopped);
            let last = running.last();
            assert!(matches!(last, Some(Event::Finished(_))) || stop, "{last:?}");
            let after = supervisor.reload(other(), None).unwrap_err();
            assert_eq!(after.status(), Status::PoolUnavailable);
            assert_eq!(supervisor.handoff().unwrap(), None);
        }
    }
    let supervisor = start();
    let lease: Lease = supervisor.lease().unwrap();
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| supervisor.drain(Some(LONG)).unwrap());
        support::eventually("it drains", || state(&supervisor) == State::Draining);
        let Err(Error::Rejected(rejected)) = supervisor.reload(other(), None) else { panic!("it must be refused") };
        assert_eq!((rejected.status, rejected.policy), (Status::Draining, "drain"));
        drop(lease);
        drain.join().unwrap();
    });
}

#[test]
fn an_engine_that_does_not_fit_any_more_is_refused_and_an_unloaded_one_is_replaced() {
    let supervisor = start();
    let (_folder, path) = copy();
    let stale = prepare(&support::config().with_model(&path)).unwrap();
    damage(&path);
    assert_eq!(supervisor.reload(stale, None).unwrap_err().status(), Status::StaleEngine);
    is_old(&supervisor);
    for (engine, beside) in [(other(), true), (other_alone(), false)] {
        assert!(supervisor.unload(Some(LONG)).unwrap());
        let report = supervisor.reload(engine, Some(LONG)).unwrap();
        is_new(&supervisor, report, beside);
        assert!(supervisor.reload(prepare(&old_config()).unwrap(), Some(LONG)).unwrap().changed);
    }
}

/// Requests at every moment of reloads of both kinds, some of which fail: each is run by one of the engines.
#[test]
fn requests_at_any_moment_are_run() {
    let supervisor = support::start(&support::config().with_n_ctx(256).with_slots(1));
    let (done, threads) = (AtomicBool::new(false), support::threads());
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (supervisor, done) = (&supervisor, &done);
            scope.spawn(move || keep_asking(supervisor, seed, Duration::from_millis(20), done));
        }
        let config = |n_ctx| support::config().with_n_ctx(n_ctx).with_slots(2);
        let beside = |n_ctx| prepare(&config(n_ctx)).unwrap();
        let after = |n_ctx| {
            let needs = prepare(&config(n_ctx)).unwrap().memory().host().resident();
            prepare(&config(n_ctx).with_memory_limit(needs)).unwrap()
        };
        for round in 0..3 {
            assert!(supervisor.reload(beside(256 + round), Some(LONG)).unwrap().beside);
            assert!(!supervisor.reload(after(300 + round), Some(LONG)).unwrap().beside);
            for engine in [beside(400), after(400)] {
                // Perhaps it was ready before that.
                let done = cancelled_reload(&supervisor, engine);
                let error = done.err().map(|error| error.status());
                assert!(matches!(error, None | Some(Status::Cancelled)), "{error:?}");
                assert!(supervisor.wait_ready(Some(LONG)).unwrap());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let requests = supervisor.metrics().unwrap().requests;
    assert_eq!((requests.failed_total.len(), requests.rejected_total.len()), (0, 0), "{requests:?}");
    drop(supervisor);
    assert!(support::threads() <= threads);
}

/// A reload whose load is cancelled.
fn cancelled_reload(supervisor: &Supervisor, engine: PreparedEngine) -> Result<ReloadReport, Error> {
    let n_ctx = engine.n_ctx();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| supervisor.reload(engine, None));
        while !reload.is_finished() {
            // While the old one runs, that is the new one's.
            if state(supervisor) == State::Ready {
                supervisor.cancel_load().unwrap();
            }
            // And here, too; but not the old one's, which is loaded again afterwards.
            if supervisor.engine().n_ctx() == n_ctx {
                supervisor.cancel_load().unwrap();
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        reload.join().unwrap()
    })
}

thread_local! {
    /// Called once, when a reload by this thread has checked the new engine and not begun to load it.
    static ON_RELOAD: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

struct OnReload;

impl tracing::Subscriber for OnReload {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(bool);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 |= field.name() == "message" && format!("{value:?}") == "reload begins";
            }
        }
        let mut message = Message(false);
        event.record(&mut message);
        if message.0
            && let Some(call) = ON_RELOAD.take()
        {
            call();
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
