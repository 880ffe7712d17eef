//! [`Preflight`]: what running a model needs, checked, with a remedy for whatever is missing.

use super::files::Found;
use super::memory::{MemoryPlan, without_fast_kernels};
use super::render::bytes;
use super::{PrepareOptions, PreparedEngine, check_names, decide_as_measured};
use crate::build_info::{BuildInfo, build_info};
use crate::config::{EngineConfig, Isolation};
use crate::device::{DriverState, decide as decide_devices};
use crate::error::{Error, Result};
use crate::isolation::child::{self, Located, NotLocated};
use crate::machine::{MachineSnapshot, MemoryReading};
use crate::model::GgmlType;
use crate::native::{find_cuda, free_on_gpus};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A report on everything that running a model needs. Printing it gives lines for people; it serializes for machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Preflight {
    /// The checks, in the order in which they depend on each other.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Check {
    /// Which one, such as `cpu_features`; names keep their meaning.
    pub name: String,
    /// What came of it.
    pub status: CheckStatus,
    /// What was found.
    pub message: String,
    /// What to do; present for everything that did not pass.
    pub remedy: Option<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CheckStatus {
    /// As it should be.
    Pass,
    /// It will run, with a drawback.
    Warn,
    /// It will not run.
    Fail,
}

impl Preflight {
    /// The worst status of any check.
    #[must_use]
    pub fn status(&self) -> CheckStatus {
        self.checks.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Pass)
    }

    /// The check of this name, if it was made: what depends on something that failed is not.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The whole of it as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data with string keys")
    }

    fn push(&mut self, name: &str, status: CheckStatus, message: impl Into<String>, remedy: Option<&str>) {
        let remedy = remedy.map(Into::into);
        self.checks.push(Check { name: name.into(), status, message: message.into(), remedy });
    }

    fn pass(&mut self, name: &str, message: impl Into<String>) {
        self.push(name, CheckStatus::Pass, message, None);
    }

    fn warn(&mut self, name: &str, message: impl Into<String>, remedy: &str) {
        self.push(name, CheckStatus::Warn, message, Some(remedy));
    }

    fn fail(&mut self, name: &str, message: impl Into<String>, remedy: &str) {
        self.push(name, CheckStatus::Fail, message, Some(remedy));
    }

    /// What a step gave, or a failed check.
    fn take<T>(&mut self, name: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.fail(name, error.to_string(), remedy(&error))).ok()
    }
}

/// What to do about an error, where its own text does not say it already.
fn remedy(error: &Error) -> &'static str {
    match error {
        Error::ModelNotFound { .. } => "name a GGUF file that this user can read, or a folder with one in it",
        Error::ModelInvalid { .. } => {
            "fetch the file again and compare its digest; if it is the original, it needs another version"
        }
        Error::DoesNotFit { .. } => "make it smaller as said, raise the limit, or run it on a machine with more memory",
        Error::Unsupported(_) => "use another model or another build",
        Error::Device { .. } => "make the GPU usable, or allow the CPU",
        _ => "change the value as said",
    }
}

pub(super) fn run(
    config: &EngineConfig,
    machine: &MachineSnapshot,
    options: &PrepareOptions<'_>,
    memory: &MemoryReading,
) -> Preflight {
    let mut report = Preflight { checks: vec![] };
    cpu(&mut report, machine, &build_info());
    if let Some(found) = report.take("model", check_names(config).and_then(|()| options.locate(config))) {
        model(&mut report, config, &found);
        // What the machine has is judged by the plan; without one there is nothing to compare it with.
        if let Some((engine, _)) = report.take("plan", decide_as_measured(config, machine, &found)) {
            if engine.n_gpu_layers() == 0 {
                // A level that cannot be had leads to no plan.
                let features = machine.kernel_features(&build_info()).unwrap_or_default();
                fast_kernels(&mut report, without_fast_kernels(&found.header, engine.use_repack(), features));
            }
            plan(&mut report, &engine);
            free_memory(&mut report, &engine, memory);
            if !engine.devices().is_empty() {
                free_gpu_memory(&mut report, engine.memory(), &free_on_gpus(engine.devices(), &machine.devices));
            }
            locked_memory(&mut report, &engine);
            worker_process(&mut report, engine.isolation(), &child::locate(None));
            if build_info().cuda_version.is_some() {
                kernels(&mut report, !engine.devices().is_empty(), &find_cuda());
            }
        }
    }
    gpu(&mut report, config, machine, build_info().cuda_version);
    report
}

fn cpu(report: &mut Preflight, machine: &MachineSnapshot, build: &BuildInfo) {
    let level = match machine.level_of(build) {
        Ok(level) => level,
        Err(error) => {
            return report.fail("cpu_features", error.to_string(), "unset LLAMAPEN_CPU_LEVEL, or name a lower level");
        }
    };
    let missing = machine.missing_cpu_features(build);
    let name = machine.cpu_model.as_deref().unwrap_or("this CPU");
    if !missing.is_empty() {
        let message = format!(
            "the library uses {}, which {name} lacks: it would end in an illegal instruction",
            missing.join(", ")
        );
        report.fail(
            "cpu_features",
            message,
            "build the library for this CPU: LLAMAPEN_TARGET_CPU=native here, or a lower level",
        );
    } else if machine.cpu_features.is_none() {
        report.warn(
            "cpu_features",
            "this system does not tell what its CPU can do",
            "try it; an illegal instruction means no",
        );
    } else {
        let kernels = match level {
            Some(level) => format!("{}, one of {} levels", level.name, build.cpu_levels.len()),
            None => build.target_cpu.into(),
        };
        report.pass("cpu_features", format!("{name} has all that the library uses ({kernels})"));
    }
    let (cores, cpus) = (machine.cores(), machine.cpus());
    let of = match machine.cpu_quota_millis {
        Some(millis) => format!(", by a quota of {}.{:03} CPUs", millis / 1000, millis % 1000),
        None => String::new(),
    };
    report.pass("cores", format!("{cores} cores, {cpus} logical CPUs may be used{of}"));
}

fn model(report: &mut Preflight, config: &EngineConfig, found: &Found) {
    let (info, files) = (found.header.info(), &found.files);
    let size: u64 = files.iter().map(|file| file.bytes).sum();
    let parts = if files.len() > 1 { format!(" in {} files", files.len()) } else { String::new() };
    report.pass("model", format!("{}: {}{parts}, readable and complete", files[0].path.display(), bytes(size)));
    let quantization = &info.quantization;
    report.pass("header", format!("{} {quantization}, GGUF version {}, sound", info.architecture, info.gguf_version));
    match config.digest.len() {
        0 => report.warn(
            "digest",
            "no digest is given: nothing says that this is the right file",
            "give it: digest sha256:…",
        ),
        n if n == files.len() => report.pass("digest", "given; prepare() compares it"),
        n => report.fail("digest", format!("{n} digests for {} files", files.len()), "give one per file, in order"),
    }
    match info.chat_template {
        Some(_) => report.pass("chat_template", "the file has one"),
        None => report.warn("chat_template", "the file has none: requests with messages are refused", "send prompts"),
    }
}

/// Whether the CPU multiplies the weights with several tokens at a time.
fn fast_kernels(report: &mut Preflight, slow: Option<(f64, GgmlType)>) {
    const NAME: &str = "fast_kernels";
    match slow {
        None => report.pass(NAME, "all weights are multiplied with several tokens at a time"),
        Some((share, kind)) => {
            let message = format!(
                "{:.0} % of the weights, most of them {kind}, are multiplied with one token at a time: prompts and several streams are slower than they could be",
                share * 100.0
            );
            report.warn(NAME, message, "where speed matters, use a file in Q4_0, Q4_1, Q8_0 or Q4_K, and use_repack");
        }
    }
}

fn plan(report: &mut Preflight, engine: &PreparedEngine) {
    let (memory, host) = (engine.memory(), engine.memory().host());
    let resident = host.resident();
    match host.capacity {
        Some(capacity) => {
            report.pass("plan", format!("{} of {} that this process may have", bytes(resident), bytes(capacity)))
        }
        None => report.warn(
            "plan",
            format!("{}; how much there is, is unknown", bytes(resident)),
            "see that there is as much",
        ),
    }
    if let Some(capacity) = host.capacity.filter(|&capacity| host.total() > capacity) {
        let message =
            format!("with the weights mapped from the file {} are used, of {}", bytes(host.total()), bytes(capacity));
        report.warn(
            "mapped_weights",
            message,
            "expect the weights to be read from disk again and again; use a smaller model",
        );
    }
    for adjusted in engine.adjustments() {
        report.warn("adjusted", adjusted, "ask for less, or allow less to be reduced");
    }
    for estimate in &memory.estimates {
        report.warn("estimate", estimate, "leave some memory free");
    }
}

fn free_memory(report: &mut Preflight, engine: &PreparedEngine, memory: &MemoryReading) {
    let host = engine.memory().host();
    let Some(free) = memory.free_bytes() else {
        return report.warn("free_memory", "how much is free is unknown", "see that there is enough");
    };
    if host.resident() > free {
        let message = format!("{} are needed and {} are free now", bytes(host.resident()), bytes(free));
        report.fail("free_memory", message, "end other programs, or use a shorter context or a smaller model");
    } else if host.total() > free {
        let message = format!("{} with the mapped weights, and {} are free now", bytes(host.total()), bytes(free));
        report.warn("free_memory", message, "expect weights to be read again from disk, or end other programs");
    } else {
        report.pass("free_memory", format!("{} of {} that are free now", bytes(host.total()), bytes(free)));
    }
}

/// `free`: bytes on the plan's devices, in their order.
pub(super) fn free_gpu_memory(report: &mut Preflight, plan: &MemoryPlan, free: &[Option<u64>]) {
    const NAME: &str = "free_gpu_memory";
    let places: Vec<_> = plan.places[1..].iter().zip(free).collect();
    let told: Vec<_> = places
        .iter()
        .map(|(place, free)| {
            let free = free.map_or_else(|| "an unknown number".into(), bytes);
            format!("{}: {} of {free} that are free now", place.place, bytes(place.resident()))
        })
        .collect();
    let told = told.join(", ");
    if places.iter().any(|(place, free)| free.is_some_and(|free| place.resident() > free)) {
        report.fail(NAME, told, "end other programs there, or use a shorter context or a smaller model");
    } else if places.iter().any(|(_, free)| free.is_none()) {
        report.warn(NAME, told, "see that there is enough: NVIDIA's management library (NVML) does not tell");
    } else {
        report.pass(NAME, told);
    }
}

fn locked_memory(report: &mut Preflight, engine: &PreparedEngine) {
    if !engine.use_mlock() {
        return;
    }
    let host = engine.memory().host();
    let locked = host.weights + host.weights_mapped;
    match engine.machine().memlock_limit_bytes {
        Some(limit) if locked > limit => {
            let message = format!("{} are to be locked, {} may be (RLIMIT_MEMLOCK)", bytes(locked), bytes(limit));
            report.warn(
                "locked_memory",
                message,
                "raise the limit (ulimit -l), or leave use_mlock out: weights stay unlocked",
            );
        }
        _ => report.pass("locked_memory", format!("{} may be locked", bytes(locked))),
    }
}

/// How a worker's process is started, which a start needs, or the escalation after a memory fault.
fn worker_process(report: &mut Preflight, isolation: Isolation, located: &Result<Located, NotLocated>) {
    const NAME: &str = "worker_process";
    match (isolation, located) {
        (Isolation::Process, Ok(located)) => report.pass(NAME, format!("started from {located}")),
        (Isolation::Process, Err(why)) => report.fail(NAME, why.to_string(), why.remedy()),
        (Isolation::Thread, Ok(located)) => report.pass(
            NAME,
            format!("workers are threads; after a memory fault they are processes, started from {located}"),
        ),
        (Isolation::Thread, Err(why)) => {
            let message = format!("workers are threads, and a memory fault stops the supervisor: {why}");
            report.warn(NAME, message, why.remedy());
        }
    }
}

/// The library with the kernels. It is not opened: that is for the process that uses it.
fn kernels(report: &mut Preflight, on_gpus: bool, found: &std::result::Result<PathBuf, String>) {
    const NAME: &str = "cuda_library";
    let remedy = "put it there: the build leaves it beside the library";
    match (found, on_gpus) {
        (Ok(path), _) => report.pass(NAME, path.display().to_string()),
        (Err(why), true) => report.fail(NAME, why.clone(), remedy),
        (Err(why), false) => report.warn(NAME, format!("no GPU could be used: {why}"), remedy),
    }
}

/// `built`: the version of CUDA that the library was built with.
fn gpu(report: &mut Preflight, config: &EngineConfig, machine: &MachineSnapshot, built: Option<u32>) {
    let devices = &machine.devices;
    let names: Vec<_> =
        devices.devices.iter().map(|d| format!("GPU{} {} ({})", d.index, d.name, bytes(d.total_bytes))).collect();
    let names = names.join(", ");
    let cuda = |version: u32| format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
    match (&devices.driver, built) {
        // A newer major version needs a newer driver; within one, older drivers run it.
        (&DriverState::Present { version }, Some(built)) if built / 1000 > version / 1000 => {
            let message =
                format!("the library was built with {}, the driver runs up to {}", cuda(built), cuda(version));
            report.fail("driver", message, "update the driver, or build the library with an older toolkit");
        }
        (&DriverState::Present { version }, Some(_)) => {
            report.pass("driver", format!("for {}: {names}", cuda(version)))
        }
        (DriverState::Present { .. }, None) if !names.is_empty() => {
            report.warn("driver", format!("this build cannot use {names}"), "build with the feature `cuda`");
        }
        (DriverState::Failed { reason, .. }, Some(_)) => {
            report.warn("driver", reason, "mend the driver, or use the CPU")
        }
        _ => {}
    }
    for broken in &devices.broken {
        report.warn("driver", format!("GPU{}: {}", broken.index, broken.reason), "see what the driver says of it");
    }
    match decide_devices(config.require_gpu, &config.devices, devices, built.is_some()) {
        Ok(decision) => report.pass("devices", decision.reason),
        // The plan has failed of the same.
        Err(_) if report.get("plan").is_some_and(|check| check.status == CheckStatus::Fail) => {}
        Err(error) => report.fail("devices", error.to_string(), remedy(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{BrokenDevice, DeviceInfo, Devices};

    #[test]
    fn processes_need_a_worker_and_threads_do_without_one() {
        let check = |isolation, located: &Result<Located, NotLocated>| {
            let mut report = Preflight { checks: vec![] };
            worker_process(&mut report, isolation, located);
            report.get("worker_process").cloned().unwrap()
        };
        let none = Err(NotLocated::NoWorker { looked: vec!["/opt/llamapen-worker".into()] });
        let here = Ok(Located::Program("/opt/llamapen-worker".into()));
        let missing = check(Isolation::Process, &none);
        assert_eq!(missing.status, CheckStatus::Fail);
        assert!(missing.message.ends_with("no /opt/llamapen-worker"), "{missing:?}");
        assert!(missing.remedy.unwrap().contains("LLAMAPEN_WORKER"));
        let threads = check(Isolation::Thread, &none);
        assert_eq!(threads.status, CheckStatus::Warn);
        assert!(threads.message.contains("stops the supervisor"), "{threads:?}");
        for (isolation, says) in
            [(Isolation::Process, "started from /opt"), (Isolation::Thread, "after a memory fault")]
        {
            let found = check(isolation, &here);
            assert_eq!((found.status, found.remedy), (CheckStatus::Pass, None));
            assert!(
                found.message.contains(says) && found.message.ends_with("/opt/llamapen-worker"),
                "{}",
                found.message
            );
        }
    }

    #[test]
    fn the_kernels_must_be_there_where_they_are_used() {
        let check = |on_gpus, found: std::result::Result<PathBuf, String>| {
            let mut report = Preflight { checks: vec![] };
            kernels(&mut report, on_gpus, &found);
            report.get("cuda_library").unwrap().clone()
        };
        assert_eq!(check(true, Ok("/lib/x.so".into())).status, CheckStatus::Pass);
        assert_eq!(check(false, Err("there is none".into())).status, CheckStatus::Warn);
        let missing = check(true, Err("there is none".into()));
        assert_eq!(missing.status, CheckStatus::Fail);
        assert!(missing.message.contains("there is none") && missing.remedy.is_some());
    }

    #[test]
    fn the_driver_is_compared_with_the_build() {
        let report = |devices: Devices, built: Option<u32>| {
            let mut report = Preflight { checks: vec![] };
            gpu(&mut report, &EngineConfig::new("m"), &MachineSnapshot::new(1, 1).with_devices(devices), built);
            let driver = report.get("driver").map(|check| check.status);
            (driver, report.to_string())
        };
        let one = |version| Devices::present(version, vec![DeviceInfo::new(0, "A", 1 << 30)]);
        assert_eq!(report(one(13000), Some(13000)).0, Some(CheckStatus::Pass));
        assert_eq!(report(one(13000), Some(13010)).0, Some(CheckStatus::Pass));
        let (old, text) = report(one(12080), Some(13000));
        assert_eq!(old, Some(CheckStatus::Fail));
        assert!(text.contains("CUDA 13.0") && text.contains("CUDA 12.8"), "{text}");
        assert_eq!(report(one(13000), None).0, Some(CheckStatus::Warn), "a GPU that the build cannot use");
        assert_eq!(report(Devices::failed(803, "mismatch"), Some(13000)).0, Some(CheckStatus::Warn));
        assert_eq!(report(Devices::absent("none"), Some(13000)).0, None);
        let mut broken = one(13000);
        broken.broken.push(BrokenDevice::new(1, 46, "it fell off the bus".into()));
        assert!(report(broken, None).1.contains("fell off the bus"));
    }
}
