//! Many faults of all kinds, at random, under load, in a process that does other things as well: the host lives, every
//! stream comes to its end with the tokens that it has undisturbed, and little memory is lost. Workers are threads, or
//! processes: then they are killed from outside as well, and at last no file takes another byte. Needs the `fault-injection`
//! feature. `make chaos` runs a thousand faults on each tier and prints what it saw.
#![cfg(feature = "fault-injection")]

mod clients;
mod defaults;
mod disk;
mod host;
mod killer;
mod kinds;
mod load;
#[path = "../support/mod.rs"]
mod support;
mod table;

use llamapen::{ChildConfig, EngineConfig, Isolation, Supervisor, SupervisorConfig, TaintPolicy};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Runs the ignored test `child` in a process of its own, which the faults would end.
fn run(what: &str, faults: u32) -> Output {
    let seed = std::env::var("CHAOS_SEED").unwrap_or_else(|_| "1".into());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("CHAOS_WHAT", what)
        .env("CHAOS_FAULTS", faults.to_string())
        .env("CHAOS_SEED", seed)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

fn must_succeed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    // What the child printed, without what the test harness says.
    println!(
        "{}",
        text.lines().filter(|line| line.starts_with("| ")).map(|line| &line[2..]).collect::<Vec<_>>().join("\n")
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    let errors: String =
        errors.lines().filter(|line| !line.contains("injected panic")).rev().take(40).collect::<Vec<_>>().join("\n");
    assert!(output.status.success(), "{:?}\n{text}\n{errors}", output.status);
}

/// Half as many of processes, which take longer to start.
#[test]
fn a_hundred_faults_or_fifty() {
    must_succeed(&run("chaos", if support::in_processes() { 50 } else { 100 }));
}

#[test]
#[ignore = "minutes; `make chaos` runs it"]
fn a_thousand_faults() {
    must_succeed(&run("chaos", 1000));
}

#[test]
fn with_the_defaults_as_shipped() {
    must_succeed(&run("defaults", 0));
}

/// Of threads.
#[test]
fn without_the_handlers_the_first_fault_ends_the_process() {
    let output = run("bare", 1);
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    match std::env::var("CHAOS_WHAT").unwrap().as_str() {
        "chaos" => chaos(u32::try_from(number("CHAOS_FAULTS")).unwrap(), number("CHAOS_SEED")),
        "defaults" => defaults::run(),
        "bare" => {
            let engine = decoders().with_isolation(Isolation::Thread);
            let supervisor = start(&engine, SupervisorConfig::default().with_contain_faults(false));
            let fault = load::requests(1)[0].clone().with_fault(llamapen::Fault::NullWrite);
            let _ = support::read(supervisor.submit(fault).unwrap());
        }
        other => panic!("{other}"),
    }
}

/// Nothing stops the chaos, and nobody is blamed: that is what the run with the defaults shows. Prompts are decoded whole,
/// since how they are cut depends on time. Processes keep a log in `logs`, and have a limit to run into.
fn overrides(logs: &Path) -> SupervisorConfig {
    let ms = Duration::from_millis;
    let child = ChildConfig::default().with_memory_limit_bytes(Some(700 << 20)).with_log_dir(logs);
    SupervisorConfig::default()
        .with_taint(TaintPolicy::Continue)
        .with_restarts(1_000_000, ms(60_000))
        .with_backoff(ms(1), ms(1))
        .with_breaker_failures(1_000_000)
        .with_quarantine(Duration::ZERO)
        .with_snapshots(8, 1 << 30)
        .with_stall_limit(ms(5_000))
        .with_max_stall(ms(60_000))
        .with_child(child)
}

/// Two workers, whose own threads decode alone.
fn decoders() -> EngineConfig {
    engine().with_workers(2).with_threads(1).with_pool_id("decoders")
}

/// One worker with a compute thread beside its own.
fn with_compute_threads() -> EngineConfig {
    engine().with_workers(1).with_threads(2).with_pool_id("compute")
}

fn engine() -> EngineConfig {
    // What is known of a beginning may have been computed in another shape.
    support::config().with_n_ctx(256).with_n_ubatch(64).with_slots(2).with_prefix_cache(false)
}

fn start(engine: &EngineConfig, config: SupervisorConfig) -> Supervisor {
    support::start_with(engine, config)
}

fn chaos(faults: u32, seed: u64) {
    let began = Instant::now();
    let (ready, logs) = (table::Readiness::install(), tempfile::TempDir::new().unwrap());
    let held = support::held();
    let pools: Vec<_> = [(decoders(), 4, kinds::decoding()), (with_compute_threads(), 2, kinds::compute())]
        .into_iter()
        .map(|(engine, clients, kinds)| clients::Pool::new(&engine, overrides(logs.path()), clients, kinds))
        .collect();
    // Two thirds of the faults on threads that decode.
    let quotas = |faults: u32| [faults - faults / 3, faults / 3];
    let host = host::Host::start(pools[0].supervisor.clone(), seed);
    // Its data has its usual size by then.
    std::thread::sleep(Duration::from_secs(1));
    let before = support::traces::peak_and_resident().1;
    let seen = Mutex::new(table::Seen::default());
    match support::in_processes() {
        false => clients::run(&pools, quotas(faults), seed, &ready, &seen),
        true => {
            let killing = killer::Killer::start(&pools, seed);
            clients::run(&pools, quotas(faults - faults / 10), seed, &ready, &seen);
            let _full = disk::Full::begin(logs.path());
            clients::run(&pools, quotas(faults), seed, &ready, &seen);
            killing.end(&ready, &seen);
        }
    }
    let seen = seen.into_inner().unwrap();
    let crashes: u32 = pools.iter().map(clients::Pool::restarts).sum();
    let host = host.end();
    pools.iter().for_each(|pool| pool.supervisor.stop().unwrap());
    let grown = support::traces::peak_and_resident().1.saturating_sub(before) as f64;
    drop(pools);
    support::holds_at_most(held);

    table::print(&seen);
    let per_fault = grown / f64::from(crashes) / f64::from(1 << 20);
    println!(
        "| workers that are {}, seed {seed}, {:.0} s: {crashes} crashes; {} streams, {} of them resumed {} times",
        if support::in_processes() { "processes" } else { "threads" },
        began.elapsed().as_secs_f64(),
        seen.streams,
        seen.resumed,
        seen.restarts
    );
    println!("| wrong tokens: {}; resident memory: {per_fault:.2} MiB more per crash", seen.wrong);
    println!(
        "| host thread: {} rounds, {} logs, {} dlopens, {} answers; longest round {:.0} ms",
        host.rounds,
        host.logs,
        host.loads,
        host.answers,
        host.longest.as_secs_f64() * 1e3
    );
    assert_eq!(seen.wrong, 0);
    assert!(seen.faults.values().all(|of| of.contained == of.injected));
    assert!(per_fault <= 4.0, "{per_fault}");
    assert!(host.logs > 0 && host.loads > 0 && host.answers > 0);
    // A guard against hangs: it does each of these at least once a second when the machine is its own.
    assert!(host.longest < Duration::from_secs(20), "{:?}", host.longest);
}
