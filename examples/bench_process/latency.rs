//! How soon a worker that has nothing to do takes a request up, on threads and on processes in turn.
//!
//! `--requests N --pause-us N`: of a prompt of one token, which needs no tokeniser. Measured is the time from before `submit`
//! until the worker's loop has the request, which the worker itself says by the system's monotonic clock; until the `Started`
//! event is here, so after its sampler was made and, with a process, on the way back; and until the first token, which has a
//! decode in it.

use crate::options::{Options, greedy};
use crate::tier::{TIERS, start};
use llamapen::{Event, Fault, Supervisor};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let (requests, pause) = (options.get("requests", 400)?, Duration::from_micros(options.get("pause-us", 3000)?));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(TakenUp))?;
    let mut supervisors = Vec::new();
    for (name, isolation) in TIERS {
        supervisors.push((name, start(options, isolation)?, Times::default()));
    }
    for request in 0..requests + 20 {
        for (_, supervisor, times) in &mut supervisors {
            let [submitted, taken_up, started, token] = ask(supervisor)?;
            // The first ones warm both up.
            if request >= 20 {
                times.submit.push(submitted);
                times.taken_up.push(taken_up);
                times.started.push(started);
                times.token.push(token);
            }
            std::thread::sleep(pause);
        }
        supervisors.reverse();
    }
    Ok(supervisors.into_iter().map(|(name, _, times)| (name.to_owned(), times.report())).collect::<Map<_, _>>().into())
}

/// In microseconds.
#[derive(Default)]
struct Times {
    submit: Vec<f64>,
    taken_up: Vec<f64>,
    started: Vec<f64>,
    token: Vec<f64>,
}

impl Times {
    fn report(self) -> Value {
        json!({
            "submit_us": of(self.submit),
            "taken_up_us": of(self.taken_up),
            "started_us": of(self.started),
            "token_us": of(self.token),
        })
    }
}

fn of(mut times: Vec<f64>) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get(((times.len() - 1) as f64 * part) as usize);
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99) })
}

fn ask(supervisor: &Supervisor) -> Result<[f64; 4], Box<dyn Error>> {
    let request = greedy(vec![1000], 1).with_fault(Fault::Stamp);
    let (began, began_at) = (Instant::now(), now());
    let us = || began.elapsed().as_secs_f64() * 1e6;
    let stream = supervisor.submit(request)?;
    let (submitted, mut started, mut token) = (us(), None, None);
    for event in stream {
        match event {
            Event::Started(_) => started = Some(us()),
            Event::Token(_) => token = Some(us()),
            Event::Failed(failed) => return Err(failed.message.into()),
            _ => {}
        }
    }
    let at = AT.swap(0, Ordering::Acquire);
    let taken_up = at.checked_sub(began_at).ok_or("the worker did not say when it took the request up")? as f64 / 1e3;
    Ok([submitted, taken_up, started.ok_or("not started")?, token.ok_or("no token")?])
}

/// On the clock that all processes share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// What the worker said last.
static AT: AtomicU64 = AtomicU64::new(0);

/// Hears of [`Fault::Stamp`]: as a field, or within a line if it came from a process.
struct TakenUp;

impl<S: tracing::Subscriber> Layer<S> for TakenUp {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        event.record(&mut Reads);
    }
}

struct Reads;

impl Visit for Reads {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "at" {
            AT.store(value, Ordering::Release);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let line = if field.name() == "message" { format!("{value:?}") } else { return };
        if let Some(at) = line.strip_prefix("taken up").and_then(|line| line.split("at=").nth(1)?.parse().ok()) {
            AT.store(at, Ordering::Release);
        }
    }
}
