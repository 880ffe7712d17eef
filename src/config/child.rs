//! [`ChildConfig`]: the processes that workers run in, with the process tier.

use super::{in_ms, in_range};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Less than this is not enough for a process with the smallest of models.
const LEAST_MEMORY: u64 = 16 << 20;
/// CPUs that Linux can be built for.
pub(crate) const MOST_CPUS: u32 = 8192;

/// What a worker's process may do beyond what the system allows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sandbox {
    /// Whatever the host may.
    #[default]
    Off,
    /// Compute, and talk to its host. It opens no file but the model's, and those to read; it reaches no network, starts no
    /// program and no process, sees and signals no other one. On Linux, by Landlock and seccomp; where the kernel lacks one
    /// of them, the other is used, and the health says so. Workers that are threads are not confined, and none that use
    /// GPUs can be: a supervisor refuses both.
    Strict,
}

/// The processes that workers run in, with the process tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ChildConfig {
    /// What each may do. `strict` is refused for workers that are threads: nothing confines those. Default: `off`.
    pub sandbox: Sandbox,
    /// Bytes of memory that each may have, at least 16777216. A control group holds it to that where one can be made, and
    /// counts what it has read of the model's file, which is given back when memory is short; elsewhere `RLIMIT_DATA`
    /// does, which counts what is written to only, and stacks (64 MiB each) in full. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// CPUs that each may run on, as the system numbers them from 0. Default: none named, those of the host.
    pub cpus: Vec<u32>,
    /// What is added to the host's niceness for each, -20 to 19. Less than 0 takes a privilege. Default: 0.
    pub nice: i32,
    /// The program to start. Default: it is looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<PathBuf>,
    /// An existing directory for files with the numbers of the processes, `llamapen-POOL-REPLICA-worker-INDEX.pid`, or with
    /// `spare-NUMBER` of one that was started as a spare. Each is gone with its process. Default: no files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_dir: Option<PathBuf>,
    /// An existing directory for what the processes write to their standard output and error, in files of the same names ending
    /// in `.log`, up to 16 MiB each. Default: no files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<PathBuf>,
    /// How long a process that was told to end has for it before it is killed, in milliseconds, 0 to 600000.
    /// Default: 5000.
    pub stop_grace_ms: u64,
}

impl Default for ChildConfig {
    fn default() -> Self {
        Self {
            sandbox: Sandbox::Off,
            memory_limit_bytes: None,
            cpus: vec![],
            nice: 0,
            worker: None,
            pid_dir: None,
            log_dir: None,
            stop_grace_ms: 5_000,
        }
    }
}

impl ChildConfig {
    setters! {
        with_sandbox, sandbox: Sandbox => sandbox;
        with_memory_limit_bytes, memory_limit_bytes: Option<u64> => memory_limit_bytes;
        with_cpus, cpus: impl Into<Vec<u32>> => cpus.into();
        with_nice, nice: i32 => nice;
        with_worker, worker: impl Into<PathBuf> => Some(worker.into());
        with_pid_dir, pid_dir: impl Into<PathBuf> => Some(pid_dir.into());
        with_log_dir, log_dir: impl Into<PathBuf> => Some(log_dir.into());
    }

    /// Sets [`stop_grace_ms`](Self::stop_grace_ms).
    #[must_use]
    pub fn with_stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace_ms = in_ms(grace);
        self
    }

    /// Refuses values outside their ranges, and paths where nothing fitting is.
    pub fn validate(&self) -> Result<()> {
        if let Some(bytes) = self.memory_limit_bytes {
            in_range("child.memory_limit_bytes", bytes, LEAST_MEMORY..=1 << 60)?;
        }
        for &cpu in &self.cpus {
            in_range("child.cpus", cpu, 0..=MOST_CPUS - 1)?;
        }
        in_range("child.nice", self.nice, -20..=19)?;
        in_range("child.stop_grace_ms", self.stop_grace_ms, 0..=600_000)?;
        is_there("child.worker", &self.worker, "file", Path::is_file)?;
        is_there("child.pid_dir", &self.pid_dir, "directory", Path::is_dir)?;
        is_there("child.log_dir", &self.log_dir, "directory", Path::is_dir)
    }
}

fn is_there(what: &str, path: &Option<PathBuf>, kind: &str, is: fn(&Path) -> bool) -> Result<()> {
    match path {
        Some(path) if !is(path) => Err(Error::invalid(what, format!("{} is no {kind}", path.display()))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: ChildConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_valid_and_survive_json() {
        let config: ChildConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(config, ChildConfig::default());
        config.validate().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(json, r#"{"sandbox":"off","cpus":[],"nice":0,"stop_grace_ms":5000}"#);
    }

    #[test]
    fn what_is_built_is_what_is_read() {
        let dir = tempfile::TempDir::new().unwrap();
        let worker = dir.path().join("worker");
        std::fs::write(&worker, "").unwrap();
        let built = ChildConfig::default()
            .with_sandbox(Sandbox::Strict)
            .with_memory_limit_bytes(Some(1 << 30))
            .with_cpus([0, 3])
            .with_nice(5)
            .with_worker(&worker)
            .with_pid_dir(dir.path())
            .with_log_dir(dir.path())
            .with_stop_grace(Duration::from_millis(7));
        let read = serde_json::json!({
            "sandbox": "strict", "memory_limit_bytes": 1 << 30, "cpus": [0, 3], "nice": 5, "worker": worker,
            "pid_dir": dir.path(), "log_dir": dir.path(), "stop_grace_ms": 7,
        });
        assert_eq!(serde_json::from_value::<ChildConfig>(read).unwrap(), built);
        built.validate().unwrap();
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let config = ChildConfig::default;
        let text = refused(config().with_memory_limit_bytes(Some(1)));
        assert_eq!(text, "child.memory_limit_bytes: 1 is not between 16777216 and 1152921504606846976");
        assert_eq!(refused(config().with_cpus([1, 8192])), "child.cpus: 8192 is not between 0 and 8191");
        assert_eq!(refused(config().with_nice(20)), "child.nice: 20 is not between -20 and 19");
        let text = refused(config().with_stop_grace(Duration::from_secs(601)));
        assert_eq!(text, "child.stop_grace_ms: 601000 is not between 0 and 600000");
        assert_eq!(refused(config().with_worker("/")), "child.worker: / is no file");
        assert_eq!(refused(config().with_pid_dir("/not/there")), "child.pid_dir: /not/there is no directory");
        assert_eq!(refused(config().with_log_dir("Cargo.toml")), "child.log_dir: Cargo.toml is no directory");
        let error = serde_json::from_str::<ChildConfig>(r#"{"sandbx": "off"}"#).unwrap_err();
        assert!(error.to_string().contains("`sandbx`"), "{error}");
    }
}
