//! [`HandoffWatcher`]: the handoff records in a directory, as they appear, change and disappear.
//!
//! It polls: whether a process still lives has to be polled anyhow, and notifications are lost on some file systems.

use super::handoff::HandoffRecord;
use crate::error::{ANOTHER_WATCHES, Error, Result};
use crate::machine::{RunningProcess, running_process};
use crate::process::Process;
use crate::sync::{Mutex, MutexGuard};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// Records are far shorter.
const LONGEST: u64 = 1 << 20;
/// A process may be younger than its record by this much: the system tells its start to the second only.
const YOUNGER_MS: u64 = 2_000;

/// What became of a handoff record. Serializes to JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[non_exhaustive]
pub enum HandoffChange {
    /// A pool is ready that was not.
    Appeared {
        /// What it says.
        record: HandoffRecord,
    },
    /// A pool and replica that was known is ready anew: after a restart of a worker, a reload, or in another process.
    Changed {
        /// What it says now.
        record: HandoffRecord,
    },
    /// The file is gone, or the process.
    Gone {
        /// What it said last.
        record: HandoffRecord,
    },
    /// A file of that name is no record, or the directory cannot be read. What was known stays. Told once, until it changes.
    Problem {
        /// The file or the directory.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Watches a directory that supervisors write their handoff records to (`handoff_dir`). Every change is given once.
///
/// Records of processes that have ended count as gone, also where another process has the same number by now. It must see
/// the same processes as those that write there (the same PID namespace).
///
/// Any thread may use it, one at a time: a second one gets `Busy`.
pub struct HandoffWatcher {
    dir: PathBuf,
    inner: Mutex<Inner>,
    process: Process,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<PathBuf, File>,
    bound: BTreeMap<(String, u32), Bound>,
    changes: VecDeque<HandoffChange>,
    unreadable: Option<String>,
}

/// A file that was looked at.
struct File {
    identity: (u64, u64, i64, i64, u64),
    /// `None`: it is no record.
    record: Option<HandoffRecord>,
}

struct Bound {
    record: HandoffRecord,
    process: RunningProcess,
    /// The file that says so; `None`: the caller did.
    file: Option<PathBuf>,
}

impl HandoffWatcher {
    /// # Errors
    /// `InvalidParams` if there is no such directory.
    pub fn new(dir: impl AsRef<Path>) -> Result<Self> {
        let invalid = |problem: String| Error::invalid("dir", format!("{}: {problem}", dir.as_ref().display()));
        // Absolute: the host may change its working directory.
        let dir = std::path::absolute(&dir).map_err(|e| invalid(e.to_string()))?;
        match std::fs::metadata(&dir) {
            Ok(there) if there.is_dir() => {}
            Ok(_) => return Err(invalid("is no directory".into())),
            Err(e) => return Err(invalid(e.to_string())),
        }
        Ok(Self { dir, inner: Mutex::default(), process: Process::current() })
    }

    /// The next change: of an earlier look, else of one now, else of later ones. `None`: there was none within `timeout`
    /// (`None`: no limit).
    ///
    /// # Errors
    /// `Busy` while another thread uses it.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Option<HandoffChange>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut inner = self.lock()?;
        loop {
            if inner.changes.is_empty() {
                inner.look(&self.dir);
            }
            if let Some(change) = inner.changes.pop_front() {
                return Ok(Some(change));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            std::thread::sleep(left.map_or(LOOK, |left| left.min(LOOK)));
        }
    }

    /// Takes note of a record that came another way. True if it is news: it is newer than what is known of its pool and
    /// replica, and its process lives. Then it is not given as a change any more. The same one again (pool, replica, process
    /// and time) is none.
    ///
    /// # Errors
    /// `InvalidParams` for one that is not valid; `Busy` while another thread uses it.
    pub fn bind(&self, record: &HandoffRecord) -> Result<bool> {
        check(record).map_err(|problem| Error::invalid("record", problem))?;
        Ok(self.lock()?.bind(record, None).is_some())
    }

    /// What is known and not gone, by pool and replica, as of the last look.
    ///
    /// # Errors
    /// `Busy` while another thread uses it.
    pub fn records(&self) -> Result<Vec<HandoffRecord>> {
        Ok(self.lock()?.bound.values().map(|bound| bound.record.clone()).collect())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Inner>> {
        self.process.check()?;
        self.inner.try_lock().ok_or(Error::Busy(ANOTHER_WATCHES))
    }
}

impl Inner {
    /// Looks at the directory and the processes, and notes what has changed.
    fn look(&mut self, dir: &Path) {
        match read(dir) {
            Ok(found) => {
                self.unreadable = None;
                self.files.retain(|path, _| found.contains_key(path));
                for (path, there) in found {
                    self.look_at(path, &there);
                }
            }
            Err(error) => {
                let problem = format!("it cannot be read: {error}");
                if self.unreadable.as_ref() != Some(&problem) {
                    self.unreadable = Some(problem.clone());
                    self.changes.push_back(HandoffChange::Problem { path: dir.display().to_string(), problem });
                }
            }
        }
        let (files, readable) = (&self.files, self.unreadable.is_none());
        let gone = |bound: &Bound| {
            let removed = bound.file.as_ref().is_some_and(|path| readable && !files.contains_key(path));
            removed || running_process(bound.record.pid).is_none_or(|there| there.started != bound.process.started)
        };
        for (_, Bound { record, .. }) in self.bound.extract_if(.., |_, bound| gone(bound)) {
            self.changes.push_back(HandoffChange::Gone { record });
        }
    }

    fn look_at(&mut self, path: PathBuf, there: &Metadata) {
        let identity = (there.dev(), there.ino(), there.mtime(), there.mtime_nsec(), there.len());
        if self.files.get(&path).is_none_or(|file| file.identity != identity) {
            match record(&path, there) {
                Ok(record) => drop(self.files.insert(path.clone(), File { identity, record: Some(record) })),
                // It was removed just now: the next look sees that.
                Err(None) => return,
                Err(Some(problem)) => {
                    // What it was known to say stays, until the file or the process goes.
                    let path_text = path.display().to_string();
                    self.files.insert(path, File { identity, record: None });
                    return self.changes.push_back(HandoffChange::Problem { path: path_text, problem });
                }
            }
        }
        // Each time: its process may be seen only later, and another file may have said the same and gone.
        let Some(record) = self.files[&path].record.clone() else { return };
        if let Some(known) = self.bind(&record, Some(path)) {
            self.changes.push_back(match known {
                true => HandoffChange::Changed { record },
                false => HandoffChange::Appeared { record },
            });
        }
    }

    /// `None`: no news. Else whether its pool and replica were known.
    fn bind(&mut self, record: &HandoffRecord, file: Option<PathBuf>) -> Option<bool> {
        let process = running_process(record.pid)?;
        // Another process has that number by now.
        if process.started_at_ms.is_some_and(|started| started > record.ready_at_ms.saturating_add(YOUNGER_MS)) {
            return None;
        }
        let key = (record.pool_id.clone(), record.replica_id);
        let known = match self.bound.get_mut(&key) {
            Some(bound) if (bound.record.pid, bound.record.ready_at_ms) == (record.pid, record.ready_at_ms) => {
                // The file says what was known already; from now on it is what keeps it.
                bound.file = file.or(bound.file.take());
                return None;
            }
            Some(bound) if bound.record.ready_at_ms > record.ready_at_ms => return None,
            known => known.is_some(),
        };
        self.bound.insert(key, Bound { record: record.clone(), process, file });
        Some(known)
    }
}

/// Files that have the name of a record. Temporary ones begin with a dot.
fn read(dir: &Path) -> std::io::Result<BTreeMap<PathBuf, Metadata>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_one = name.to_str().is_some_and(|name| name.starts_with("llamapen-") && name.ends_with(".json"));
        // One that is removed meanwhile is not there.
        if let (true, Ok(there)) = (is_one, entry.metadata()) {
            found.insert(entry.path(), there);
        }
    }
    Ok(found)
}

/// What a file says. `Err(None)`: it is gone.
fn record(path: &Path, there: &Metadata) -> Result<HandoffRecord, Option<String>> {
    // A pipe would be waited for.
    if !there.is_file() {
        return Err(Some("it is no regular file".into()));
    }
    if there.len() > LONGEST {
        return Err(Some(format!("it has {} bytes, and no record has more than {LONGEST}", there.len())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => None,
        _ => Some(format!("it cannot be read: {error}")),
    })?;
    let record = parse(&text).map_err(Some)?;
    let name = record.file_name();
    match path.file_name().is_some_and(|there| *there == *name) {
        true => Ok(record),
        false => Err(Some(format!("it says what belongs into {name}"))),
    }
}

fn parse(text: &str) -> Result<HandoffRecord, String> {
    #[derive(serde::Deserialize)]
    struct Schema {
        schema: u32,
    }
    let Schema { schema } = serde_json::from_str(text).map_err(|e| format!("it is no record: {e}"))?;
    check_schema(schema)?;
    let record = serde_json::from_str(text).map_err(|e| format!("it is no record: {e}"))?;
    check(&record)?;
    Ok(record)
}

fn check_schema(schema: u32) -> Result<(), String> {
    match schema == super::handoff::SCHEMA {
        true => Ok(()),
        false => Err(format!("its schema is {schema}, this version reads {}", super::handoff::SCHEMA)),
    }
}

/// What every record fulfils.
fn check(record: &HandoffRecord) -> Result<(), String> {
    check_schema(record.schema)?;
    let rules = [
        ("pool_id is empty", record.pool_id.is_empty()),
        ("pid is 0", record.pid == 0),
        ("workers is 0", record.workers == 0),
        ("slots is 0", record.slots == 0),
        ("worker is none of the workers", record.worker >= record.workers),
        ("model_files is empty", record.model_files.is_empty()),
        ("ready_at_ms is 0", record.ready_at_ms == 0),
    ];
    match rules.into_iter().find(|(_, broken)| *broken) {
        None => Ok(()),
        Some((rule, _)) => Err(rule.into()),
    }
}
