//! What a host and its workers take of memory, once some requests have run.
//!
//! `--isolation thread|process --workers N --slots N`: the host's resident memory, how much of it came with the run, and the
//! proportional share (PSS) of the host and of all its children together, in bytes.

use crate::options::{Options, greedy, words};
use crate::tier::{TIERS, kilobytes, start};
use serde_json::{Value, json};
use std::error::Error;

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let wanted = options.get("isolation", "process".to_owned())?;
    let (_, isolation) = TIERS.into_iter().find(|(name, _)| *name == wanted).ok_or("no such tier")?;
    let before = kilobytes("self", "status", "VmRSS:")?;
    let supervisor = start(options, isolation)?;
    let requests = (0..8).map(|seed| greedy(words(&supervisor, seed, 128), 64));
    let streams = requests.map(|request| supervisor.submit(request)).collect::<Result<Vec<_>, _>>()?;
    streams.into_iter().for_each(|stream| stream.for_each(drop));
    let resident = kilobytes("self", "status", "VmRSS:")?;
    let pids = supervisor.health()?.workers.into_iter().filter_map(|worker| Some(worker.process?.pid.to_string()));
    let shares = |pid: String| kilobytes(&pid, "smaps_rollup", "Pss:");
    let host = shares("self".into())?;
    let children = pids.map(shares).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({
        "rss": resident,
        "grown": resident.saturating_sub(before),
        "pss_host": host,
        "pss": host + children.iter().sum::<u64>(),
    }))
}
