//! Prometheus' text format, version 0.0.4.

use super::histogram::Histogram;
use super::metrics::{Metrics, WorkerMetrics};
use crate::worker::StartPhases;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

pub(super) fn render(metrics: &Metrics) -> String {
    let replica = metrics.replica_id.to_string();
    let mut text = Text {
        out: String::new(),
        pool: vec![
            ("pool_id", metrics.pool_id.clone()),
            ("replica_id", replica),
            ("model_id", metrics.model_id.clone()),
            ("engine_version", metrics.engine_version.clone()),
            ("device_mask", metrics.device_mask.clone()),
        ],
    };
    of_pool(&mut text, metrics);
    of_workers(&mut text, &metrics.workers);
    text.out
}

fn of_pool(text: &mut Text, metrics: &Metrics) {
    let requests = &metrics.requests;
    text.one("requests_accepted_total", COUNTER, "Requests taken into the queue.", requests.accepted_total);
    let by_label = [
        ("requests_rejected_total", "Requests refused by submit, by status.", "status", &requests.rejected_total),
        ("requests_finished_total", "Requests that came to their end, by reason.", "reason", &requests.finished_total),
        ("requests_failed_total", "Requests that failed, by status.", "status", &requests.failed_total),
    ];
    for (name, help, label, counts) in by_label {
        text.by_label(name, help, label, counts);
    }
    text.one("requests_cancelled_total", COUNTER, "Requests ended by their caller.", requests.cancelled_total);
    let resumed = "Times that a request went on in another worker.";
    text.one("requests_resumed_total", COUNTER, resumed, requests.resumed_total);
    text.one("queue_depth", GAUGE, "Requests that wait for a slot.", metrics.queue_depth);
    let by_priority = metrics.queue_depth_by_priority;
    text.head("queue_depth_by_priority", GAUGE, "Requests that wait for a slot, by priority.");
    for (priority, depth) in [("interactive", by_priority.interactive), ("batch", by_priority.batch)] {
        text.sample("queue_depth_by_priority", &[("priority", priority.to_owned())], depth);
    }
    text.one("leases", GAUGE, "Leases that were not given back yet.", metrics.leases);
    text.one("snapshot_bytes", GAUGE, "Bytes of snapshots of running requests.", metrics.snapshot_bytes);
    text.one("uptime_ms", GAUGE, "Milliseconds since the supervisor was started.", metrics.uptime_ms);
    if let Some(ms) = metrics.load_ms {
        text.one("load_ms", GAUGE, "Milliseconds that loading the model took.", ms);
    }
    if let Some(phases) = &metrics.load_phases {
        text.head("load_phase_ms", GAUGE, "Milliseconds of loading that all workers share, by phase.");
        for (phase, ms) in phases.named() {
            text.sample("load_phase_ms", &[("phase", phase.to_owned())], ms);
        }
    }
    if let Some(bytes) = metrics.vram_used_bytes {
        text.one("vram_used_bytes", GAUGE, "Bytes of GPU memory in use; 0 where no GPU computes.", bytes);
    }
    // Its text stays in the JSON: as a label, every new text would be a series of its own, for ever.
    if let Some(status) = metrics.last_error_status {
        text.head("last_error", GAUGE, "Status of what went wrong last; the value is always 1.");
        text.sample("last_error", &[("status", status.name().to_owned())], 1);
    }
}

fn of_workers(text: &mut Text, workers: &[WorkerMetrics]) {
    type Number = fn(&WorkerMetrics) -> u64;
    let numbers: [(&str, &str, &str, Number); 12] = [
        ("worker_ready", GAUGE, "1 if the worker takes requests.", |w| w.ready.into()),
        ("restart_count", COUNTER, "Restarts of the worker.", |w| w.restart_count),
        ("backoff_ms", GAUGE, "Milliseconds that the next restart waits; 0 once ready.", |w| w.backoff_ms),
        ("active_slots", GAUGE, "Slots that run a request.", |w| w.active_slots),
        ("slots", GAUGE, "Slots of the worker.", |w| w.slots),
        ("memory_bytes", GAUGE, "Bytes of the worker's cache and compute buffers.", |w| w.memory_bytes),
        ("tokens_in_total", COUNTER, "Tokens of prompts, those in the KV cache included.", |w| w.tokens_in_total),
        ("tokens_cached_total", COUNTER, "Tokens of prompts that were in the KV cache.", |w| w.tokens_cached_total),
        ("tokens_out_total", COUNTER, "Tokens generated.", |w| w.tokens_out_total),
        ("draft_tokens_total", COUNTER, "Tokens guessed ahead.", |w| w.draft_tokens_total),
        ("draft_accepted_total", COUNTER, "Tokens guessed ahead that came true.", |w| w.draft_accepted_total),
        ("decode_failures_total", COUNTER, "Decode calls that failed, the worker unharmed.", |w| {
            w.decode_failures_total
        }),
    ];
    for (name, kind, help, number) in numbers {
        text.head(name, kind, help);
        for worker in workers {
            text.sample(name, &[of(worker)], number(worker));
        }
    }
    text.head("start_phase_ms", GAUGE, "Milliseconds of the worker's last start, by phase.");
    for worker in workers {
        for (phase, ms) in worker.start_phases.iter().flat_map(StartPhases::named) {
            text.sample("start_phase_ms", &[of(worker), ("phase", phase.to_owned())], ms);
        }
    }
    text.head("crashes_total", COUNTER, "Crashes of the worker, by reason.");
    for worker in workers {
        for (reason, count) in &worker.crashes_total {
            text.sample("crashes_total", &[of(worker), ("reason", (*reason).to_owned())], count);
        }
    }
    type Values = fn(&WorkerMetrics) -> &Histogram;
    let histograms: [(&str, &str, Values); 6] = [
        ("latency_queue_ms", "From submit until a worker took the request up.", |w| &w.latency_queue_ms),
        ("latency_first_token_ms", "From submit until the first token.", |w| &w.latency_first_token_ms),
        ("latency_inter_token_ms", "Between two tokens of a request.", |w| &w.latency_inter_token_ms),
        ("latency_decode_ms", "From the end of the prompt until the end of the request.", |w| &w.latency_decode_ms),
        ("decode_batch_tokens", "Tokens per decode call.", |w| &w.decode_batch_tokens),
        ("decode_call_ms", "Milliseconds per decode call.", |w| &w.decode_call_ms),
    ];
    for (name, help, values) in histograms {
        text.head(name, "histogram", help);
        for worker in workers {
            text.histogram(name, of(worker), values(worker));
        }
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

type Label = (&'static str, String);

fn of(worker: &WorkerMetrics) -> Label {
    ("worker", worker.worker.to_string())
}

struct Text {
    out: String,
    /// Labels of every sample.
    pool: Vec<Label>,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.out, "# HELP llamapen_{name} {help}\n# TYPE llamapen_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, more: &[Label], value: impl Display) {
        let labels: Vec<_> =
            self.pool.iter().chain(more).map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let _ = writeln!(self.out, "llamapen_{name}{{{}}} {value}", labels.join(","));
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    fn by_label(&mut self, name: &str, help: &str, label: &'static str, counts: &BTreeMap<&'static str, u64>) {
        self.head(name, COUNTER, help);
        for (text, count) in counts {
            self.sample(name, &[(label, (*text).to_owned())], count);
        }
    }

    fn histogram(&mut self, name: &str, worker: Label, values: &Histogram) {
        let bounds = values.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let mut so_far = 0;
        for (bound, count) in bounds.zip(&values.counts) {
            so_far += count;
            self.sample(&format!("{name}_bucket"), &[worker.clone(), ("le", bound)], so_far);
        }
        self.sample(&format!("{name}_sum"), std::slice::from_ref(&worker), values.sum);
        self.sample(&format!("{name}_count"), &[worker], values.count);
    }
}

/// As the format wants it in a label: only these three are special.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd é{}"), r#"a\"b\\c\nd é{}"#);
    }
}
