//! What a worker's process is held to: the limits that the host set and, with [`Sandbox::Strict`], the kernel's refusal of
//! all that computing does not need.
//!
//! Whoever takes over the reading of a model with a file made for it has the process then, and finds nothing in it to take:
//! no file but the model's, no network, no program to start, no other process. What it has is its own memory, the time of
//! its CPUs, and the socket to its host, which trusts nothing that comes from there.

mod files;
mod limits;
mod memory;
#[cfg(feature = "fault-injection")]
pub(crate) mod probe;
mod syscalls;
#[cfg(all(test, feature = "fault-injection"))]
mod tests;

pub(crate) use memory::{MemoryGroup, kernel_oom_kills, limit_memory};

use crate::config::Sandbox;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;
use std::{fmt, io};

/// What a process is to be held to. It travels to the process, which does it to itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Confinement {
    pub sandbox: Sandbox,
    /// Files that it may open in the sandbox, to read. As the system has their names: they need not be text.
    pub readable: Vec<OsString>,
    /// What [`limit_memory`] came to.
    pub memory: MemoryLimit,
    /// Empty: as it is.
    pub cpus: Vec<u32>,
    /// Added to what it is.
    pub nice: i32,
    /// How much sooner than others, 0 to 1000, it is to be killed when memory runs out; never later than as it is.
    pub oom_score_adj: i32,
}

/// What a worker's process is held to, as the kernel took it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConfinementReport {
    /// Landlock: which files it may open, and that it reaches no network and no other process.
    pub landlock: Guard,
    /// Seccomp: which system calls it may make.
    pub seccomp: Guard,
    /// Nothing that it starts gets more rights than it has.
    pub no_new_privs: bool,
    /// Other processes of the same user may look into it.
    pub dumpable: bool,
    /// Its limit of memory.
    pub memory: MemoryLimit,
    /// CPUs that it may run on.
    pub cpus: Vec<u32>,
    /// Its niceness.
    pub nice: i32,
    /// How much sooner than others it is killed when memory runs out. `None`: the system does not say.
    pub oom_score_adj: Option<i32>,
}

/// A protection by the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Guard {
    /// It was not asked for.
    #[default]
    Off,
    /// It holds, for the rest of the process's life; in which form.
    On(String),
    /// It was asked for, and the kernel has none; why.
    Missing(String),
}

/// How the memory of a worker's process is limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemoryLimit {
    /// It is not.
    #[default]
    None,
    /// By a control group of version 2.
    CgroupV2 {
        /// That it may have.
        bytes: u64,
    },
    /// By a control group of version 1.
    CgroupV1 {
        /// That it may have.
        bytes: u64,
    },
    /// By `RLIMIT_DATA`.
    RlimitData {
        /// Of data that it may write to, and of stacks.
        bytes: u64,
        /// Why there is no control group.
        no_cgroup: String,
    },
}

/// Why a process could not be held to what it was told. It must not go on then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    #[error(
        "a sandbox holds for the thread that sets it up and for those it starts, and the process has {0} threads already"
    )]
    Threads(usize),
    #[error("child.cpus: {problem}; this process may run on {allowed:?}")]
    Cpus { problem: String, allowed: Vec<u32> },
    #[error(
        "child.nice: {0} cannot be added to the niceness: {1}. Less than 0 takes CAP_SYS_NICE, or an RLIMIT_NICE that allows it"
    )]
    Nice(i32, io::Error),
    #[error("{0} cannot be set: {1}")]
    Limit(&'static str, io::Error),
    #[error("{}, which the sandbox is to leave readable: {problem}", path.display())]
    Readable { path: PathBuf, problem: String },
    #[error("the filter of system calls cannot be made: {0}")]
    Filter(String),
}

/// Holds this process to it, for the rest of its life. On its only thread, before it reads anything of the model.
pub(crate) fn apply(confinement: &Confinement) -> Result<ConfinementReport, ConfineError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    match confinement.sandbox == Sandbox::Strict && threads > 1 {
        true => Err(ConfineError::Threads(threads)),
        false => apply_here(confinement),
    }
}

/// The same for this thread; the limits are the process's.
fn apply_here(confinement: &Confinement) -> Result<ConfinementReport, ConfineError> {
    limits::no_core_dumps()?;
    if let MemoryLimit::RlimitData { bytes, .. } = confinement.memory {
        limits::data(bytes)?;
    }
    let mut report = ConfinementReport {
        memory: confinement.memory.clone(),
        cpus: limits::cpus(&confinement.cpus)?,
        nice: limits::nice(confinement.nice)?,
        oom_score_adj: limits::oom_score_adj(confinement.oom_score_adj),
        ..ConfinementReport::default()
    };
    if confinement.sandbox == Sandbox::Strict {
        limits::no_new_privileges();
        report.landlock = files::only(&confinement.readable)?;
        limits::not_dumpable();
    }
    (report.no_new_privs, report.dumpable) = limits::privileges_and_dumpable();
    // The last: it refuses all of the above.
    if confinement.sandbox == Sandbox::Strict {
        report.seccomp = syscalls::only_a_workers()?;
    }
    Ok(report)
}

impl Guard {
    /// Whether it holds.
    #[must_use]
    pub fn is_on(&self) -> bool {
        matches!(self, Self::On(_))
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(form) => f.write_str(form),
            Self::Missing(why) => write!(f, "missing: {why}"),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::CgroupV2 { bytes } => write!(f, "cgroup v2, {bytes} bytes"),
            Self::CgroupV1 { bytes } => write!(f, "cgroup v1, {bytes} bytes"),
            Self::RlimitData { bytes, no_cgroup } => write!(f, "rlimit data, {bytes} bytes ({no_cgroup})"),
        }
    }
}
