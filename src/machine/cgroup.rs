//! Limits that control groups set, versions 1 and 2, alone or side by side.
//!
//! A limit counts for everything below it, so each folder from this process's group up to the mount point is looked at,
//! and the smallest limit wins. In a container the mount point is where the container's own group shows.

use super::files;
use std::path::{Component, Path, PathBuf};

/// A limit in version 1 above which it means none: the largest page-aligned number, or close to it.
const UNLIMITED: u64 = 1 << 62;

/// Folders of the groups that this process is in, innermost first.
pub(super) struct Groups {
    unified: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

impl Groups {
    pub(super) fn of_this_process(root: &Path) -> Self {
        let groups = files::text(&root.join("proc/self/cgroup")).unwrap_or_default();
        let mounts = files::text(&root.join("proc/self/mountinfo")).unwrap_or_default();
        let mounts: Vec<_> = mounts.lines().filter_map(Mount::parse).collect();
        let folders = |controller: Option<&str>, usual: &str| {
            // Lines are `number:controllers:path`; version 2 has no controllers.
            let path = groups.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                let ours = match controller {
                    Some(name) => controllers.split(',').any(|c| c == name),
                    None => controllers.is_empty(),
                };
                ours.then_some(path)
            });
            folders(root, &mounts, controller, path.unwrap_or("/"), usual)
        };
        Self {
            unified: folders(None, "sys/fs/cgroup"),
            cpu: folders(Some("cpu"), "sys/fs/cgroup/cpu"),
            memory: folders(Some("memory"), "sys/fs/cgroup/memory"),
        }
    }

    /// The smallest quota in thousandths of a CPU.
    pub(super) fn cpu_quota_millis(&self) -> Option<u64> {
        let v2 = self.unified.iter().filter_map(|folder| {
            let text = files::text(&folder.join("cpu.max"))?;
            let mut words = text.split_whitespace();
            let quota = words.next()?.parse().ok()?;
            millis(quota, words.next().map_or(Some(100_000), |word| word.parse().ok())?)
        });
        let v1 = self.cpu.iter().filter_map(|folder| {
            // No quota is -1, which is no such number.
            millis(files::number(&folder.join("cpu.cfs_quota_us"))?, files::number(&folder.join("cpu.cfs_period_us"))?)
        });
        v2.chain(v1).min()
    }

    /// The smallest limit on memory in bytes.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        self.memory_levels().map(|level| level.limit).min()
    }

    /// What is left under the limits in bytes, counting file pages that nobody used lately as free, and how much of the
    /// tightest is used.
    pub(super) fn memory_left(&self) -> Option<(u64, u64)> {
        let left = self.memory_levels().filter_map(|level| {
            let used = files::number(&level.folder.join(level.usage))?;
            let stat = files::text(&level.folder.join("memory.stat")).unwrap_or_default();
            let inactive = files::field(&stat, level.inactive).and_then(|n| n.parse().ok()).unwrap_or(0);
            Some((level.limit.saturating_sub(used.saturating_sub(inactive)), used))
        });
        left.min()
    }

    fn memory_levels(&self) -> impl Iterator<Item = MemoryLevel<'_>> {
        let v2 = self.unified.iter().filter_map(|folder| {
            // "max" is no number.
            let limits = ["memory.max", "memory.high"].map(|name| files::number(&folder.join(name)));
            let limit = limits.into_iter().flatten().min()?;
            Some(MemoryLevel { folder, limit, usage: "memory.current", inactive: "inactive_file" })
        });
        let v1 = self.memory.iter().filter_map(|folder| {
            let limit = files::number(&folder.join("memory.limit_in_bytes"))?;
            Some(MemoryLevel { folder, limit, usage: "memory.usage_in_bytes", inactive: "total_inactive_file" })
        });
        v2.chain(v1).filter(|level| level.limit < UNLIMITED)
    }
}

/// The group of this process that rules its memory, and what version it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnMemoryGroup {
    V1(PathBuf),
    V2(PathBuf),
}

/// `None`: memory is ruled by no group that can be seen here, or not down to this one.
pub(crate) fn own_memory_group(root: &Path) -> Option<OwnMemoryGroup> {
    let groups = Groups::of_this_process(root);
    let v1 = || groups.memory.first().filter(|folder| folder.join("memory.limit_in_bytes").exists());
    let v2 = || {
        let controllers = |folder: &&PathBuf| files::text(&folder.join("cgroup.controllers"));
        let has_memory = |text: String| text.split_whitespace().any(|controller| controller == "memory");
        groups.unified.first().filter(|folder| controllers(folder).is_some_and(has_memory))
    };
    let v1 = v1().map(|folder| OwnMemoryGroup::V1(folder.clone()));
    v1.or_else(|| v2().map(|folder| OwnMemoryGroup::V2(folder.clone())))
}

struct MemoryLevel<'a> {
    folder: &'a Path,
    limit: u64,
    usage: &'static str,
    inactive: &'static str,
}

/// The quota per period in thousandths of a CPU; a quota of nothing is none.
fn millis(quota: u64, period: u64) -> Option<u64> {
    let millis = (u128::from(quota) * 1000).checked_div(u128::from(period))?;
    u64::try_from(millis).ok().filter(|_| quota > 0)
}

/// One line of `mountinfo`.
struct Mount {
    /// The folder of the hierarchy that is mounted.
    root: String,
    point: String,
    kind: String,
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        // 36 35 98:0 /root /mount/point options [optional …] - type source super-options
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (root, point) = (unescaped(left.next()?), unescaped(left.next()?));
        let (kind, _, options) = (right.next()?.to_owned(), right.next()?, right.next()?.to_owned());
        kind.starts_with("cgroup").then_some(Self { root, point, kind, options })
    }

    fn has(&self, controller: Option<&str>) -> bool {
        match controller {
            Some(name) => self.kind == "cgroup" && self.options.split(',').any(|option| option == name),
            None => self.kind == "cgroup2",
        }
    }
}

/// Spaces and the like are written as octal numbers.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The group's folder and those above it, up to the mount point.
fn folders(root: &Path, mounts: &[Mount], controller: Option<&str>, group: &str, usual: &str) -> Vec<PathBuf> {
    let under = |mount: &Mount| Path::new(group).strip_prefix(&mount.root).map(Path::to_owned).ok();
    let ours = || mounts.iter().filter(|mount| mount.has(controller));
    // A group outside of what is mounted (seen from inside a container) shows as the mount point itself.
    let (point, below) = ours()
        .find_map(|mount| Some((mount.point.as_str(), under(mount)?)))
        .or_else(|| Some((ours().next()?.point.as_str(), PathBuf::new())))
        .unwrap_or((usual, group.trim_start_matches('/').into()));
    // "/../x" is a group outside of this process's cgroup namespace.
    let below = match below.components().all(|part| matches!(part, Component::Normal(_))) {
        true => below,
        false => PathBuf::new(),
    };
    let point = root.join(point.trim_start_matches('/'));
    below.ancestors().map(|above| point.join(above)).collect()
}
