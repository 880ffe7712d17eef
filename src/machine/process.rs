//! Whether a process is there, and whether it is the same one as before: numbers of processes are given again.

use super::files;
use std::path::Path;

/// Units of times in `/proc`, per second: the same for every program on Linux, whatever the kernel's own rate is.
const TICKS: u64 = 100;

/// A process that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunningProcess {
    /// When it started, in ticks since the machine did: no other process with its number has the same.
    pub started: u64,
    /// The same in milliseconds since 1970, by the clock as it is now; to the second.
    pub started_at_ms: Option<u64>,
}

/// The process with this number, as this one sees it; `None` if there is none, or one that has only not been waited for.
pub(crate) fn running(pid: u32) -> Option<RunningProcess> {
    at(Path::new("/"), pid)
}

fn at(root: &Path, pid: u32) -> Option<RunningProcess> {
    let stat = files::text(&root.join(format!("proc/{pid}/stat")))?;
    // Its name may hold anything, brackets and spaces too.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    let started: u64 = fields.nth(18)?.trim().parse().ok()?;
    let boot = || files::field(&files::text(&root.join("proc/stat"))?, "btime")?.parse::<u64>().ok();
    Some(RunningProcess { started, started_at_ms: boot().map(|boot| boot * 1000 + started * 1000 / TICKS) })
}

/// Memory that a process has now, in bytes; `None` if it is gone, or is not told.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    files::kib(&files::text(Path::new(&format!("/proc/{pid}/status")))?, "VmRSS")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn this_process_runs_since_a_while_ago_and_a_child_until_it_ends() {
        let me = running(std::process::id()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let started = me.started_at_ms.unwrap();
        assert!(started < now + 2_000 && now - started.min(now) < 86_400_000, "{started} {now}");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let there = running(child.id()).unwrap();
        assert!(there.started >= me.started);
        child.kill().unwrap();
        while running(child.id()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(running(child.id()), None);
    }

    #[test]
    fn names_with_brackets_and_what_has_ended() {
        let root = tempfile::TempDir::new().unwrap();
        std::fs::create_dir_all(root.path().join("proc/7")).unwrap();
        std::fs::write(root.path().join("proc/stat"), "cpu 1 2\nbtime 1000\n").unwrap();
        let stat = |state: &str| {
            let zeros = "0 ".repeat(18);
            std::fs::write(root.path().join("proc/7/stat"), format!("7 (a) b (c) {state} {zeros}250 9 9\n")).unwrap();
            at(root.path(), 7)
        };
        assert_eq!(stat("S"), Some(RunningProcess { started: 250, started_at_ms: Some(1_002_500) }));
        assert_eq!(stat("Z"), None);
        assert_eq!(at(root.path(), 8), None);
    }
}
