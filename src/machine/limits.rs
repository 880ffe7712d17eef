//! Resource limits of this process.

use super::files;
use std::path::Path;

#[derive(Default)]
pub(super) struct Limits {
    pub memlock: Option<u64>,
    pub address_space: Option<u64>,
    pub data: Option<u64>,
}

/// Bit of the capability that lifts the limit on locked memory.
const CAP_IPC_LOCK: u32 = 14;

pub(super) fn observe(root: &Path) -> Limits {
    let Some(limits) = files::text(&root.join("proc/self/limits")) else { return Limits::default() };
    // The soft limit is the first column; "unlimited" is no number.
    let soft = |name| files::field(&limits, name)?.split_whitespace().next()?.parse().ok();
    Limits {
        memlock: soft("Max locked memory").filter(|_| !may_lock_all(root)),
        address_space: soft("Max address space"),
        data: soft("Max data size"),
    }
}

/// Whether no limit on locked memory applies: the capability counts in the first user namespace only.
fn may_lock_all(root: &Path) -> bool {
    let first_namespace = files::text(&root.join("proc/self/uid_map"))
        .is_some_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    let capable = files::text(&root.join("proc/self/status"))
        .and_then(|status| u64::from_str_radix(files::field(&status, "CapEff")?, 16).ok())
        .is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1);
    first_namespace && capable
}
