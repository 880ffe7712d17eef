//! What is counted, logged and recorded: it adds up, can be read by others, and holds no text of prompt or answer.

mod support;

use llamapen::{Message, Metrics, Request, Status, Supervisor, SupervisorConfig, TokenStream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use support::prometheus::{self, Sample};
use support::read;
use tracing_subscriber::layer::SubscriberExt;

/// In prompts only, and nowhere else on this machine.
const MARKER: &str = "Qx7Marker";

fn brief() -> Request {
    Request::prompt("Once").with_max_tokens(4).with_ignore_eos(true)
}

fn endless() -> Request {
    Request::prompt("Once").with_ignore_eos(true)
}

fn idle(supervisor: &Supervisor) {
    support::eventually("idle", || {
        let health = supervisor.health().unwrap();
        health.queue_depth == 0 && health.workers.iter().all(|w| w.active == 0)
    });
}

/// Reads to the end, and gives how many tokens came in and out by its record.
fn tokens(stream: &mut TokenStream) -> (u64, u64) {
    stream.by_ref().for_each(drop);
    let usage = stream.run_record().unwrap().expect("it has ended").usage;
    (usage.prompt_tokens.into(), usage.completion_tokens.into())
}

/// Requests that end in all ways. Gives their tokens by their records.
fn mixed_load(supervisor: &Supervisor) -> (u64, u64) {
    let mut streams = Vec::new();
    let running = supervisor.submit(endless()).unwrap();
    support::eventually("it runs", || supervisor.health().unwrap().workers[0].active == 1);
    // The only slot is taken: these three wait, and one more is refused.
    for _ in 0..2 {
        streams.push(supervisor.submit(brief()).unwrap());
    }
    let mut late = supervisor.submit(brief().with_timeout_ms(50)).unwrap();
    assert_eq!(supervisor.submit(brief()).err().unwrap().status(), Status::QueueFull);
    assert_eq!(supervisor.submit(brief().with_top_p(2.0)).err().unwrap().status(), Status::InvalidParams);
    assert_eq!(supervisor.submit(brief().with_top_p(3.0)).err().unwrap().status(), Status::InvalidParams);
    assert_eq!(tokens(&mut late), (0, 0));
    running.cancel().unwrap();
    streams.push(running);
    // Too long, but known only once it is tokenised.
    streams.push(supervisor.submit(Request::prompt("a b c d ".repeat(500))).unwrap());
    let mut sums = streams.iter_mut().map(tokens).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let timed_out = tokens(&mut supervisor.submit(endless().with_timeout_ms(300)).unwrap());
    sums = (sums.0 + timed_out.0, sums.1 + timed_out.1);
    // Dropped without being read.
    drop(supervisor.submit(endless()).unwrap());
    idle(supervisor);
    sums
}

fn one_slot() -> Supervisor {
    support::start_with(&support::config().with_slots(1), SupervisorConfig::default().with_queue_capacity(3))
}

#[test]
fn counts_add_up_after_a_mixed_load() {
    let supervisor = one_slot();
    let before = supervisor.metrics().unwrap();
    assert_eq!((before.requests.accepted_total, before.workers[0].tokens_in_total), (0, 0));
    let (tokens_in, tokens_out) = mixed_load(&supervisor);

    let metrics = supervisor.metrics().unwrap();
    let requests = &metrics.requests;
    assert_eq!(requests.accepted_total, 7);
    assert_eq!(requests.rejected_total, BTreeMap::from([("INVALID_PARAMS", 2), ("QUEUE_FULL", 1)]));
    assert_eq!(requests.finished_total.iter().filter(|(_, n)| **n > 0).collect::<Vec<_>>(), [(&"length", &2)]);
    let failed = [("CONTEXT_OVERFLOW", 1), ("DEADLINE_UNMET", 1), ("DECODE_TIMEOUT", 1)];
    assert_eq!(requests.failed_total, BTreeMap::from(failed));
    assert_eq!(requests.cancelled_total, 2);
    let ended = requests.finished_total.values().chain(requests.failed_total.values()).sum::<u64>();
    assert_eq!(requests.accepted_total, ended + requests.cancelled_total);
    assert_eq!(metrics.queue_depth, 0);
    assert!(metrics.load_ms.unwrap() > 0.0);

    let [worker] = &metrics.workers[..] else { panic!("one worker") };
    assert!(worker.ready && worker.memory_bytes > 0);
    assert_eq!((worker.active_slots, worker.slots, worker.restart_count, worker.backoff_ms), (0, 1, 0, 0));
    // The dropped one has no record to compare with, and may have come as far as a few tokens.
    assert!(worker.tokens_out_total >= tokens_out && tokens_out > 8, "{worker:?}");
    assert!((tokens_in..=tokens_in + 4).contains(&worker.tokens_in_total) && tokens_in > 3, "{worker:?}");
    let (first, next) = (&worker.latency_first_token_ms, &worker.latency_inter_token_ms);
    assert_eq!(first.count + next.count, worker.tokens_out_total);
    assert!((3..=5).contains(&first.count), "two finished, one timed out, two were cancelled: {first:?}");
    assert_eq!(worker.latency_decode_ms.count, 2, "those that finished");
    assert!(worker.latency_queue_ms.count >= first.count);
    let (batches, calls) = (&worker.decode_batch_tokens, &worker.decode_call_ms);
    assert_eq!(batches.count, calls.count);
    assert!(batches.sum >= (worker.tokens_out_total - first.count) as f64 && batches.count > 0, "{batches:?}");
    for histogram in [first, next, batches, calls] {
        assert_eq!(histogram.counts.iter().sum::<u64>(), histogram.count);
        assert!(histogram.sum > 0.0 && histogram.counts.len() == histogram.bounds.len() + 1);
    }
}

/// A micro-batch of a long prompt takes far longer than a snapshot: one that waited for it could not be taken often.
#[test]
fn metrics_wait_for_no_decode() {
    let supervisor = support::start(&support::config().with_slots(1));
    let stream = supervisor.submit(Request::tokens(vec![5; 1000]).with_max_tokens(1).with_ignore_eos(true)).unwrap();
    let mut snapshots = 0;
    while supervisor.metrics().unwrap().workers[0].latency_first_token_ms.count == 0 {
        snapshots += 1;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // Two micro-batches.
    assert!(snapshots > 50, "only {snapshots} snapshots while the prompt was processed");
    read(stream).unwrap();
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits =
        |s: &&Sample| s.name == name && labels.iter().all(|(l, v)| s.labels.get(*l).is_some_and(|have| have == v));
    let found: Vec<_> = samples.iter().filter(fits).collect();
    let [one] = found[..] else { panic!("{name} {labels:?}: {found:?}") };
    one.value
}

#[test]
fn prometheus_reads_the_same_numbers() {
    // A name that needs escaping, in the label of every sample.
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("odd \"name\\ of a model.gguf");
    std::fs::copy(support::model(), &path).unwrap();
    let supervisor = support::start(&support::config().with_model(&path));
    assert!(supervisor.engine().model_id().contains('"'), "{}", supervisor.engine().model_id());
    read(supervisor.submit(brief()).unwrap()).unwrap();
    assert!(supervisor.submit(brief().with_top_p(2.0)).is_err());
    idle(&supervisor);

    let metrics: Metrics = supervisor.metrics().unwrap();
    let samples = prometheus::parse(&metrics.to_prometheus());
    let engine = supervisor.engine();
    for sample in &samples {
        assert_eq!(sample.labels["model_id"], engine.model_id());
        assert_eq!(sample.labels["pool_id"], engine.pool_id());
        assert_eq!(sample.labels["engine_version"], engine.engine_version());
        assert_eq!(sample.labels["device_mask"], "none");
    }
    assert!(samples.iter().all(|sample| sample.name != "llamapen_last_error"), "nothing went wrong");
    let value = |name, labels: &[_]| value(&samples, name, labels);
    assert_eq!(value("llamapen_requests_accepted_total", &[]), 1.0);
    assert_eq!(value("llamapen_requests_finished_total", &[("reason", "length")]), 1.0);
    assert_eq!(value("llamapen_requests_rejected_total", &[("status", "INVALID_PARAMS")]), 1.0);
    assert_eq!(value("llamapen_tokens_out_total", &[("worker", "0")]), 4.0);
    assert_eq!(value("llamapen_worker_ready", &[("worker", "0")]), 1.0);
    assert_eq!(value("llamapen_vram_used_bytes", &[]), 0.0);
    let worker = &metrics.workers[0];
    assert_eq!(value("llamapen_latency_first_token_ms_count", &[]), 1.0);
    assert_eq!(value("llamapen_latency_first_token_ms_sum", &[]), worker.latency_first_token_ms.sum);
    assert_eq!(value("llamapen_latency_inter_token_ms_bucket", &[("le", "+Inf")]), 3.0);
    // The same in JSON.
    let json = serde_json::to_value(&metrics).unwrap();
    assert_eq!(json["workers"][0]["tokens_out_total"], 4);
    assert_eq!(json["vram_used_bytes"], 0);
}

#[test]
fn a_record_says_what_ran_and_how_it_ended_without_any_text() {
    let supervisor = one_slot();
    let request = Request::chat([Message::user(MARKER)]).with_seed(7).with_max_tokens(5).with_ignore_eos(true);
    let mut stream = supervisor.submit(request.with_temperature(0.5)).unwrap();
    assert_eq!(stream.run_record().unwrap(), None, "it has not ended");
    stream.by_ref().for_each(drop);
    let record = stream.run_record().unwrap().unwrap();
    let json = record.to_json();
    assert!(!json.contains(MARKER), "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let build = llamapen::build_info();
    for (field, expected) in [
        ("llamapen_version", build.llamapen_version),
        ("engine_version", build.llama_cpp_version),
        ("engine_digest", build.engine_digest),
        ("pool_id", supervisor.engine().pool_id()),
        ("model_id", supervisor.engine().model_id()),
        ("device_mask", "none"),
        ("reason", "length"),
        // printf %s '[{"role":"user","content":"Qx7Marker"}]' | sha256sum
        ("input_digest", "sha256:78a9a5cc9e77b9969acfb1d3e964e80267b1bacbe74d9580398dd1cea1829829"),
    ] {
        assert_eq!(json[field], expected, "{field}");
    }
    assert_eq!((&json["seed"], &json["worker"], &json["status"]), (&7.into(), &0.into(), &serde_json::Value::Null));
    assert_eq!((&json["parameters"]["max_tokens"], &json["parameters"]["temperature"]), (&5.into(), &0.5.into()));
    assert!(json["header_digests"][0].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(json["usage"]["completion_tokens"], 5);
    assert!(record.timings.first_token_ms > 0.0 && record.timings.decode_ms > 0.0);

    // One that never left the queue, and one that failed while it ran.
    let running = supervisor.submit(endless().with_timeout_ms(400)).unwrap();
    support::eventually("it runs", || supervisor.health().unwrap().workers[0].active == 1);
    let mut waiting = supervisor.submit(endless().with_timeout_ms(20)).unwrap();
    waiting.by_ref().for_each(drop);
    let record = waiting.run_record().unwrap().unwrap();
    assert_eq!((record.worker, record.status, record.reason), (None, Some(Status::DeadlineUnmet), None));
    assert!(record.timings.queued_ms >= 20.0 && record.timings.first_token_ms == 0.0, "{record:?}");
    // A record needs no reader.
    support::eventually("it ends", || running.run_record().unwrap().is_some());
    let record = running.run_record().unwrap().unwrap();
    assert_eq!((record.worker, record.status), (Some(0), Some(Status::DecodeTimeout)));
    assert!(record.usage.completion_tokens > 0 && record.error.unwrap().contains("timeout_ms"));
}

/// Names and values of all fields of all spans and events, with the messages.
static LOGGED: Mutex<(BTreeSet<String>, Vec<String>)> = Mutex::new((BTreeSet::new(), Vec::new()));

struct Collect;

struct Visit<'a>(&'a str);

impl tracing::field::Visit for Visit<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let mut logged = LOGGED.lock().unwrap();
        if self.0.starts_with("llamapen") {
            logged.0.insert(field.name().to_owned());
        }
        logged.1.push(format!("{} {}={value:?}", self.0, field.name()));
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Collect {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        attributes.record(&mut Visit(attributes.metadata().target()));
    }

    fn on_record(
        &self,
        _: &tracing::Id,
        values: &tracing::span::Record<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        values.record(&mut Visit("llamapen"));
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        event.record(&mut Visit(event.metadata().target()));
    }
}

/// In every way that a request can go, at every level.
#[cfg(feature = "fault-injection")]
#[test]
fn logs_have_the_fields_that_are_looked_for_and_no_text_of_prompt_or_answer() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Collect)).unwrap();
    let supervisor = one_slot();
    let question = format!("{MARKER}. The magic word is banana. What is the magic word?");
    let chat = Request::chat([Message::system(MARKER), Message::user(question)]).with_temperature(0.0);
    let answer = read(supervisor.submit(chat.with_max_tokens(32)).unwrap()).unwrap();
    assert!(answer.text.contains("banana"), "{}", answer.text);

    let marked = || Request::prompt(MARKER).with_ignore_eos(true);
    assert!(supervisor.submit(marked().with_top_p(2.0)).is_err());
    assert!(supervisor.submit(Request::chat([Message::user(format!("{MARKER}\0"))])).is_err());
    assert!(read(supervisor.submit(Request::prompt(format!("{MARKER} a b c ").repeat(500))).unwrap()).is_err());
    assert!(read(supervisor.submit(marked().with_timeout_ms(200)).unwrap()).is_err());
    drop(supervisor.submit(marked()).unwrap());
    let fault = marked().with_max_resumes(0).with_fault(llamapen::Fault::Panic);
    assert_eq!(read(supervisor.submit(fault).unwrap()).unwrap_err().status, Status::WorkerReset);
    read(supervisor.submit(marked().with_max_tokens(2)).unwrap()).expect("the restarted worker runs it");
    supervisor.stop().unwrap();

    let wanted = [
        "pool_id",
        "worker",
        "engine_version",
        "device_mask",
        "model_id",
        "restart_count",
        "backoff_ms",
        "last_error",
        "latency_first_token_ms",
        "latency_decode_ms",
        "tokens_in_total",
        "tokens_out_total",
        "queue_depth",
        "vram_used_bytes",
        "seed",
        "request",
    ];
    let missing = || {
        let logged = LOGGED.lock().unwrap();
        wanted.iter().filter(|name| !logged.0.contains(**name)).collect::<Vec<_>>()
    };
    // The last line comes a moment after the last event.
    for _ in 0..100 {
        if missing().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(missing().is_empty(), "no field {:?}", missing());
    // Taken out: a check that fails must not poison what other threads still write to.
    let lines = std::mem::take(&mut LOGGED.lock().unwrap().1);
    assert!(lines.len() > 20);
    for line in &lines {
        // The words of the answer, and the marker in any case and escaping.
        for text in [MARKER, "banana", "magic", answer.text.trim()] {
            assert!(!line.to_lowercase().contains(&text.to_lowercase()), "logged: {line}");
        }
    }
}

#[test]
fn the_health_says_what_runs_and_which_slots_are_free() {
    let supervisor = support::start(&support::config().with_slots(2));
    let (health, engine) = (supervisor.health().unwrap(), supervisor.engine());
    assert_eq!(health.engine_version, engine.engine_version());
    assert_eq!(health.engine_digest, engine.engine_digest());
    assert_eq!(health.device_mask, engine.device_mask().to_string());
    assert_eq!((health.slots, health.slots_free), (2, 2));
    let stream = supervisor.submit(Request::prompt("a").with_ignore_eos(true)).unwrap();
    support::eventually("it runs", || supervisor.health().unwrap().slots_free == 1);
    drop(stream);
    support::eventually("its slot is free", || supervisor.health().unwrap().slots_free == 2);
    let later = supervisor.health().unwrap();
    assert!(later.uptime_ms >= health.uptime_ms && later.workers[0].heartbeat_ms < 60_000, "{later:?}");
    supervisor.stop().unwrap();
    assert_eq!(supervisor.health().unwrap().slots_free, 0);
}
