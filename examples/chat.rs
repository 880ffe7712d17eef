//! One question to a model, its answer streamed: `cargo run --release --example chat -- --model FILE "Why is the sky blue?"`
//!
//! The demo of the README. Progress goes to stderr, the answer to stdout, and a closing line says how fast it was.

use llamapen::{
    ChildConfig, EngineConfig, Event, Isolation, Message, Request, Sandbox, Supervisor, SupervisorConfig, prepare,
};
use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: chat --model FILE.gguf [--threads N] [--isolation thread|process] [--sandbox] [--seed N]
            [--temperature T] [--max-tokens N] [--log] PROMPT";

fn main() -> ExitCode {
    // With `--isolation process` this program is started once more, as the worker.
    llamapen::worker_main_if_child();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nchat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.log {
        // llamapen and llama.cpp log through `tracing`; without a subscriber nothing is printed.
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_writer(std::io::stderr)
            .init();
    }

    let mut config = EngineConfig::new(&options.model);
    config.threads = options.threads;
    config.isolation = options.isolation;
    let engine = prepare(&config)?;
    let info = engine.info();
    let kernels = engine.cpu_level().map_or(String::new(), |level| format!(", CPU kernels of level {level}"));
    eprintln!(
        "{} ({}, {:.0} MB), context {} tokens, {} thread(s){kernels}",
        info.name.as_deref().unwrap_or("model"),
        info.quantization,
        info.file_bytes as f64 / 1e6,
        engine.n_ctx(),
        engine.threads()
    );

    let child = ChildConfig::default().with_sandbox(options.sandbox);
    let supervisor = Supervisor::start(engine, SupervisorConfig::default().with_child(child))?;
    wait_with_progress(&supervisor)?;
    if let Some(process) = &supervisor.health()?.workers[0].process {
        let held = &process.confinement;
        eprintln!("the worker is process {}; Landlock: {}; seccomp: {}\n", process.pid, held.landlock, held.seccomp);
    }

    let asked = Instant::now();
    let mut request = Request::chat([Message::user(&options.prompt)]);
    request.seed = options.seed;
    request.max_tokens = options.max_tokens;
    if let Some(temperature) = options.temperature {
        request = request.with_temperature(temperature);
    }
    let mut first_token = None;
    for event in supervisor.submit(request)? {
        match event {
            Event::Token(token) => {
                first_token.get_or_insert_with(|| asked.elapsed());
                print!("{}", token.text);
                std::io::stdout().flush()?;
            }
            Event::Finished(finished) => {
                println!("{}", finished.text);
                let tokens = finished.usage.completion_tokens;
                // The first token comes out of the prefill: the others are what decoding made.
                let decoded = f64::from(tokens.saturating_sub(1));
                eprintln!(
                    "\n{tokens} tokens ({:?}), first after {:.0} ms, {:.1} tokens/s",
                    finished.reason,
                    first_token.unwrap_or_default().as_secs_f64() * 1e3,
                    decoded / (finished.timings.decode_ms / 1e3).max(1e-9),
                );
            }
            Event::Failed(failed) => return Err(format!("{}: {}", failed.status, failed.message).into()),
            _ => {}
        }
    }
    Ok(())
}

/// Shows how far the load is until the first worker is ready.
fn wait_with_progress(supervisor: &Supervisor) -> Result<(), llamapen::Error> {
    const WIDTH: usize = 30;
    let bar = std::io::stderr().is_terminal();
    let started = Instant::now();
    loop {
        let ready = supervisor.wait_ready(Some(Duration::from_millis(30)))?;
        let progress = supervisor.health()?.load_progress;
        let filled = (progress * WIDTH as f32) as usize;
        if bar || ready {
            let (start, end) = if bar { ("\r", if ready { "\n" } else { "" }) } else { ("", "\n") };
            eprint!(
                "{start}loading [{}{}] {:3.0} %{end}",
                "#".repeat(filled),
                " ".repeat(WIDTH - filled),
                progress * 100.0
            );
        }
        if ready {
            eprintln!("ready after {:.0} ms\n", started.elapsed().as_secs_f64() * 1e3);
            return Ok(());
        }
    }
}

struct Options {
    model: String,
    prompt: String,
    threads: Option<u32>,
    isolation: Option<Isolation>,
    sandbox: Sandbox,
    seed: Option<u64>,
    temperature: Option<f32>,
    max_tokens: Option<u32>,
    log: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut words: Vec<String> = Vec::new();
        let mut options = Self {
            model: String::new(),
            prompt: String::new(),
            threads: None,
            isolation: None,
            sandbox: Sandbox::Off,
            seed: None,
            temperature: None,
            max_tokens: None,
            log: false,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--model" => options.model = value()?,
                "--threads" => options.threads = Some(value()?.parse()?),
                "--isolation" => {
                    options.isolation = Some(match value()?.as_str() {
                        "thread" => Isolation::Thread,
                        "process" => Isolation::Process,
                        other => return Err(format!("--isolation {other}: thread or process\n{USAGE}").into()),
                    });
                }
                // Only a process can be confined.
                "--sandbox" => (options.sandbox, options.isolation) = (Sandbox::Strict, Some(Isolation::Process)),
                "--seed" => options.seed = Some(value()?.parse()?),
                "--temperature" => options.temperature = Some(value()?.parse()?),
                "--max-tokens" => options.max_tokens = Some(value()?.parse()?),
                "--log" => options.log = true,
                "--help" | "-h" => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                "--" => words.extend(args.by_ref()),
                option if option.starts_with("--") => return Err(format!("unknown option {option}\n{USAGE}").into()),
                _ => words.push(arg),
            }
        }
        options.prompt = words.join(" ");
        if options.model.is_empty() || options.prompt.trim().is_empty() {
            return Err(USAGE.into());
        }
        Ok(options)
    }
}
