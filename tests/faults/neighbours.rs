//! Whom a fault touches: those in the same worker, and nobody else.

use crate::case::{failed_with_its_worker, faulty, plain};
use crate::support::{self, read};
use llamapen::{CrashReason, Fault, Request, State, Status, Supervisor};

fn fault_is_contained(fault: Fault, reason: CrashReason, text: &str) {
    let supervisor = support::start(&support::config().with_slots(2));
    let before = read(supervisor.submit(plain()).unwrap()).unwrap();

    // Neighbours in the same worker fail with it; what waits in the queue does not.
    let neighbour = Request::prompt("a").with_ignore_eos(true).with_max_resumes(0);
    let neighbour = supervisor.submit(neighbour).unwrap();
    support::eventually("the neighbour runs", || supervisor.health().unwrap().workers[0].active == 1);
    let failing = supervisor.submit(faulty(fault)).unwrap();
    let waiting = supervisor.submit(plain()).unwrap();

    let failed = failed_with_its_worker(failing);
    assert!(failed.message.contains(text), "{failed:?}");
    failed_with_its_worker(neighbour);
    assert_eq!(read(waiting).unwrap().tokens, before.tokens, "the restarted worker computes the same");

    let health = supervisor.health().unwrap();
    assert_eq!((health.state, health.workers[0].restarts), (State::Ready, 1));
    assert!(health.last_error.unwrap().contains(text));
    assert_eq!(last_error(&supervisor), Status::WorkerReset);
    let crash = health.workers[0].last_crash.as_ref().unwrap();
    assert_eq!(crash.reason, reason);
    assert!(crash.message.contains(text) && crash.at_ms <= supervisor.metrics().unwrap().uptime_ms, "{crash:?}");
    assert_eq!(crashes(&supervisor), [(reason, 1)]);
}

/// Those that happened, the same in both forms of the metrics.
fn crashes(supervisor: &Supervisor) -> Vec<(CrashReason, u64)> {
    let metrics = supervisor.metrics().unwrap();
    let counts = &metrics.workers[0].crashes_total;
    let samples = support::prometheus::parse(&metrics.to_prometheus());
    for (name, count) in counts {
        let sample =
            samples.iter().find(|s| s.name == "llamapen_crashes_total" && s.labels["reason"] == *name).unwrap();
        assert_eq!((sample.labels["worker"].as_str(), sample.value), ("0", *count as f64));
    }
    let count = |reason: &CrashReason| (*reason, counts[reason.name()]);
    CrashReason::ALL.iter().map(count).filter(|(_, count)| *count > 0).collect()
}

/// The status of the last error, the same in all that tells of it. In Prometheus' labels there is no text, which would
/// make a new series each time.
fn last_error(supervisor: &Supervisor) -> Status {
    let (health, metrics) = (supervisor.health().unwrap(), supervisor.metrics().unwrap());
    let status = health.last_error_status.unwrap();
    assert_eq!((metrics.last_error_status, &metrics.last_error), (Some(status), &health.last_error));
    let samples = support::prometheus::parse(&metrics.to_prometheus());
    let of_errors: Vec<_> = samples.iter().filter(|sample| sample.name == "llamapen_last_error").collect();
    let [sample] = of_errors[..] else { panic!("{of_errors:?}") };
    assert_eq!((sample.labels["status"].as_str(), sample.value), (status.name(), 1.0));
    let message = health.last_error.unwrap();
    assert!(samples.iter().flat_map(|sample| sample.labels.values()).all(|label| !label.contains(&message)));
    status
}

#[test]
fn a_panic_fails_its_requests_and_restarts_the_worker() {
    fault_is_contained(Fault::Panic, CrashReason::Panic, "injected panic");
}

#[test]
fn a_cpp_exception_fails_its_requests_and_restarts_the_worker() {
    fault_is_contained(Fault::CppException, CrashReason::CppException, "injected C++ exception");
}

/// A worker that fails while another goes on: the other one's requests are not touched.
#[test]
fn a_fault_in_one_worker_leaves_the_other_alone() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let supervisor = support::start(&support::config().with_workers(2));
    support::eventually("both ready", || supervisor.health().unwrap().state == State::Ready);
    let long = Request::prompt("One, two,").with_temperature(0.0).with_max_tokens(60).with_ignore_eos(true);
    let reference = read(supervisor.submit(long.clone()).unwrap()).unwrap();
    let survivor = supervisor.submit(long).unwrap();
    support::eventually("it runs", || supervisor.health().unwrap().workers.iter().any(|w| w.active == 1));
    failed_with_its_worker(supervisor.submit(faulty(Fault::Panic)).unwrap());
    assert_eq!(read(survivor).unwrap().tokens, reference.tokens);
}
