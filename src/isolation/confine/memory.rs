//! Limits of a child's memory by the host, and whom the kernel killed for want of memory.

use super::MemoryLimit;
use crate::machine::{OwnMemoryGroup, files, own_memory_group};
use std::ffi::{CStr, CString};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

const PREFIX: &str = "llamapen-";
/// The kernel takes a moment to let go of a process that has been waited for.
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// The best limit that this system lets us set for a child: a group to [`add`](MemoryGroup::add) it to, and what the child is
/// to be told.
pub(crate) fn limit_memory(name: &str, bytes: Option<u64>) -> (Option<MemoryGroup>, MemoryLimit) {
    limit_memory_at(Path::new("/"), name, bytes)
}

fn limit_memory_at(root: &Path, name: &str, bytes: Option<u64>) -> (Option<MemoryGroup>, MemoryLimit) {
    let Some(bytes) = bytes else { return (None, MemoryLimit::None) };
    match MemoryGroup::at(root, name, bytes) {
        Ok(group) => {
            let limit = match group.version {
                Version::V1 => MemoryLimit::CgroupV1 { bytes },
                Version::V2 => MemoryLimit::CgroupV2 { bytes },
            };
            (Some(group), limit)
        }
        Err(error) => (None, MemoryLimit::RlimitData { bytes, no_cgroup: error.to_string() }),
    }
}

/// A control group for a child, below this process's own. Removed when it is dropped, which is to be after the child's end.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    folder: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl MemoryGroup {
    /// Fails where this process may make none; the error says why.
    #[cfg(test)]
    pub(crate) fn new(name: &str, bytes: u64) -> io::Result<Self> {
        Self::at(Path::new("/"), name, bytes)
    }

    fn at(root: &Path, name: &str, bytes: u64) -> io::Result<Self> {
        if name.is_empty() || name.contains('/') {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("{name:?} is no name of a control group")));
        }
        let (parent, version) = match own_memory_group(root) {
            Some(OwnMemoryGroup::V1(folder)) => (folder, Version::V1),
            Some(OwnMemoryGroup::V2(folder)) => (folder, Version::V2),
            None => {
                return Err(io::Error::new(ErrorKind::Unsupported, "no control group of this process rules memory"));
            }
        };
        let parent = match version {
            Version::V1 => parent,
            Version::V2 => with_memory(parent)?,
        };
        sweep(root, &parent);
        let folder = parent.join(format!("{PREFIX}{}-{name}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| of("make", &folder, &error))?;
        // From here on it is removed, whatever fails.
        let group = Self { folder, version };
        match version {
            Version::V1 => {
                group.set("memory.limit_in_bytes", bytes)?;
                // With swap; not all kernels count that.
                let _ = group.set("memory.memsw.limit_in_bytes", bytes);
            }
            Version::V2 => {
                group.set("memory.max", bytes)?;
                // Not all kernels have these: swap that is left makes the limit looser, no more.
                let _ = group.set("memory.swap.max", 0);
                let _ = group.set("memory.oom.group", 1);
            }
        }
        Ok(group)
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        write(&self.folder.join(file), &value.to_string())
    }

    /// Puts a process into it. What it has already stays counted where it was.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        self.set("cgroup.procs", pid.into())
    }

    /// How many of its processes the kernel has killed, because the group's memory, or the machine's, had run out.
    pub(crate) fn oom_kills(&self) -> u64 {
        match self.version {
            Version::V1 => oom_kills_in(&self.folder.join("memory.oom_control")),
            Version::V2 => oom_kills_in(&self.folder.join("memory.events")),
        }
        .unwrap_or(0)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..REMOVAL_TRIES {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => thread::sleep(REMOVAL_PAUSE),
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return tracing::warn!("cannot remove the control group {}: {error}", self.folder.display());
                }
                _ => return,
            }
        }
        tracing::warn!("the control group {} still has processes, and stays", self.folder.display());
    }
}

/// Where groups that count memory can be made (version 2): in this process's group, which only the machine's first one is good
/// for, as no other may have processes and groups; or beside it, where a service manager made the group above over to us.
fn with_memory(own: PathBuf) -> io::Result<PathBuf> {
    enable(&own).map(|()| own.clone()).or_else(|error| match own.parent().filter(|above| is_made_over(above)) {
        Some(above) => enable(above).map(|()| above.to_owned()),
        None if error.kind() == ErrorKind::ResourceBusy => Err(io::Error::new(
            error.kind(),
            format!(
                "the control group {} has processes, and so can have no groups below it that count memory; a service of \
                 systemd gets room for them with Delegate=memory and DelegateSubgroup=host",
                own.display()
            ),
        )),
        None => Err(error),
    })
}

/// Has the groups below this one count memory.
fn enable(parent: &Path) -> io::Result<()> {
    let file = parent.join("cgroup.subtree_control");
    match files::text(&file).is_some_and(|text| text.split_whitespace().any(|controller| controller == "memory")) {
        true => Ok(()),
        false => write(&file, "+memory"),
    }
}

/// systemd's mark on a group with `Delegate=`: others are its own.
const MARK: &CStr = c"user.delegate";

fn is_made_over(group: &Path) -> bool {
    let Ok(path) = CString::new(group.as_os_str().as_bytes()) else { return false };
    let mut value = [0u8; 1];
    // SAFETY: two texts that end with NUL, and as many bytes to write to as it is told.
    let length = unsafe { libc::getxattr(path.as_ptr(), MARK.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    length == 1 && &value == b"1"
}

/// Removes what hosts that were killed have left. Groups with processes cannot be removed, so this harms nobody.
fn sweep(root: &Path, parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !root.join(format!("proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// How many processes the kernel has killed for want of memory, to be compared before and after the end of a child that is
/// in no group of its own. Those in this process's group where that is counted, else those of the machine, which may be
/// somebody else's. `None`: the kernel does not say.
pub(crate) fn kernel_oom_kills() -> Option<u64> {
    kernel_oom_kills_at(Path::new("/"))
}

fn kernel_oom_kills_at(root: &Path) -> Option<u64> {
    let own = own_memory_group(root).and_then(|own| match own {
        OwnMemoryGroup::V1(folder) => oom_kills_in(&folder.join("memory.oom_control")),
        OwnMemoryGroup::V2(folder) => oom_kills_in(&folder.join("memory.events")),
    });
    own.or_else(|| oom_kills_in(&root.join("proc/vmstat")))
}

fn oom_kills_in(file: &Path) -> Option<u64> {
    files::field(&files::text(file)?, "oom_kill")?.parse().ok()
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    fs::write(file, text).map_err(|error| of("write", file, &error))
}

fn of(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};
    use tempfile::TempDir;

    /// A fake root with this process in group `/a` of version 2.
    fn v2() -> TempDir {
        let root = TempDir::new().unwrap();
        let file = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("proc/self/cgroup", "0::/a\n");
        file("proc/self/mountinfo", "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        file("proc/vmstat", "oom_kill_x 9\noom_kill 4\n");
        file("sys/fs/cgroup/a/cgroup.controllers", "cpu memory\n");
        file("sys/fs/cgroup/a/cgroup.subtree_control", "cpu\n");
        root
    }

    fn read(folder: &Path, file: &str) -> String {
        fs::read_to_string(folder.join(file)).unwrap()
    }

    #[test]
    fn version_2_in_a_fake_tree() {
        let root = v2();
        let own = root.path().join("sys/fs/cgroup/a");
        let stale = own.join(format!("llamapen-{}-1", u32::MAX));
        fs::create_dir(&stale).unwrap();
        let (group, limit) = limit_memory_at(root.path(), "w0", Some(5000));
        assert_eq!(limit, MemoryLimit::CgroupV2 { bytes: 5000 });
        let group = group.unwrap();
        assert_eq!(read(&own, "cgroup.subtree_control"), "+memory");
        assert_eq!(group.folder, own.join(format!("llamapen-{}-w0", std::process::id())));
        assert_eq!(read(&group.folder, "memory.max"), "5000");
        assert_eq!(
            (read(&group.folder, "memory.swap.max"), read(&group.folder, "memory.oom.group")),
            ("0".into(), "1".into())
        );
        group.add(77).unwrap();
        assert_eq!(read(&group.folder, "cgroup.procs"), "77");
        assert_eq!(group.oom_kills(), 0, "no file yet");
        fs::write(group.folder.join("memory.events"), "max 3\noom 2\noom_kill 1\n").unwrap();
        assert_eq!(group.oom_kills(), 1);
        assert!(!stale.exists(), "a killed host's group is swept away");
        // The kernel's files go with the folder; here they would keep it.
        for entry in fs::read_dir(&group.folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let folder = group.folder.clone();
        drop(group);
        assert!(!folder.exists());
    }

    #[test]
    fn version_2_beside_the_own_group_where_the_one_above_is_made_over() {
        let root = v2();
        let own = root.path().join("sys/fs/cgroup/a");
        // As a group with processes, it takes no controllers.
        fs::remove_file(own.join("cgroup.subtree_control")).unwrap();
        fs::create_dir(own.join("cgroup.subtree_control")).unwrap();
        let above = own.parent().unwrap();
        MemoryGroup::at(root.path(), "w0", 5000).unwrap_err();
        let path = CString::new(above.as_os_str().as_bytes()).unwrap();
        // SAFETY: two texts that end with NUL, and a byte to read.
        if unsafe { libc::setxattr(path.as_ptr(), MARK.as_ptr(), b"1".as_ptr().cast(), 1, 0) } != 0 {
            return eprintln!("the file system takes no marks: {}", io::Error::last_os_error());
        }
        let group = MemoryGroup::at(root.path(), "w0", 5000).unwrap();
        assert_eq!(group.folder.parent(), Some(above));
        assert_eq!(read(above, "cgroup.subtree_control"), "+memory");
    }

    #[test]
    fn where_there_is_no_group_the_child_is_told_to_limit_itself_and_why() {
        let why = |root: &Path| match limit_memory_at(root, "w0", Some(5000)) {
            (None, MemoryLimit::RlimitData { bytes: 5000, no_cgroup }) => no_cgroup,
            other => panic!("{other:?}"),
        };
        let bare = TempDir::new().unwrap();
        assert_eq!(why(bare.path()), "no control group of this process rules memory");
        let root = v2();
        let own = root.path().join("sys/fs/cgroup/a");
        fs::write(own.join("cgroup.controllers"), "cpu\n").unwrap();
        assert_eq!(why(root.path()), "no control group of this process rules memory");
        fs::write(own.join("cgroup.controllers"), "memory\n").unwrap();
        fs::remove_file(own.join("cgroup.subtree_control")).unwrap();
        fs::create_dir(own.join("cgroup.subtree_control")).unwrap();
        let text = why(root.path());
        assert!(text.starts_with("cannot write ") && text.contains("subtree_control: "), "{text}");
        assert_eq!(limit_memory_at(root.path(), "w0", None).1, MemoryLimit::None);
        assert_eq!(MemoryGroup::new("a/b", 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn kills_are_counted_in_the_own_group_or_else_on_the_machine() {
        let root = v2();
        assert_eq!(kernel_oom_kills_at(root.path()), Some(4));
        fs::write(root.path().join("sys/fs/cgroup/a/memory.events"), "oom 3\noom_kill 2\n").unwrap();
        assert_eq!(kernel_oom_kills_at(root.path()), Some(2));
        assert_eq!(kernel_oom_kills_at(Path::new("/not/there")), None);
        assert!(kernel_oom_kills().is_some());
    }

    /// Where no group can be made there is nothing to see.
    #[test]
    fn a_child_that_takes_more_than_its_group_may_is_killed_and_counted() {
        let group = match MemoryGroup::new("test", 32 << 20) {
            Ok(group) => group,
            Err(error) => return eprintln!("no control group here: {error}"),
        };
        let machine = files::field(&files::text(Path::new("/proc/vmstat")).unwrap(), "oom_kill").map(str::to_owned);
        let child = |kib: &str| {
            // It waits for a line, then keeps so many bytes.
            let script = format!("read go; dd if=/dev/zero of=/dev/null bs={kib}K count=1 2>/dev/null");
            let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
            group.add(child.id()).unwrap();
            drop(child.stdin.take());
            child.wait().unwrap()
        };
        assert!(child("8192").success());
        assert_eq!(group.oom_kills(), 0);
        let status = child("65536");
        // The shell tells of the end of what it started, unless the kernel ends the whole group.
        assert!(status.signal() == Some(libc::SIGKILL) || status.code() == Some(128 + libc::SIGKILL), "{status}");
        assert_eq!(group.oom_kills(), 1);
        let now = files::field(&files::text(Path::new("/proc/vmstat")).unwrap(), "oom_kill").map(str::to_owned);
        assert_ne!(machine, now, "the machine counts it too");
        let folder = group.folder.clone();
        assert!(folder.is_dir());
        drop(group);
        assert!(!folder.exists());
    }
}
