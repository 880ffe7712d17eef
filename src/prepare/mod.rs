//! `prepare`: decides and checks, and does nothing.
//!
//! It reads the header of the model's file and takes the machine as a value. It never loads weights, starts a thread,
//! opens a socket, writes a file or calls llama.cpp; equal input gives equal output.

mod choose;
mod engine;
mod files;
mod fit;
mod memory;
mod preflight;
mod rates;
mod rates_file;
mod render;
mod steps;
mod topology;

#[cfg(test)]
mod tests;

pub use engine::PreparedEngine;
pub use files::FileIdentity;
pub(crate) use memory::HOST;
pub use memory::{MemoryPlan, PlacePlan};
pub use preflight::{Check, CheckStatus, Preflight};
pub use rates::Rate;
pub(crate) use rates::Rates;
pub(crate) use rates_file::store as store_rates;
pub use steps::{Plan, Step};

use crate::build_info::build_info;
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::machine::MachineSnapshot;
use crate::model::{DigestCache, HashProgress, HubCache, ModelReference, locate, verify_digests};
use files::Found;
use std::ops::ControlFlow;

/// What accompanies a [`prepare_with`].
#[derive(Default)]
#[non_exhaustive]
pub struct PrepareOptions<'a> {
    /// Where models named `hf:…` are looked up. Default: as the hub's own tools find it, from the environment.
    pub hub: Option<HubCache>,
    /// Digests verified before, so that a large file is not read again. Default: none, so that nothing is written.
    pub digest_cache: Option<DigestCache>,
    /// Told how far the check of digests has come; `Break` ends it with `Cancelled`.
    pub progress: Option<&'a mut dyn FnMut(HashProgress) -> ControlFlow<()>>,
}

impl<'a> PrepareOptions<'a> {
    /// Sets [`hub`](Self::hub).
    #[must_use]
    pub fn with_hub(mut self, hub: HubCache) -> Self {
        self.hub = Some(hub);
        self
    }

    /// Sets [`digest_cache`](Self::digest_cache).
    #[must_use]
    pub fn with_digest_cache(mut self, cache: DigestCache) -> Self {
        self.digest_cache = Some(cache);
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: &'a mut dyn FnMut(HashProgress) -> ControlFlow<()>) -> Self {
        self.progress = Some(progress);
        self
    }

    fn locate(&self, config: &EngineConfig) -> Result<Found> {
        let reference = ModelReference::from_os(&config.model)?;
        let hub = self.hub.clone().unwrap_or_else(HubCache::from_env);
        Found::new(locate(&reference, &hub)?)
    }

    fn verify(&mut self, config: &EngineConfig, found: &Found) -> Result<()> {
        if config.digest.is_empty() {
            return Ok(());
        }
        let paths: Vec<_> = found.files.iter().map(|file| file.path.clone()).collect();
        let mut silent = |_| ControlFlow::Continue(());
        let progress: &mut dyn FnMut(HashProgress) -> ControlFlow<()> = match &mut self.progress {
            Some(progress) => *progress,
            None => &mut silent,
        };
        verify_digests(&paths, &config.digest, self.digest_cache.as_ref(), progress)?;
        found.unchanged("its digest was computed")
    }
}

/// Checks `config` against its model file and this machine, and chooses what it leaves open.
///
/// # Errors
/// `ModelNotFound` where there is no readable regular file, `ModelInvalid` where it is no GGUF, is damaged or describes
/// a model that llama.cpp cannot load safely, `DigestMismatch` where it is another one than was named, `InvalidParams` for
/// values out of range, `OutOfMemory` where it does not fit, `DeviceError` for GPUs that cannot be used, `Unsupported` for
/// models that this version does not run.
pub fn prepare(config: &EngineConfig) -> Result<PreparedEngine> {
    prepare_on(config, &MachineSnapshot::observe())
}

/// The same for a machine that was observed before, or that is not there: equal `config`, `machine` and file give equal
/// bytes.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_on(config: &EngineConfig, machine: &MachineSnapshot) -> Result<PreparedEngine> {
    prepare_with(config, machine, PrepareOptions::default())
}

/// The same with progress, cancelling, and a cache for digests.
///
/// # Errors
/// As [`prepare`], and `Cancelled`.
pub fn prepare_with(
    config: &EngineConfig,
    machine: &MachineSnapshot,
    mut options: PrepareOptions<'_>,
) -> Result<PreparedEngine> {
    check_names(config)?;
    let found = options.locate(config)?;
    let (engine, _) = decide_as_measured(config, machine, &found)?;
    // Last, because it takes longest.
    options.verify(config, &found)?;
    Ok(engine)
}

/// What would be done to run `config`, step by step.
///
/// # Errors
/// As [`prepare`]; given digests are not checked.
pub fn plan(config: &EngineConfig) -> Result<Plan> {
    plan_on(config, &MachineSnapshot::observe())
}

/// The same for a machine that was observed before, or that is not there.
///
/// # Errors
/// As [`plan`].
pub fn plan_on(config: &EngineConfig, machine: &MachineSnapshot) -> Result<Plan> {
    plan_with(config, machine, &PrepareOptions::default())
}

/// The same for a model from another hub cache.
///
/// # Errors
/// As [`plan`].
pub fn plan_with(config: &EngineConfig, machine: &MachineSnapshot, options: &PrepareOptions<'_>) -> Result<Plan> {
    check_names(config)?;
    let found = options.locate(config)?;
    let (engine, topology) = decide_as_measured(config, machine, &found)?;
    Ok(Plan::of(&engine, topology))
}

/// Looks at everything that running `config` needs, and says what is wrong and what to do about it. Never fails: what
/// fails is a check.
///
/// Other than a [`PreparedEngine`], it tells of this moment: how much memory is free now. Given digests are not checked,
/// because that reads whole files; [`prepare`] does.
#[must_use]
pub fn preflight(config: &EngineConfig) -> Preflight {
    preflight_on(config, &MachineSnapshot::observe())
}

/// The same for a machine that was observed before.
#[must_use]
pub fn preflight_on(config: &EngineConfig, machine: &MachineSnapshot) -> Preflight {
    preflight_with(config, machine, &PrepareOptions::default())
}

/// The same for a model from another hub cache.
#[must_use]
pub fn preflight_with(config: &EngineConfig, machine: &MachineSnapshot, options: &PrepareOptions<'_>) -> Preflight {
    preflight::run(config, machine, options, &crate::machine::MemoryReading::now())
}

fn decide(
    config: &EngineConfig,
    machine: &MachineSnapshot,
    found: &Found,
    rates: Option<&Rates>,
) -> Result<PreparedEngine> {
    decide_and_say(config, machine, found, rates).map(|(engine, _)| engine)
}

/// The same, and why it has so many workers and slots.
fn decide_and_say(
    config: &EngineConfig,
    machine: &MachineSnapshot,
    found: &Found,
    rates: Option<&Rates>,
) -> Result<(PreparedEngine, String)> {
    let mut choices = choose::choose(config, &found.header, machine, build_info().cuda_version.is_some(), rates)?;
    let topology = std::mem::take(&mut choices.topology);
    Ok((PreparedEngine::new(config, machine, found, choices, rates.cloned()), topology))
}

/// By what a supervisor measured of what would be chosen without.
fn decide_as_measured(
    config: &EngineConfig,
    machine: &MachineSnapshot,
    found: &Found,
) -> Result<(PreparedEngine, String)> {
    let decided = decide_and_say(config, machine, found, None)?;
    match rates_file::find(&decided.0) {
        Some(rates) => decide_and_say(config, machine, found, Some(&rates)),
        None => Ok(decided),
    }
}

/// Names go into logs and file names.
fn check_names(config: &EngineConfig) -> Result<()> {
    let Some(name) = &config.pool_id else { return Ok(()) };
    match !name.is_empty() && name.len() <= 128 && name.chars().all(in_names) && !name.starts_with('.') {
        true => Ok(()),
        false => Err(Error::invalid(
            "pool_id",
            format!("{name:?} is not 1 to 128 letters, digits, '.', '_' or '-', of which '.' is not the first"),
        )),
    }
}

fn in_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}
