//! How soon a worker that has nothing to do takes a request up, on threads and on processes in turn.
//!
//! `--requests N --pause-us N`: of a prompt of one token, which needs no tokeniser. Measured is the time from before `submit`
//! until the worker's loop has the request, which the worker itself says by the system's monotonic clock; until the `Started`
//! event is here, so after its sampler was made and, with a process, on the way back; and until the first token, which has a
//! decode in it. And from when the worker gives the last event, by the same clock, until the consumer has it.

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

const LONG: Duration = Duration::from_secs(10);

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let (requests, pause) = (options.get("requests", 400)?, Duration::from_micros(options.get("pause-us", 3000)?));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Stamps))?;
    let mut supervisors = Vec::new();
    for (name, isolation) in TIERS {
        supervisors.push((name, start(options, isolation)?, Times::default()));
    }
    for request in 0..requests + 20 {
        for (_, supervisor, times) in &mut supervisors {
            let [submitted, taken_up, started, token, event] = ask(supervisor)?;
            // The first ones warm both up.
            if request >= 20 {
                times.submit.push(submitted);
                times.taken_up.push(taken_up);
                times.started.push(started);
                times.token.push(token);
                times.event.push(event);
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
    event: Vec<f64>,
}

impl Times {
    fn report(self) -> Value {
        json!({
            "submit_us": of(self.submit),
            "taken_up_us": of(self.taken_up),
            "started_us": of(self.started),
            "token_us": of(self.token),
            "event_us": of(self.event),
        })
    }
}

fn of(mut times: Vec<f64>) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get(((times.len() - 1) as f64 * part) as usize);
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99) })
}

fn ask(supervisor: &Supervisor) -> Result<[f64; 5], Box<dyn Error>> {
    let request = greedy(vec![1000], 1).with_fault(Fault::Stamp);
    let (began, began_at) = (Instant::now(), now());
    let us = || began.elapsed().as_secs_f64() * 1e6;
    let stream = supervisor.submit(request)?;
    let (submitted, mut started, mut token, mut ended) = (us(), None, None, None);
    for event in stream {
        match event {
            Event::Started(_) => started = Some(us()),
            Event::Token(_) => token = Some(us()),
            Event::Finished(_) => ended = Some(now()),
            Event::Failed(failed) => return Err(failed.message.into()),
            _ => {}
        }
    }
    let since = |from: u64, until: u64| until.checked_sub(from).map(|ns| ns as f64 / 1e3);
    let taken_up = since(began_at, said(&TAKEN_UP)?).ok_or("taken up before it was submitted")?;
    let event = since(said(&ENDED)?, ended.ok_or("not finished")?).ok_or("here before it was given")?;
    Ok([submitted, taken_up, started.ok_or("not started")?, token.ok_or("no token")?, event])
}

/// What the worker says of this request, perhaps in a moment.
fn said(place: &AtomicU64) -> Result<u64, &'static str> {
    let began = Instant::now();
    while began.elapsed() < LONG {
        match place.swap(0, Ordering::Acquire) {
            0 => std::thread::sleep(Duration::from_micros(50)),
            at => return Ok(at),
        }
    }
    Err("the worker did not say when it took the request up and when it ended it")
}

/// On the clock that all processes share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// What the worker said last.
static TAKEN_UP: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Hears of [`Fault::Stamp`](llamapen::Fault::Stamp): as a field, or within a line if it came from a process.
struct Stamps;

impl<S: tracing::Subscriber> Layer<S> for Stamps {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut reads = Reads::default();
        event.record(&mut reads);
        let place = match reads.line.get(..5) {
            Some("taken") => &TAKEN_UP,
            Some("ended") => &ENDED,
            _ => return,
        };
        let in_line = || reads.line.split("at=").nth(1)?.split_whitespace().next()?.parse().ok();
        if let Some(at) = reads.at.or_else(in_line) {
            place.store(at, Ordering::Release);
        }
    }
}

#[derive(Default)]
struct Reads {
    line: String,
    at: Option<u64>,
}

impl Visit for Reads {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "at" {
            self.at = Some(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.line = format!("{value:?}");
        }
    }
}
