//! How long it takes from the death of a worker until its replacement is ready, and until a stream that it ran goes on.
//!
//! `--rounds N --isolation thread|process --cause kill|null-write --warm-spare true|false`: each time, a stream is somewhere in
//! its answer. `kill` is SIGKILL from outside, at a random moment; `null-write` is a request beside the stream that makes the
//! engine write to address 0, and the time begins when it is submitted.

use crate::options::{Options, greedy, words};
use crate::tier::start;
use llamapen::{Event, Fault, Isolation, Supervisor, TokenStream};
use serde_json::{Value, json};
use std::error::Error;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Between two looks at the health.
const LOOK: Duration = Duration::from_micros(200);
/// Until everything has come to rest: a spare is started a second after the last one was used, and loads.
const REST: Duration = Duration::from_millis(2000);
const LONG: Duration = Duration::from_secs(60);

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let (rounds, cause) = (options.get("rounds", 10)?, options.get("cause", "kill".to_owned())?);
    let isolation = match options.get("isolation", "process".to_owned())?.as_str() {
        "thread" => Isolation::Thread,
        "process" => Isolation::Process,
        other => return Err(format!("--isolation cannot be '{other}'").into()),
    };
    let supervisor = start(options, isolation)?;
    let results = (0..rounds).map(|round| crash(&supervisor, &cause, round)).collect::<Result<Vec<_>, _>>()?;
    Ok(results.into())
}

fn crash(supervisor: &Supervisor, cause: &str, round: u32) -> Result<Value, Box<dyn Error>> {
    std::thread::sleep(REST);
    let stream = supervisor.submit(greedy(words(supervisor, round, 64), 400).with_max_resumes(1000))?;
    let canceller = stream.canceller();
    let told = follow(stream);
    let before = fastrand::usize(20..120);
    for _ in 0..before {
        told.recv_timeout(LONG)?;
    }
    std::thread::sleep(Duration::from_micros(fastrand::u64(0..8000)));

    let restarts = supervisor.health()?.workers[0].restarts;
    let began = Instant::now();
    let _faulty = match (cause, &supervisor.health()?.workers[0].process) {
        ("kill", Some(process)) => kill(process.pid).map(|()| None)?,
        ("null-write", _) => {
            Some(supervisor.submit(greedy(vec![1000], 8).with_max_resumes(0).with_fault(Fault::NullWrite))?)
        }
        (other, _) => return Err(format!("--cause cannot be '{other}'").into()),
    };
    let ready = loop {
        let worker = supervisor.health()?.workers.swap_remove(0);
        if worker.restarts > restarts && worker.ready {
            break Instant::now();
        }
        if began.elapsed() > LONG {
            return Err("it does not come back".into());
        }
        std::thread::sleep(LOOK);
    };
    let mut heard = None;
    let next = loop {
        match told.recv_timeout(LONG)? {
            (at, Told::Restarted) => heard = Some(at),
            (at, Told::Token) if heard.is_some() => break at,
            _ => {}
        }
    };
    canceller.cancel()?;
    let ms = |at: Instant| at.saturating_duration_since(began).as_secs_f64() * 1e3;
    Ok(json!({ "heard_ms": heard.map(ms), "ready_ms": ms(ready), "token_ms": ms(next), "history": 64 + before }))
}

enum Told {
    Token,
    Restarted,
}

/// When what came.
fn follow(stream: TokenStream) -> Receiver<(Instant, Told)> {
    let (send, told) = channel();
    std::thread::spawn(move || {
        for event in stream {
            let what = match event {
                Event::Token(_) => Told::Token,
                Event::Restarted(_) => Told::Restarted,
                _ => continue,
            };
            let _ = send.send((Instant::now(), what));
        }
    });
    told
}

fn kill(pid: u32) -> Result<(), Box<dyn Error>> {
    // SAFETY: a system call without memory; the process is this one's child, which its supervisor reaps once it is dead.
    match unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}
