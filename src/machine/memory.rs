//! Memory: how much there is, and how much of it is free right now.

use super::cgroup::Groups;
use super::files;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Memory as it is at this moment, in bytes. Another moment gives other numbers: it is for reports, not for plans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryReading {
    /// What the system can give without swapping (`MemAvailable`).
    pub available_bytes: Option<u64>,
    /// What the tightest control group uses, page cache included. `None`: no limit.
    pub cgroup_used_bytes: Option<u64>,
    /// What is left under the tightest control group's limit, counting file pages not used lately as free.
    pub cgroup_left_bytes: Option<u64>,
    /// What this process has in memory.
    pub resident_bytes: Option<u64>,
}

impl MemoryReading {
    /// Reads it now. Never fails: what cannot be found out is `None`.
    #[must_use]
    pub fn now() -> Self {
        Self::at(Path::new("/"))
    }

    pub(crate) fn at(root: &Path) -> Self {
        let left = Groups::of_this_process(root).memory_left();
        Self {
            available_bytes: meminfo(root, "MemAvailable"),
            cgroup_used_bytes: left.map(|(_, used)| used),
            cgroup_left_bytes: left.map(|(left, _)| left),
            resident_bytes: files::text(&root.join("proc/self/status")).and_then(|s| files::kib(&s, "VmRSS")),
        }
    }

    /// What this process can still take: the smaller of what the system has and what the limits leave.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        [self.available_bytes, self.cgroup_left_bytes].into_iter().flatten().min()
    }
}

/// Memory of the machine in bytes.
pub(super) fn total(root: &Path) -> Option<u64> {
    meminfo(root, "MemTotal")
}

fn meminfo(root: &Path, key: &str) -> Option<u64> {
    files::kib(&files::text(&root.join("proc/meminfo"))?, key)
}
