//! A stream that lives through every kind of fault: `make crash-demo`, or
//! `cargo run --release --features fault-injection --example crash_demo -- --model FILE [--isolation process]`
//!
//! One long answer runs, and beside it in the same worker one request after the other that makes the engine panic, abort,
//! write to nowhere, overflow its stack, loop for ever. Each kills the worker, a thread or a process; the answer goes on in the next one. A line per
//! fault says what happened and how long the answer paused; the last one whether it is what it would have been.

use llamapen::{
    EngineConfig, Event, Fault, Isolation, Next, Request, Supervisor, SupervisorConfig, TaintPolicy, TokenStream,
    prepare,
};
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Tokens that the answer goes on between two faults.
const BETWEEN: usize = 12;
/// A guard against hangs.
const LONG: Duration = Duration::from_secs(120);

const FAULTS: &[(&str, Fault)] = &[
    ("a Rust panic", Fault::Panic),
    ("a C++ exception in the shim", Fault::CppException),
    ("a C++ exception inside a graph", Fault::Exception),
    ("a C++ exception on a compute thread", Fault::ComputeException),
    ("a C++ exception in the sampler", Fault::SamplerException),
    ("an allocation that fails", Fault::BadAlloc),
    ("GGML_ABORT", Fault::Abort),
    ("GGML_ABORT on a compute thread", Fault::ComputeAbort),
    ("a write to address 0", Fault::NullWrite),
    ("a write to address 0 on a compute thread", Fault::ComputeNullWrite),
    ("a write to where nothing is", Fault::WildWrite),
    ("a write to a page that may only be read", Fault::ReadOnlyWrite),
    ("a write to mapped weights", Fault::WeightWrite),
    ("a stack overflow", Fault::StackOverflow),
    ("a stack overflow on a compute thread", Fault::ComputeStackOverflow),
    ("a division by zero", Fault::DivisionByZero),
    ("an illegal instruction", Fault::IllegalInstruction),
    ("an endless loop", Fault::EndlessLoop),
    ("an endless loop on a compute thread", Fault::ComputeEndlessLoop),
];

/// What only processes contain, and what only they can do to themselves.
const FAULTS_OF_PROCESSES: &[(&str, Fault)] = &[
    ("a write while others wait for the thread", Fault::CriticalWrite),
    ("a write inside malloc", Fault::MallocWrite),
    ("a broken heap", Fault::HeapCorruption),
    ("SIGKILL", Fault::Killed),
    ("SIGSTOP", Fault::Stopped),
    ("an exit", Fault::Exited),
    ("bytes that are no message", Fault::Garbage),
    ("half a message", Fault::HalfMessage),
];

fn main() -> ExitCode {
    llamapen::worker_main_if_child();
    // What a contained panic prints is the host's choice; here the lines of the demo are enough.
    std::panic::set_hook(Box::new(|_| {}));
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crash_demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (model, isolation) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--model", model] | ["--model", model, "--isolation", "thread"] => (model, Isolation::Thread),
        ["--model", model, "--isolation", "process"] => (model, Isolation::Process),
        _ => return Err("usage: crash_demo --model FILE.gguf [--isolation thread|process]".into()),
    };
    let faults = match isolation {
        Isolation::Process => [FAULTS, FAULTS_OF_PROCESSES].concat(),
        _ => FAULTS.to_vec(),
    };
    let engine = EngineConfig::new(model).with_threads(2).with_slots(2).with_n_ctx(1024).with_n_ubatch(64);
    let engine = engine.with_isolation(isolation);
    // A demo crashes more often than anything should: no limit, no quarantine, and memory faults do not stop it.
    let config = SupervisorConfig::default()
        .with_taint(TaintPolicy::Continue)
        .with_restarts(1000, Duration::from_secs(60))
        .with_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .with_breaker_failures(1000)
        .with_quarantine(Duration::ZERO)
        .with_max_stall(Duration::from_secs(60))
        .with_stall_limit(Duration::from_secs(3));
    let supervisor = Supervisor::start(prepare(&engine)?, config)?;
    supervisor.wait_ready(Some(LONG))?;

    let tokens = u32::try_from((BETWEEN + 4) * (faults.len() + 1))?;
    let request = Request::prompt("Once upon a time, in a pen by the sea, there lived a llama who")
        .with_temperature(0.0)
        .with_ignore_eos(true)
        .with_max_tokens(tokens)
        .with_max_resumes(1000);
    let undisturbed = supervisor.submit(request.clone())?.text().map_err(|failed| failed.message)?.text;

    let mut story = Story::new(supervisor.submit(request)?);
    for (what, fault) in &faults {
        story.read_on(BETWEEN)?;
        let faulty = Request::prompt("a").with_ignore_eos(true).with_max_resumes(0).with_fault(*fault);
        let began = Instant::now();
        let failed = supervisor.submit(faulty)?.last();
        if !matches!(failed, Some(Event::Failed(_))) {
            return Err(format!("{what}: the worker did not fail: {failed:?}").into());
        }
        let (kept, reason) = story.read_past_restart()?;
        let paused = began.elapsed();
        println!(
            "{what:42} {reason}\n{:42} the answer kept {kept} tokens and went on after {} ms",
            "",
            paused.as_millis()
        );
    }
    story.read_on(usize::MAX)?;
    let same = story.text == undisturbed;
    let restarts = supervisor.health()?.workers[0].restarts;
    println!(
        "\n{} faults, {restarts} restarts of the worker, one answer of {} tokens:{}",
        faults.len(),
        story.tokens,
        story.text
    );
    println!("\nthe same as undisturbed, byte by byte: {}", if same { "yes" } else { "NO" });
    Ok(same)
}

/// The long answer, as far as it has come.
struct Story {
    stream: TokenStream,
    text: String,
    tokens: usize,
}

impl Story {
    fn new(stream: TokenStream) -> Self {
        Self { stream, text: String::new(), tokens: 0 }
    }

    /// Reads so many tokens more, or to the end.
    fn read_on(&mut self, tokens: usize) -> Result<(), Box<dyn Error>> {
        let until = self.tokens.saturating_add(tokens);
        while self.tokens < until {
            match self.stream.next_event(Some(LONG))? {
                Next::Event(event) => drop(self.take(event)?),
                Next::End => return Ok(()),
                other => return Err(format!("the answer hangs: {other:?}").into()),
            }
        }
        Ok(())
    }

    /// Reads until it was restarted and has given another token; what was kept, and why it was restarted.
    fn read_past_restart(&mut self) -> Result<(u32, String), Box<dyn Error>> {
        let mut restarted = None;
        loop {
            let Next::Event(event) = self.stream.next_event(Some(LONG))? else {
                return Err("the answer ended, or hangs".into());
            };
            let is_token = matches!(event, Event::Token(_));
            restarted = self.take(event)?.or(restarted);
            if let Some(restarted) = restarted.take_if(|_| is_token) {
                return Ok(restarted);
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<Option<(u32, String)>, Box<dyn Error>> {
        match event {
            Event::Token(token) if token.index as usize == self.tokens => {
                self.tokens += 1;
                self.text.push_str(&token.text);
            }
            Event::Token(token) => return Err(format!("token {} is out of order", token.index).into()),
            Event::Restarted(restarted) => return Ok(Some((restarted.tokens_kept, restarted.reason))),
            Event::Finished(finished) => self.text.push_str(&finished.text),
            Event::Failed(failed) => return Err(failed.message.into()),
            _ => {}
        }
        Ok(None)
    }
}
