//! What was seen, and how it is printed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

#[derive(Debug, Default)]
pub struct Seen {
    pub streams: u32,
    pub resumed: u32,
    pub restarts: u32,
    pub wrong: u32,
    pub faults: BTreeMap<&'static str, OfKind>,
}

/// Of one kind of fault. Times are from the last event before the fault.
#[derive(Debug, Default)]
pub struct OfKind {
    pub injected: u32,
    pub contained: u32,
    /// Until the worker's replacement was ready.
    pub ready: Vec<Duration>,
    /// Until the next token of the stream that had the fault, and how much of that was replay.
    pub next_token: Vec<Duration>,
    pub replay: Vec<Duration>,
}

/// When workers became ready, from the logs.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<(String, u64, Instant)>>>);

impl Readiness {
    pub fn install() -> Self {
        let readiness = Self::default();
        let subscriber = tracing_subscriber::registry().with(readiness.clone());
        tracing::subscriber::set_global_default(subscriber).unwrap();
        readiness
    }

    /// The first time after `then`.
    pub fn after(&self, pool: &str, worker: u32, then: Instant) -> Option<Instant> {
        let all = self.0.lock().unwrap();
        all.iter().find(|(of, i, at)| of == pool && *i == u64::from(worker) && *at > then).map(|(_, _, at)| *at)
    }
}

impl<S: tracing::Subscriber> Layer<S> for Readiness {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.message == "worker ready" {
            self.0.lock().unwrap().push((fields.pool, fields.worker, Instant::now()));
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    pool: String,
    worker: u64,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "pool_id" => self.pool = format!("{value:?}").trim_matches('"').to_owned(),
            "worker" => self.worker = format!("{value:?}").parse().unwrap_or(u64::MAX),
            _ => {}
        }
    }
}

/// Median and 99th percentile, in whole milliseconds.
fn times(values: &[Duration]) -> String {
    if values.is_empty() {
        return "–".into();
    }
    let mut sorted = values.to_vec();
    sorted.sort();
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize].as_millis();
    format!("{} / {}", at(0.5), at(0.99))
}

pub fn print(seen: &Seen) {
    println!(
        "| | fault | injected | contained | until the next worker is ready, ms | until the stream's next token | of that, replay |"
    );
    println!("| |---|---|---|---|---|---|");
    let mut all = OfKind::default();
    for (name, of) in &seen.faults {
        line(name, of);
        all.injected += of.injected;
        all.contained += of.contained;
        all.ready.extend(&of.ready);
        all.next_token.extend(&of.next_token);
        all.replay.extend(&of.replay);
    }
    line("all", &all);
    println!("| (median / 99th percentile)");
}

fn line(name: &str, of: &OfKind) {
    let (ready, next, replay) = (times(&of.ready), times(&of.next_token), times(&of.replay));
    println!("| | {name} | {} | {} | {ready} | {next} | {replay} |", of.injected, of.contained);
}
