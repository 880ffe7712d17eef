//! Handoff records in a directory, as they appear, change and disappear: each change once, and no file is a surprise.

mod support;

use llamapen::{HandoffChange, HandoffRecord, HandoffWatcher, Status, Supervisor, SupervisorConfig, prepare};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::LONG;
use tempfile::TempDir;

const NOW: Option<Duration> = Some(Duration::ZERO);

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn record(pool: &str, replica: u32, pid: u32, ready_at_ms: u64) -> HandoffRecord {
    let json = json!({
        "schema": 1, "pool_id": pool, "replica_id": replica, "pid": pid, "llamapen_version": "0.1.0",
        "engine_version": "1", "engine_digest": "sha256:0", "model_id": "m", "model_files": ["/m.gguf"],
        "model_digests": [], "device_mask": "none", "workers": 1, "slots": 1, "flags": [], "worker": 0,
        "ready_at_ms": ready_at_ms,
    });
    serde_json::from_value(json).unwrap()
}

/// As a supervisor writes it.
fn put(dir: &Path, record: &HandoffRecord) {
    let (temporary, place) = (dir.join(".llamapen-x.tmp"), dir.join(name(record)));
    std::fs::write(&temporary, record.to_json()).unwrap();
    std::fs::rename(temporary, place).unwrap();
}

fn name(record: &HandoffRecord) -> String {
    format!("llamapen-{}-{}.json", record.pool_id, record.replica_id)
}

fn me() -> u32 {
    std::process::id()
}

/// All changes of one look, by what they are and whose.
fn changes(watcher: &HandoffWatcher) -> Vec<String> {
    let mut seen: Vec<_> = std::iter::from_fn(|| watcher.next(NOW).unwrap())
        .map(|change| match change {
            HandoffChange::Appeared { record } => format!("appeared {}-{}", record.pool_id, record.replica_id),
            HandoffChange::Changed { record } => format!("changed {}-{}", record.pool_id, record.replica_id),
            HandoffChange::Gone { record } => format!("gone {}-{}", record.pool_id, record.replica_id),
            HandoffChange::Problem { path, problem } => {
                format!("{}: {problem}", path.rsplit('/').next().unwrap())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    seen.sort();
    seen
}

struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_supervisor_appears_changes_with_a_reload_and_goes() {
    let dir = TempDir::new().unwrap();
    let watcher = HandoffWatcher::new(dir.path()).unwrap();
    assert_eq!(watcher.next(NOW).unwrap(), None);
    let pool = |n_ctx| prepare(&support::config().with_n_ctx(n_ctx).with_pool_id("chat")).unwrap();
    let supervisor = std::thread::scope(|scope| {
        let change = scope.spawn(|| watcher.next(Some(LONG)).unwrap());
        let config = SupervisorConfig::default().with_handoff_dir(dir.path());
        let supervisor = Supervisor::start(pool(512), config).unwrap();
        let change = change.join().unwrap();
        assert!(supervisor.wait_ready(Some(LONG)).unwrap());
        let record = supervisor.handoff().unwrap().unwrap();
        assert_eq!(change, Some(HandoffChange::Appeared { record: record.clone() }));
        assert_eq!(watcher.records().unwrap(), [record]);
        supervisor
    });
    assert_eq!(watcher.next(NOW).unwrap(), None, "once");
    assert!(!watcher.bind(&supervisor.handoff().unwrap().unwrap()).unwrap(), "the same is no news");
    supervisor.reload(pool(768), Some(LONG)).unwrap();
    let record = supervisor.handoff().unwrap().unwrap();
    assert_eq!(watcher.next(NOW).unwrap(), Some(HandoffChange::Changed { record: record.clone() }));
    supervisor.stop().unwrap();
    assert_eq!(watcher.next(Some(LONG)).unwrap(), Some(HandoffChange::Gone { record }));
    assert_eq!(watcher.next(NOW).unwrap(), None);
    assert!(watcher.records().unwrap().is_empty());
}

#[test]
fn what_is_there_at_first_is_given_and_each_change_once() {
    let dir = TempDir::new().unwrap();
    let at = now_ms();
    for (pool, replica) in [("a", 0), ("a", 1), ("a-1", 0)] {
        put(dir.path(), &record(pool, replica, me(), at));
    }
    let watcher = HandoffWatcher::new(dir.path()).unwrap();
    assert_eq!(changes(&watcher), ["appeared a-0", "appeared a-1", "appeared a-1-0"]);
    // Written anew with the same in it, and with something newer.
    put(dir.path(), &record("a", 0, me(), at));
    put(dir.path(), &record("a", 1, me(), at + 1));
    assert_eq!(changes(&watcher), ["changed a-1"]);
    std::fs::remove_file(dir.path().join("llamapen-a-0.json")).unwrap();
    assert_eq!(changes(&watcher), ["gone a-0"]);
    put(dir.path(), &record("a", 0, me(), at + 2));
    assert_eq!(changes(&watcher), ["appeared a-0"]);
    // Somebody has put an older one back.
    put(dir.path(), &record("a", 1, me(), at));
    assert_eq!(changes(&watcher), [] as [&str; 0]);
    assert_eq!(changes(&watcher), [] as [&str; 0]);
}

#[test]
fn a_process_that_ended_or_another_one_with_its_number_is_gone() {
    let dir = TempDir::new().unwrap();
    let watcher = HandoffWatcher::new(dir.path()).unwrap();
    let (killed, other) = (Sleeper::new(), Sleeper::new());
    put(dir.path(), &record("killed", 0, killed.id(), now_ms()));
    put(dir.path(), &record("other", 0, other.id(), now_ms()));
    assert_eq!(changes(&watcher), ["appeared killed-0", "appeared other-0"]);
    let pid = killed.id();
    drop(killed);
    assert_eq!(changes(&watcher), ["gone killed-0"]);
    assert_eq!(changes(&watcher), [] as [&str; 0], "its file is still there, and says nothing");
    // Its number was given to a process that began after the record was made.
    put(dir.path(), &record("reused", 0, other.id(), now_ms() - 60_000));
    put(dir.path(), &record("dead", 0, pid, now_ms()));
    assert_eq!(changes(&watcher), [] as [&str; 0]);
    assert!(!watcher.bind(&record("reused", 1, other.id(), now_ms() - 60_000)).unwrap());
    // The pool starts again elsewhere.
    put(dir.path(), &record("killed", 0, other.id(), now_ms()));
    assert_eq!(changes(&watcher), ["appeared killed-0"]);
    drop(other);
    assert_eq!(changes(&watcher), ["gone killed-0", "gone other-0"]);
}

/// One that has ended and was not waited for does not serve anybody.
#[test]
fn a_zombie_is_gone() {
    let dir = TempDir::new().unwrap();
    let watcher = HandoffWatcher::new(dir.path()).unwrap();
    let mut zombie = Sleeper::new();
    put(dir.path(), &record("z", 0, zombie.id(), now_ms()));
    assert_eq!(changes(&watcher), ["appeared z-0"]);
    zombie.0.kill().unwrap();
    let mut seen = vec![];
    support::eventually("it is gone", || {
        seen.extend(changes(&watcher));
        !seen.is_empty()
    });
    assert_eq!(seen, ["gone z-0"]);
}

#[test]
fn foreign_broken_and_half_written_files_are_told_once_and_harm_nothing() {
    let dir = TempDir::new().unwrap();
    let watcher = HandoffWatcher::new(dir.path()).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    for ignored in [".llamapen-abc.tmp", "other.json", "llamapen-a-0.json.bak", "llamapen-a-0", "notes"] {
        write(ignored, "{");
    }
    assert_eq!(changes(&watcher), [] as [&str; 0]);

    let good = record("good", 0, me(), now_ms());
    put(dir.path(), &good);
    let with = |key: &str, value: Value| {
        let mut json = serde_json::to_value(record(key, 0, me(), 1)).unwrap();
        json[key] = value;
        (format!("llamapen-{key}-0.json"), json.to_string())
    };
    let broken = [
        ("llamapen-half-0.json".to_owned(), good.to_json()[..40].to_owned(), "it is no record: "),
        ("llamapen-empty-0.json".into(), String::new(), "it is no record: "),
        ("llamapen-list-0.json".into(), "[1]".into(), "it is no record: "),
        ("llamapen-copy-0.json".into(), good.to_json(), "it says what belongs into llamapen-good-0.json"),
    ];
    let values = [
        ("schema", json!(2), "its schema is 2, this version reads 1"),
        ("pid", json!(0), "pid is 0"),
        ("slots", json!(-1), "it is no record: "),
        ("workers", json!(0), "workers is 0"),
        ("worker", json!(1), "worker is none of the workers"),
        ("model_files", json!([]), "model_files is empty"),
        ("flags", json!("-c"), "it is no record: "),
        ("ready_at_ms", json!(0), "ready_at_ms is 0"),
    ];
    let mut expected = vec![];
    for (name, text, problem) in &broken {
        write(name, text);
        expected.push(format!("{name}: {problem}"));
    }
    for (key, value, problem) in values {
        let (name, text) = with(key, value);
        write(&name, &text);
        expected.push(format!("{name}: {problem}"));
    }
    std::fs::create_dir(dir.path().join("llamapen-dir-0.json")).unwrap();
    expected.push("llamapen-dir-0.json: it is no regular file".into());
    assert!(Command::new("mkfifo").arg(dir.path().join("llamapen-pipe-0.json")).status().unwrap().success());
    expected.push("llamapen-pipe-0.json: it is no regular file".into());
    std::fs::File::create(dir.path().join("llamapen-huge-0.json")).unwrap().set_len(1 << 40).unwrap();
    expected.push("llamapen-huge-0.json: it has 1099511627776 bytes".into());
    write("llamapen-text-0.json", "x");
    std::fs::write(dir.path().join("llamapen-text-0.json"), [0xff, 0xfe]).unwrap();
    expected.push("llamapen-text-0.json: it cannot be read: ".into());
    expected.push("appeared good-0".into());
    expected.sort();
    let seen = changes(&watcher);
    assert_eq!(seen.len(), expected.len(), "{seen:#?}");
    for (seen, expected) in seen.iter().zip(&expected) {
        assert!(seen.starts_with(expected), "{seen:?} {expected:?}");
    }
    assert_eq!(changes(&watcher), [] as [&str; 0], "once");

    // What was half written is whole now; what was whole is overwritten with nonsense, and goes on until its process does.
    put(dir.path(), &record("half", 0, me(), now_ms()));
    write("llamapen-good-0.json", "nonsense");
    let seen = changes(&watcher);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(seen[0], "appeared half-0");
    assert!(seen[1].starts_with("llamapen-good-0.json: it is no record"), "{seen:?}");
    assert_eq!(watcher.records().unwrap().len(), 2);
    std::fs::remove_file(dir.path().join("llamapen-good-0.json")).unwrap();
    assert_eq!(changes(&watcher), ["gone good-0"]);
}

#[test]
fn binding_is_done_once_whichever_way_it_comes() {
    let dir = TempDir::new().unwrap();
    let watcher = HandoffWatcher::new(dir.path()).unwrap();
    let sleeper = Sleeper::new();
    let (first, second) = (record("p", 0, sleeper.id(), now_ms()), record("p", 0, sleeper.id(), now_ms() + 5));
    assert!(watcher.bind(&first).unwrap());
    assert!(!watcher.bind(&first).unwrap());
    put(dir.path(), &first);
    assert_eq!(changes(&watcher), [] as [&str; 0], "it is bound already");
    assert!(watcher.bind(&second).unwrap(), "newer");
    assert!(!watcher.bind(&first).unwrap(), "older");
    put(dir.path(), &second);
    assert_eq!(changes(&watcher), [] as [&str; 0]);
    drop(sleeper);
    assert_eq!(changes(&watcher), ["gone p-0"]);
    let mut bad = first;
    bad.slots = 0;
    let error = watcher.bind(&bad).unwrap_err();
    assert_eq!((error.status(), error.to_string().as_str()), (Status::InvalidParams, "record: slots is 0"));
}

#[test]
fn no_directory_a_directory_that_goes_and_two_consumers() {
    for bad in [Path::new("/nowhere/at/all"), &support::model()] {
        let error = HandoffWatcher::new(bad).err().unwrap();
        assert_eq!(error.status(), Status::InvalidParams, "{error}");
    }
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("records");
    std::fs::create_dir(&dir).unwrap();
    let watcher = HandoffWatcher::new(&dir).unwrap();
    let sleeper = Sleeper::new();
    put(&dir, &record("p", 0, sleeper.id(), now_ms()));
    assert_eq!(changes(&watcher), ["appeared p-0"]);
    std::fs::rename(&dir, outer.path().join("away")).unwrap();
    let seen = changes(&watcher);
    assert!(seen.len() == 1 && seen[0].starts_with("records: it cannot be read: "), "{seen:?}");
    assert_eq!(watcher.records().unwrap().len(), 1, "it may come back, and its process lives");
    std::fs::rename(outer.path().join("away"), &dir).unwrap();
    assert_eq!(changes(&watcher), [] as [&str; 0]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| watcher.next(Some(LONG)).unwrap());
        support::eventually("one waits", || watcher.records().is_err());
        assert_eq!(watcher.next(NOW).unwrap_err().status(), Status::Busy);
        drop(sleeper);
        assert!(matches!(first.join().unwrap(), Some(HandoffChange::Gone { .. })));
    });
}
