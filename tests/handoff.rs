//! The record of what is ready: in memory always, in a file as long as it is true, and only where it was asked for.

mod support;

use llamapen::{EngineConfig, HandoffRecord, State, Status, Supervisor, SupervisorConfig, prepare};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn record(path: &Path) -> HandoffRecord {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn pool(id: &str, replica: u32) -> EngineConfig {
    let mut config = support::config().with_pool_id(id);
    config.replica_id = replica;
    config
}

#[test]
fn it_says_what_is_ready_and_the_file_says_the_same_until_the_stop() {
    let dir = TempDir::new().unwrap();
    let before = now_ms();
    let config = pool("chat", 7).with_slots(3);
    let supervisor = support::start_with(&config, SupervisorConfig::default().with_handoff_dir(dir.path()));
    let made = supervisor.handoff().unwrap().expect("ready, so there is one");
    let engine = supervisor.engine();
    assert_eq!((made.schema, made.pool_id.as_str(), made.replica_id), (1, "chat", 7));
    assert_eq!((made.pid, made.worker, made.workers, made.slots), (std::process::id(), 0, 1, 3));
    assert_eq!(
        (made.engine_version.as_str(), made.engine_digest.as_str()),
        (engine.engine_version(), engine.engine_digest())
    );
    assert_eq!((made.model_id.as_str(), made.device_mask.as_str()), (engine.model_id(), "none"));
    assert_eq!(made.model_files, [engine.model().display().to_string()]);
    assert_eq!(made.flags, engine.flags());
    assert!((before..=now_ms()).contains(&made.ready_at_ms), "{made:?}");

    let path = dir.path().join("llamapen-chat-7.json");
    assert_eq!(files(dir.path()), std::slice::from_ref(&path), "nothing else is left there");
    assert_eq!(record(&path), made);
    supervisor.stop().unwrap();
    assert_eq!(files(dir.path()), [] as [PathBuf; 0]);
    assert_eq!(supervisor.handoff().unwrap(), None);
}

#[test]
fn pools_and_replicas_have_files_of_their_own_and_a_drain_removes_one() {
    let dir = TempDir::new().unwrap();
    let start = |pool: &str, replica| {
        support::start_with(&self::pool(pool, replica), SupervisorConfig::default().with_handoff_dir(dir.path()))
    };
    // Names that would meet if they were only put together.
    let pools = [start("a", 1), start("a", 11), start("a-1", 1)];
    let names = ["llamapen-a-1-1.json", "llamapen-a-1.json", "llamapen-a-11.json"].map(|name| dir.path().join(name));
    assert_eq!(files(dir.path()), names);
    pools[0].drain(Some(Duration::ZERO)).unwrap();
    assert_eq!(files(dir.path()), [names[0].clone(), names[2].clone()]);
    // Another process has put its own there: it stays.
    std::fs::write(&names[2], "{}").unwrap();
    drop(pools);
    assert_eq!(files(dir.path()), [names[2].clone()]);
}

#[test]
fn without_a_directory_nothing_is_written_and_a_bad_one_is_refused() {
    let supervisor = support::start(&support::config());
    assert!(supervisor.handoff().unwrap().is_some());
    drop(supervisor);
    let engine = prepare(&support::config()).unwrap();
    for bad in [PathBuf::from("/nowhere/at/all"), support::model()] {
        let config = SupervisorConfig::default().with_handoff_dir(&bad);
        let error = Supervisor::start(engine.clone(), config).err().unwrap();
        assert_eq!(error.status(), Status::InvalidParams);
        assert!(error.to_string().starts_with("handoff_dir: /"), "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_and_the_pool_runs() {
    let dir = TempDir::new().unwrap();
    let engine = prepare(&support::config()).unwrap();
    let config = SupervisorConfig::default().with_handoff_dir(dir.path());
    // A directory is where the file would be put.
    std::fs::create_dir(dir.path().join(format!("llamapen-{}-0.json", engine.pool_id()))).unwrap();
    let supervisor = Supervisor::start(engine, config).unwrap();
    assert!(supervisor.wait_ready(Some(support::LONG)).unwrap());
    let health = supervisor.health().unwrap();
    assert!(health.last_error.as_ref().is_some_and(|e| e.starts_with("handoff_dir: ")), "{health:?}");
    assert_eq!(health.state, State::Ready);
    assert!(supervisor.handoff().unwrap().is_some());
    assert_eq!(files(dir.path()).len(), 1, "no temporary file is left");
}

/// A restarted worker is ready anew.
#[cfg(feature = "fault-injection")]
#[test]
fn it_is_made_anew_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let supervisor = support::start_with(&support::config(), SupervisorConfig::default().with_handoff_dir(dir.path()));
    let first = supervisor.handoff().unwrap().unwrap();
    let fault =
        llamapen::Request::prompt("a").with_ignore_eos(true).with_max_resumes(0).with_fault(llamapen::Fault::Panic);
    assert_eq!(support::read(supervisor.submit(fault).unwrap()).unwrap_err().status, Status::WorkerReset);
    support::eventually("it is ready anew", || {
        supervisor.handoff().unwrap().is_some_and(|record| record.ready_at_ms > first.ready_at_ms)
    });
    assert!(supervisor.wait_ready(Some(support::LONG)).unwrap());
    assert_eq!(Some(record(&files(dir.path())[0])), supervisor.handoff().unwrap());
}
