//! The two tiers, with everything else the same.

use crate::options::Options;
use llamapen::{EngineConfig, Isolation, Supervisor, SupervisorConfig, TaintPolicy, prepare};
use std::error::Error;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// With names as in results.
pub const TIERS: [(&str, Isolation); 2] = [("thread", Isolation::Thread), ("process", Isolation::Process)];

/// A supervisor whose workers are all ready. Its restarts do not wait, and nobody is blamed for a crash.
pub fn start(options: &Options, isolation: Isolation) -> Result<Supervisor, Box<dyn Error>> {
    let spare = isolation == Isolation::Process && options.get("warm-spare", false)?;
    let config = SupervisorConfig::default()
        .with_taint(TaintPolicy::Continue)
        .with_restarts(1_000_000, LONG)
        .with_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .with_breaker_failures(1_000_000)
        .with_quarantine(Duration::ZERO);
    let snapshot_tokens = options.get("snapshot-tokens", config.snapshot_tokens)?;
    let snapshot_bytes = config.snapshot_bytes;
    let config = config.with_snapshots(snapshot_tokens, snapshot_bytes);
    let engine = engine(options)?.with_isolation(isolation).with_warm_spare(spare);
    let supervisor = Supervisor::start(prepare(&engine)?, config)?;
    while !supervisor.health()?.workers.iter().all(|worker| worker.ready) {
        supervisor.wait_ready(Some(LONG))?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(supervisor)
}

fn engine(options: &Options) -> Result<EngineConfig, Box<dyn Error>> {
    let engine = match options.get("expected-streams", 0)? {
        0 => options.engine()?.with_workers(options.get("workers", 1)?).with_slots(options.get("slots", 1)?),
        streams => EngineConfig::new(options.model()?).with_streams(streams),
    };
    Ok(engine.with_n_ctx(options.get("n-ctx", 1024)?))
}

/// Bytes of what a line of a file in a process's folder says, in kilobytes.
pub fn kilobytes(pid: &str, file: &str, line: &str) -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let found =
        text.lines().find_map(|found| found.strip_prefix(line)).ok_or_else(|| format!("{file} without {line}"))?;
    Ok(found.split_whitespace().next().ok_or("no number")?.parse::<u64>()? << 10)
}
