//! What a host and its workers take of memory, once some requests have run.
//!
//! `--isolation thread|process --workers N --slots N`, or `--expected-streams N` for the engine to choose these: the host's
//! resident memory, how much of it came with the run, and the proportional share (PSS) of the host and of all its children
//! together, in bytes.

use crate::options::{Options, greedy, words};
use crate::tier::{TIERS, kilobytes, start};
use serde_json::{Value, json};
use std::error::Error;

pub fn measure(options: &Options) -> Result<Value, Box<dyn Error>> {
    let wanted = options.get("isolation", "process".to_owned())?;
    let (_, isolation) = TIERS.into_iter().find(|(name, _)| *name == wanted).ok_or("no such tier")?;
    let before = kilobytes("self", "status", "VmRSS:")?;
    let supervisor = start(options, isolation)?;
    let (n_prompt, n_predict) = (options.get("n-prompt", 128)?, options.get("n-predict", 64)?);
    let requests = (0..8).map(|seed| greedy(words(&supervisor, seed, n_prompt), n_predict));
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
