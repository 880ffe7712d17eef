//! What `prepare` observes of the machine: a plain value, so that a plan can be made for another one.
//!
//! The snapshot holds what stays the same while nobody changes the machine or the container; equal machines give equal
//! snapshots. What changes from moment to moment is in [`MemoryReading`]. Observing reads files below `/proc` and
//! `/sys`, keeps none open and starts nothing; for what asking the GPU driver does, see [`device`](crate::device).

mod cgroup;
mod cpus;
mod features;
pub(crate) mod files;
mod limits;
mod memory;
mod process;

pub(crate) use cgroup::{OwnMemoryGroup, own_memory_group};
pub use memory::MemoryReading;
pub(crate) use process::{RunningProcess, resident_bytes, running as running_process};

use crate::build_info::{BuildInfo, CpuLevel, build_info};
use crate::config::from_json;
use crate::device::{Devices, Driver, NotAsked};
use crate::error::{Error, Result};
use crate::native::{CudaDriver, cpu_level};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// Number of the serialized form; another one is refused.
const SCHEMA: u32 = 1;

/// The stable facts of a machine, or of the part of it that this process may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MachineSnapshot {
    schema: u32,
    /// Logical CPUs that this process may run on: online, and in the affinity mask of its main thread.
    pub logical_cpus: u32,
    /// Cores among them; hyper-threads of one core count once.
    pub physical_cores: u32,
    /// CPU time that the cgroups grant, in thousandths of a CPU: the smallest quota along the path. `None`: no quota.
    pub cpu_quota_millis: Option<u64>,
    /// Memory of the machine in bytes, without swap. `None`: unknown.
    pub ram_bytes: Option<u64>,
    /// Memory that the cgroups grant in bytes: the smallest limit along the path. `None`: no limit.
    ///
    /// `memory.high` counts as one: beyond it the kernel reclaims and throttles until a model that does not fit crawls.
    pub memory_limit_bytes: Option<u64>,
    /// Bytes that may be locked (`RLIMIT_MEMLOCK`). `None`: no limit, or one that does not apply to this process.
    pub memlock_limit_bytes: Option<u64>,
    /// Bytes of address space (`RLIMIT_AS`). `None`: no limit.
    pub address_space_limit_bytes: Option<u64>,
    /// Bytes of data and private writable mappings (`RLIMIT_DATA`). `None`: no limit.
    pub data_limit_bytes: Option<u64>,
    /// Name of the processor, where the system tells it.
    pub cpu_model: Option<String>,
    /// Instruction sets under the compiler's names, as in [`BuildInfo::cpu_features`]. `None`: unknown.
    pub cpu_features: Option<BTreeSet<String>>,
    /// Level of the CPU kernels that runs there, by its name in [`BuildInfo::cpu_levels`]: what this build chose when it was
    /// loaded, or what `LLAMAPEN_CPU_LEVEL` asks for, which is for tests. `None`: the best that `cpu_features` allow. Only a build
    /// with several levels has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_level: Option<String>,
    /// GPUs.
    pub devices: Devices,
}

impl MachineSnapshot {
    /// A machine of `cores` cores without hyper-threads and `ram_bytes` of memory, without limits and GPUs.
    #[must_use]
    pub fn new(cores: u32, ram_bytes: u64) -> Self {
        Self {
            schema: SCHEMA,
            logical_cpus: cores,
            physical_cores: cores,
            cpu_quota_millis: None,
            ram_bytes: Some(ram_bytes),
            memory_limit_bytes: None,
            memlock_limit_bytes: None,
            address_space_limit_bytes: None,
            data_limit_bytes: None,
            cpu_model: None,
            cpu_features: None,
            cpu_level: None,
            devices: Devices::default(),
        }
    }

    /// This machine. Never fails: what cannot be found out is `None`, and the number of CPUs falls back to the standard
    /// library's.
    ///
    /// GPUs are looked for only by a build that can use them: asking the driver has consequences for the process, see
    /// [`device`](crate::device). [`Devices::discover`] asks in any build.
    #[must_use]
    pub fn observe() -> Self {
        match build_info().cuda_version {
            Some(_) => Self { cpu_level: cpu_level(), ..Self::observe_at(Path::new("/"), &CudaDriver) },
            None => Self::observe_host(),
        }
    }

    /// This machine without its GPUs: the driver is left alone.
    #[must_use]
    pub fn observe_host() -> Self {
        Self { cpu_level: cpu_level(), ..Self::observe_at(Path::new("/"), &NotAsked) }
    }

    pub(crate) fn observe_at(root: &Path, driver: &dyn Driver) -> Self {
        let cpus = cpus::observe(root);
        let limits = limits::observe(root);
        let cpu = features::observe(root);
        let groups = cgroup::Groups::of_this_process(root);
        Self {
            schema: SCHEMA,
            logical_cpus: cpus.logical,
            physical_cores: cpus.physical,
            cpu_quota_millis: groups.cpu_quota_millis(),
            ram_bytes: memory::total(root),
            memory_limit_bytes: groups.memory_limit(),
            memlock_limit_bytes: limits.memlock,
            address_space_limit_bytes: limits.address_space,
            data_limit_bytes: limits.data,
            cpu_model: cpu.model,
            cpu_features: cpu.features,
            cpu_level: None,
            devices: driver.discover(),
        }
    }

    /// Reads what [`to_json`](Self::to_json) wrote, or what somebody made up.
    ///
    /// # Errors
    /// `InvalidParams` for what is no snapshot, or one of another version's form.
    pub fn from_json(json: &str) -> Result<Self> {
        let snapshot: Self = from_json("machine snapshot", json)?;
        match snapshot.schema {
            SCHEMA => Ok(snapshot),
            other => {
                Err(Error::invalid("machine snapshot", format!("its schema is {other}, this build reads {SCHEMA}")))
            }
        }
    }

    /// The whole of it as JSON: equal snapshots give equal bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data with string keys")
    }

    /// Compute threads that run at full speed: cores within the quota, at least 1.
    #[must_use]
    pub fn cores(&self) -> u32 {
        self.physical_cores.min(self.quota()).max(1)
    }

    /// Compute threads at most: logical CPUs within the quota, at least 1. More would wait for each other.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.logical_cpus.min(self.quota()).max(1)
    }

    /// Memory that this process can have in bytes: the machine's, within the limits. `None`: unknown and unlimited.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        [self.ram_bytes, self.memory_limit_bytes].into_iter().flatten().min()
    }

    /// Whole CPUs of the quota.
    fn quota(&self) -> u32 {
        self.cpu_quota_millis.map_or(u32::MAX, |millis| u32::try_from(millis / 1000).unwrap_or(u32::MAX))
    }

    /// Instruction sets that `build` uses and this machine lacks: running it would end in an illegal instruction.
    ///
    /// Those that the system does not tell are not counted: no answer is not a no.
    #[must_use]
    pub fn missing_cpu_features(&self, build: &BuildInfo) -> Vec<String> {
        match &self.cpu_features {
            Some(has) => features::missing(build.cpu_features, has),
            None => vec![],
        }
    }

    /// Which level of the CPU kernels of `build` runs there; `None` if it has one only.
    ///
    /// # Errors
    /// `InvalidParams` where [`cpu_level`](Self::cpu_level) is none of the build's, or one that needs more than `cpu_features`.
    pub fn level_of(&self, build: &BuildInfo) -> Result<Option<&'static CpuLevel>> {
        let lacks = |level: &CpuLevel| match &self.cpu_features {
            Some(has) => features::missing(level.features, has),
            None => vec![],
        };
        let levels = build.cpu_levels;
        let Some(name) = self.cpu_level.as_deref().filter(|_| !levels.is_empty()) else {
            // What lacks the least level is told by `missing_cpu_features`.
            return Ok(levels.iter().rfind(|level| lacks(level).is_empty()).or(levels.first()));
        };
        let refuse = |why: String| Err(Error::invalid("cpu_level", format!("{name:?} {why} (LLAMAPEN_CPU_LEVEL?)")));
        match levels.iter().find(|level| level.name == name) {
            None => {
                let names: Vec<_> = levels.iter().map(|level| level.name).collect();
                refuse(format!("is no level of this build's CPU kernels, which are {}", names.join(", ")))
            }
            Some(level) => match lacks(level)[..] {
                [] => Ok(Some(level)),
                ref missing => refuse(format!("needs {}, which this CPU lacks", missing.join(", "))),
            },
        }
    }

    /// Instruction sets that the CPU kernels of `build` use there.
    pub(crate) fn kernel_features(&self, build: &BuildInfo) -> Result<&'static [&'static str]> {
        Ok(self.level_of(build)?.map_or(build.cpu_features, |level| level.features))
    }

    /// Sets [`logical_cpus`](Self::logical_cpus) and [`physical_cores`](Self::physical_cores).
    #[must_use]
    pub fn with_cpus(mut self, logical: u32, physical: u32) -> Self {
        (self.logical_cpus, self.physical_cores) = (logical, physical);
        self
    }

    /// Sets [`cpu_quota_millis`](Self::cpu_quota_millis).
    #[must_use]
    pub fn with_cpu_quota_millis(mut self, millis: Option<u64>) -> Self {
        self.cpu_quota_millis = millis;
        self
    }

    /// Sets [`ram_bytes`](Self::ram_bytes).
    #[must_use]
    pub fn with_ram_bytes(mut self, bytes: Option<u64>) -> Self {
        self.ram_bytes = bytes;
        self
    }

    /// Sets [`memory_limit_bytes`](Self::memory_limit_bytes).
    #[must_use]
    pub fn with_memory_limit_bytes(mut self, bytes: Option<u64>) -> Self {
        self.memory_limit_bytes = bytes;
        self
    }

    /// Sets [`memlock_limit_bytes`](Self::memlock_limit_bytes).
    #[must_use]
    pub fn with_memlock_limit_bytes(mut self, bytes: Option<u64>) -> Self {
        self.memlock_limit_bytes = bytes;
        self
    }

    /// Sets [`address_space_limit_bytes`](Self::address_space_limit_bytes).
    #[must_use]
    pub fn with_address_space_limit_bytes(mut self, bytes: Option<u64>) -> Self {
        self.address_space_limit_bytes = bytes;
        self
    }

    /// Sets [`data_limit_bytes`](Self::data_limit_bytes).
    #[must_use]
    pub fn with_data_limit_bytes(mut self, bytes: Option<u64>) -> Self {
        self.data_limit_bytes = bytes;
        self
    }

    /// Sets [`cpu_model`](Self::cpu_model).
    #[must_use]
    pub fn with_cpu_model(mut self, model: impl Into<String>) -> Self {
        self.cpu_model = Some(model.into());
        self
    }

    /// Sets [`cpu_features`](Self::cpu_features).
    #[must_use]
    pub fn with_cpu_features<T: Into<String>>(mut self, features: impl IntoIterator<Item = T>) -> Self {
        self.cpu_features = Some(features.into_iter().map(Into::into).collect());
        self
    }

    /// Sets [`cpu_level`](Self::cpu_level).
    #[must_use]
    pub fn with_cpu_level(mut self, level: impl Into<String>) -> Self {
        self.cpu_level = Some(level.into());
        self
    }

    /// Sets [`devices`](Self::devices).
    #[must_use]
    pub fn with_devices(mut self, devices: Devices) -> Self {
        self.devices = devices;
        self
    }
}

#[cfg(test)]
mod tests;
