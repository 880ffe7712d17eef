//! How soon a worker that has nothing to do takes a request up, on threads and on processes in turn.
//!
//! `--requests N --pause-us N`: of a prompt of one token, which needs no tokeniser. Measured is the time from before `submit`
//! until the `Started` event is here, so with a process also the way back; and until the first token, which has the decode
//! in it.

use crate::options::{Options, greedy};
use crate::tier::{TIERS, start};
use llamapen::{Event, Supervisor};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::time::{Duration, Instant};

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let (requests, pause) = (options.get("requests", 400)?, Duration::from_micros(options.get("pause-us", 3000)?));
    let mut supervisors = Vec::new();
    for (name, isolation) in TIERS {
        supervisors.push((name, start(options, isolation)?, Times::default()));
    }
    for request in 0..requests + 20 {
        for (_, supervisor, times) in &mut supervisors {
            let [submitted, started, token] = ask(supervisor)?;
            // The first ones warm both up.
            if request >= 20 {
                times.submit.push(submitted);
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
    started: Vec<f64>,
    token: Vec<f64>,
}

impl Times {
    fn report(self) -> Value {
        json!({ "submit_us": of(self.submit), "started_us": of(self.started), "token_us": of(self.token) })
    }
}

fn of(mut times: Vec<f64>) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get(((times.len() - 1) as f64 * part) as usize);
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99) })
}

fn ask(supervisor: &Supervisor) -> Result<[f64; 3], Box<dyn Error>> {
    let request = greedy(vec![1000], 1);
    let began = Instant::now();
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
    Ok([submitted, started.ok_or("not started")?, token.ok_or("no token")?])
}
