//! What a process looks like from outside: all that a call which does nothing leaves as it was.

use std::collections::BTreeMap;
use std::fs;

/// Texts that are compared, by what they are about.
pub type Traces = BTreeMap<String, String>;

/// Looks at this process. Signal masks and limits are those of the calling thread.
pub fn traces() -> Traces {
    let status = text("/proc/thread-self/status");
    let lines = |starts: &[&str]| {
        status.lines().filter(|line| starts.iter().any(|start| line.starts_with(start))).collect::<Vec<_>>().join("\n")
    };
    // Not `write_bytes`: the file system writes on its own, such as the time of an access.
    let io = text("/proc/self/io");
    let mut environment: Vec<_> = std::env::vars_os().map(|(name, value)| format!("{name:?}={value:?}")).collect();
    environment.sort();
    [
        ("threads", names("/proc/self/task").join(" ")),
        ("children", children()),
        ("descriptors", descriptors()),
        ("mappings", mappings()),
        (
            "written",
            io.lines()
                .filter(|line| line.starts_with("wchar") || line.starts_with("syscw"))
                .collect::<Vec<_>>()
                .join("\n"),
        ),
        ("signals", lines(&["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"])),
        ("rights", lines(&["Uid", "Gid", "Cap", "NoNewPrivs", "Seccomp:", "Cpus_allowed:", "Name"])),
        ("umask", lines(&["Umask"])),
        ("locked", lines(&["VmLck", "VmPin"])),
        ("limits", text("/proc/self/limits")),
        ("timers", text("/proc/self/timers")),
        ("directory", std::env::current_dir().unwrap().display().to_string()),
        ("environment", environment.join("\n")),
    ]
    .map(|(what, seen)| (what.to_owned(), seen))
    .into()
}

/// What differs, with the lines that only one of them has.
pub fn changes(before: &Traces, after: &Traces) -> Traces {
    let differs = |(what, seen): (&String, &String)| {
        let now = &after[what];
        let only = |here: &str, there: &str| {
            here.lines().filter(|line| !there.lines().any(|other| other == *line)).collect::<Vec<_>>().join("\n")
        };
        (now != seen).then(|| (what.clone(), format!("before: {}\nafter: {}", only(seen, now), only(now, seen))))
    };
    before.iter().filter_map(differs).collect()
}

/// Most memory this process has had, and what it has now, in bytes.
pub fn peak_and_resident() -> (u64, u64) {
    let status = text("/proc/self/status");
    let kib = |key: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB"));
        value.unwrap().parse::<u64>().unwrap() * 1024
    };
    (kib("VmHWM:"), kib("VmRSS:"))
}

/// Memory that another process has now, in bytes; 0 if it is gone.
pub fn resident_of(pid: u32) -> u64 {
    memory_of(pid, "VmRSS:")
}

/// Memory of this process and its children in bytes: `RssAnon:` (what is no file's), or `RssFile:` (weights that are mapped,
/// among others).
pub fn memory(kind: &str) -> u64 {
    [std::process::id()].into_iter().chain(super::children()).map(|pid| memory_of(pid, kind)).sum()
}

fn memory_of(pid: u32, kind: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(kind)?.trim().strip_suffix(" kB"));
    line.map_or(0, |kib| kib.parse::<u64>().unwrap() * 1024)
}

/// Bytes this process has read with system calls.
pub fn bytes_read() -> u64 {
    text("/proc/self/io").lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn names(folder: &str) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Each with what it is of. The one that this look takes is closed by the time it is followed.
fn descriptors() -> String {
    let follow = |fd: String| Some(format!("{fd} {}", fs::read_link(format!("/proc/self/fd/{fd}")).ok()?.display()));
    names("/proc/self/fd").into_iter().filter_map(follow).collect::<Vec<_>>().join("\n")
}

/// Mappings of files, and of code that is none. Plain memory comes and goes with the allocator. The driver's library is
/// the exception to the rule: it stays once it was asked.
fn mappings() -> String {
    let kept = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[4] != "0" || fields[1].contains('x')) && !line.ends_with("/libcuda.so.1")
    };
    text("/proc/self/maps").lines().filter(kept).map(|line| format!("{line}\n")).collect()
}

fn children() -> String {
    // SAFETY: takes no pointer; asks for children of any kind without waiting for one.
    match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } {
        -1 => "none".into(),
        _ => "some".into(),
    }
}
