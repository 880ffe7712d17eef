//! CPUs that this process may run on, and the cores that they belong to.

use super::files;
use std::collections::BTreeSet;
use std::path::Path;

/// The kernel's largest configuration has 8192; a larger number is no CPU.
const MOST: u32 = 1 << 16;

pub(super) struct Cpus {
    pub logical: u32,
    pub physical: u32,
}

/// Affinity is the main thread's: that of the calling thread may be a passing wish of the host, and threads that are
/// started later choose for themselves.
pub(super) fn observe(root: &Path) -> Cpus {
    let system = root.join("sys/devices/system/cpu");
    let allowed = files::text(&root.join("proc/self/status"))
        .and_then(|status| list(files::field(&status, "Cpus_allowed_list")?));
    let online = files::text(&system.join("online")).and_then(|online| list(&online));
    let usable = match (allowed, online) {
        (Some(allowed), Some(online)) => &allowed & &online,
        (Some(known), None) | (None, Some(known)) => known,
        (None, None) => BTreeSet::new(),
    };
    if usable.is_empty() {
        let fallback = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        return Cpus { logical: fallback, physical: fallback };
    }
    Cpus { logical: count(usable.len()), physical: cores(&system, &usable) }
}

fn cores(system: &Path, usable: &BTreeSet<u32>) -> u32 {
    let (mut seen, mut cores) = (BTreeSet::new(), 0);
    for &cpu in usable {
        // One file per core, not per CPU: a core's list names all of its threads.
        if seen.insert(cpu) {
            cores += 1;
            let topology = system.join(format!("cpu{cpu}/topology"));
            let names = ["core_cpus_list", "thread_siblings_list"];
            let siblings = names.iter().find_map(|name| list(&files::text(&topology.join(name))?));
            seen.extend(siblings.unwrap_or_default());
        }
    }
    cores
}

/// A list such as `0-3,8`. `None` for what is none.
fn list(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let read = |text| list(text).map(|cpus| cpus.into_iter().collect::<Vec<_>>());
        assert_eq!(read("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(read("5"), Some(vec![5]));
        for garbage in ["", "x", "3-1", "0-4294967295", "1,,2", "-1", "0-"] {
            assert_eq!(read(garbage), None, "{garbage:?}");
        }
    }
}
