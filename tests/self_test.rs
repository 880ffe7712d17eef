//! The self-test of a supervisor: what it finds, and that it finds what is wrong.

mod support;

use llamapen::{Request, SelfTestReport, SelfTestStatus, Supervisor};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{LONG, child, read};

const STEPS: [&str; 5] = ["load", "decode", "cancel", "log", "metrics"];

/// Status and message of each step, which come in this order.
fn steps(report: &SelfTestReport) -> [(SelfTestStatus, &str); 5] {
    println!("{report}");
    assert_eq!(report.steps.iter().map(|step| step.name).collect::<Vec<_>>(), STEPS);
    STEPS.map(|name| report.get(name).map(|step| (step.status, step.message.as_str())).unwrap())
}

fn statuses(report: &SelfTestReport) -> [SelfTestStatus; 5] {
    steps(report).map(|(status, _)| status)
}

/// The load failed, and with it all but the log.
#[cfg(feature = "fault-injection")]
fn fails_to_load(report: &SelfTestReport, why: &str) {
    use SelfTestStatus::{Fail, Pass, Skip};
    assert!(!report.passed);
    assert_eq!(statuses(report), [Fail, Skip, Skip, Pass, Skip]);
    let [(_, load), (_, decode), ..] = steps(report);
    assert!(load.contains(why) && decode == "not tried, because load failed", "{report}");
}

fn passes(report: &SelfTestReport) {
    assert!(report.passed && statuses(report) == [SelfTestStatus::Pass; 5], "{report}");
}

#[test]
fn a_supervisor_that_is_well_passes_and_counts_exactly() {
    let supervisor = Supervisor::start(llamapen::prepare(&support::config()).unwrap(), Default::default()).unwrap();
    // The first one waits for the load; the second finds what the first has counted.
    for round in 1..=2 {
        let report = supervisor.self_test(Some(LONG)).unwrap();
        passes(&report);
        let [(_, load), (_, decode), _, (_, log), (_, metrics)] = steps(&report);
        assert_eq!((load, log), ("1 of 1 workers ready", "no subscriber"));
        assert!(decode.contains("49152 logits, all of them finite"), "{decode}");
        let exactly = "exactly what was done: 2 requests accepted, 1 finished, 1 cancelled, 0 failed, 2 tokens in,";
        assert!(metrics.starts_with(exactly), "{metrics}");
        let counts = supervisor.metrics().unwrap();
        assert_eq!((counts.requests.accepted_total, counts.requests.cancelled_total), (2 * round, round));
        assert_eq!(counts.workers[0].active_slots, 0, "the slot is free");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["passed"], &json["steps"][1]["status"]), (&true.into(), &"pass".into()));
    }
}

#[test]
fn beside_other_requests_it_passes_and_disturbs_nobody() {
    let supervisor = support::start(&support::config().with_slots(2));
    let long = support::greedy(support::words(1, 8)).with_max_tokens(200);
    let before = read(supervisor.submit(long.clone()).unwrap()).unwrap();
    let running = supervisor.submit(long).unwrap();
    support::eventually("it runs", || supervisor.health().unwrap().workers[0].active == 1);
    let report = supervisor.self_test(None).unwrap();
    passes(&report);
    let [.., (_, metrics)] = steps(&report);
    assert!(metrics.starts_with("at least what was done"), "{metrics}");
    assert_eq!(read(running).unwrap(), before);
}

#[test]
fn without_a_free_slot_the_decode_fails_in_time_and_leaves_nothing_behind() {
    let supervisor = support::start(&support::config().with_slots(1));
    let running = supervisor.submit(Request::prompt("a").with_ignore_eos(true)).unwrap();
    support::eventually("it runs", || supervisor.health().unwrap().workers[0].active == 1);
    let report = supervisor.self_test(Some(Duration::from_millis(300))).unwrap();
    use SelfTestStatus::{Fail, Pass, Skip};
    assert_eq!(statuses(&report), [Pass, Fail, Skip, Pass, Skip]);
    let [_, (_, decode), ..] = steps(&report);
    assert!(decode.contains("DEADLINE_UNMET") || decode.contains("no answer within 300 ms"), "{decode}");
    let health = supervisor.health().unwrap();
    assert_eq!((health.queue_depth, health.workers[0].active), (0, 1), "its request is gone, the other one runs");
    drop(running);
}

#[test]
fn a_stopped_supervisor_fails_at_once() {
    let supervisor = support::start(&support::config());
    supervisor.stop().unwrap();
    let began = Instant::now();
    let report = supervisor.self_test(None).unwrap();
    use SelfTestStatus::{Fail, Skip};
    assert_eq!(statuses(&report), [Fail, Skip, Skip, Fail, Skip]);
    assert!(report.get("load").unwrap().message.contains("it was stopped"), "{report}");
    assert!(began.elapsed() < LONG);
}

/// A worker that failed, and whose restart failed, waits for the next one.
#[cfg(feature = "fault-injection")]
#[test]
fn in_backoff_the_report_says_so_and_why() {
    use llamapen::{Fault, StartFault, State, Status, SupervisorConfig};
    let hour = Duration::from_secs(3600);
    let config = SupervisorConfig::default().with_backoff(hour, hour).with_fault(StartFault::RestartMemory);
    let supervisor = support::start_with(&support::config(), config);
    let faulty = support::greedy([1]).with_max_resumes(0).with_fault(Fault::Panic);
    assert_eq!(read(supervisor.submit(faulty).unwrap()).unwrap_err().status, Status::WorkerReset);
    support::eventually("its restart failed", || {
        let health = supervisor.health().unwrap();
        health.state == State::Backoff && health.last_error_status == Some(Status::OutOfMemory)
    });
    let report = supervisor.self_test(Some(Duration::from_millis(200))).unwrap();
    fails_to_load(
        &report,
        "not ready within 200 ms, the time for the whole self-test: state BACKOFF; last error: worker 0",
    );
}

/// The subscriber of a process is for all of it: each in a child.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Subscriber {
    Reads,
    Filters,
    Panics,
}

#[test]
fn a_line_comes_to_the_subscriber() {
    for (subscriber, passed, says) in [
        (Subscriber::Reads, true, "a subscriber read a line"),
        (Subscriber::Filters, true, "a subscriber, which takes no lines of level INFO of llamapen"),
        (Subscriber::Panics, false, "the subscriber panicked when it was given a line"),
    ] {
        let output = child::command(&subscriber).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answer = text.lines().find_map(|line| line.strip_prefix("the child answers: ")).unwrap_or_else(|| {
            panic!("{}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        });
        let (found, message): (bool, String) = serde_json::from_str(answer).unwrap();
        assert_eq!((found, message.as_str()), (passed, says));
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Panics on the line of the self-test only.
struct Panics;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Panics {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        assert!(event.metadata().fields().field("probe").is_none(), "a subscriber that breaks");
    }
}

#[test]
#[ignore = "run by another test, in a child process"]
fn child() {
    use tracing_subscriber::prelude::*;
    let (asked, sink): (Subscriber, Sink) = (child::asked(), Sink::default());
    let write = sink.clone();
    let lines = tracing_subscriber::fmt().with_writer(move || write.clone());
    match asked {
        Subscriber::Reads => lines.init(),
        Subscriber::Filters => lines.with_max_level(tracing::Level::ERROR).init(),
        Subscriber::Panics => tracing_subscriber::registry().with(Panics).init(),
    }
    let supervisor = support::start(&support::config());
    let report = supervisor.self_test(Some(LONG)).unwrap();
    let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    assert_eq!(written.contains("a line of the self-test"), matches!(asked, Subscriber::Reads), "{written}");
    let log = report.get("log").unwrap();
    child::answer(&(report.passed, &log.message));
}
