//! What was prepared stays what it is, here and in another process, and is refused when its file does not.

mod support;

use llamapen::{
    EngineConfig, MachineSnapshot, PreparedEngine, Status, Supervisor, SupervisorConfig, prepare, prepare_on,
};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// The child: not a test by itself.
#[test]
#[ignore = "run by another test, in a child process"]
fn child() {
    let (config, machine): (EngineConfig, MachineSnapshot) = support::child::asked();
    support::child::answer(&prepare_on(&config, &machine).unwrap().to_json());
}

#[test]
fn equal_input_gives_equal_bytes_a_hundred_times_and_elsewhere() {
    let (config, machine) = (support::config(), MachineSnapshot::new(8, 64 << 30).with_cpu_model("any"));
    let json = prepare_on(&config, &machine).unwrap().to_json();
    for _ in 1..100 {
        assert_eq!(prepare_on(&config, &machine).unwrap().to_json(), json);
    }
    let again = PreparedEngine::from_json(&json).unwrap();
    assert_eq!(again, prepare_on(&config, &machine).unwrap());
    assert_eq!(again.to_json(), json);

    for _ in 0..2 {
        // With another seed of the hash tables, and other addresses.
        let output = support::child::command(&(&config, &machine)).output().unwrap();
        assert_eq!(support::child::answer_of::<String>(&output), json);
    }
    let other = prepare_on(&config, &MachineSnapshot::new(4, 64 << 30)).unwrap();
    assert_ne!(other.to_json(), json, "the machine is a part of it");
}

/// A copy of the real model, and the engine that was prepared from it.
struct Prepared {
    folder: TempDir,
    engine: PreparedEngine,
    modified: SystemTime,
}

impl Prepared {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.gguf");
        fs::copy(support::model(), &path).unwrap();
        let engine = prepare(&support::config().with_model(&path)).unwrap();
        let modified = path.metadata().unwrap().modified().unwrap();
        Self { folder, engine, modified }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.gguf")
    }

    fn open(&self) -> File {
        File::options().write(true).open(self.path()).unwrap()
    }

    /// As if nobody had written: equal to the nanosecond.
    fn restore_time(&self, path: &Path) {
        File::options().write(true).open(path).unwrap().set_modified(self.modified).unwrap();
    }

    fn start(&self) -> Result<(), llamapen::Error> {
        Supervisor::start(self.engine.clone(), SupervisorConfig::default()).map(drop)
    }

    fn stale(&self) {
        let error = self.start().unwrap_err();
        assert_eq!(error.status(), Status::StaleEngine, "{error}");
        assert!(error.to_string().contains("has changed since"), "{error}");
    }
}

#[test]
fn another_size_is_noticed() {
    let prepared = Prepared::new();
    prepared.start().expect("as it is, it starts");
    let length = prepared.path().metadata().unwrap().len();
    prepared.open().set_len(length + 1).unwrap();
    prepared.restore_time(&prepared.path());
    prepared.stale();
    prepared.open().set_len(length).unwrap();
    prepared.restore_time(&prepared.path());
    prepared.start().expect("put back, it starts again");

    prepared.open().set_len(length - 1).unwrap();
    prepared.restore_time(&prepared.path());
    prepared.stale();
}

#[test]
fn another_time_is_noticed_at_equal_size() {
    let prepared = Prepared::new();
    for later in [Duration::from_nanos(1), Duration::from_secs(5)] {
        prepared.open().set_modified(prepared.modified + later).unwrap();
        prepared.stale();
    }
    prepared.restore_time(&prepared.path());
    prepared.start().expect("put back, it starts again");
}

#[test]
fn another_header_is_noticed_at_equal_size_and_time() {
    let prepared = Prepared::new();
    let header = fs::read(support::model()).unwrap();
    // A text that no decision depends on.
    let template = b"You are a helpful AI assistant named SmolLM";
    let at = header.windows(template.len()).position(|window| window == template).unwrap();
    let mut file = prepared.open();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(b"y").unwrap();
    drop(file);
    prepared.restore_time(&prepared.path());
    let (now, then) = (prepared.path().metadata().unwrap(), support::model().metadata().unwrap());
    assert_eq!((now.len(), now.modified().unwrap()), (then.len(), prepared.modified));
    prepared.stale();
}

#[test]
fn another_file_in_its_place_is_noticed_at_equal_content_and_time() {
    let prepared = Prepared::new();
    let other = prepared.folder.path().join("other.gguf");
    fs::copy(support::model(), &other).unwrap();
    prepared.restore_time(&other);
    fs::rename(&other, prepared.path()).unwrap();
    prepared.stale();
}

/// Speed is measured by `make bench-prepare`. This is a guard against hangs, at ten times the targets: of many calls, one
/// is that quick, also on a busy machine.
#[test]
fn preparing_does_not_hang() {
    let folder = TempDir::new().unwrap();
    let large = folder.path().join("large.gguf");
    support::large::write(&large, support::large::Weights::F16).unwrap();
    let machine = MachineSnapshot::new(8, 64 << 30);
    for (model, guard) in [(support::model(), 200), (large, 500)] {
        let guard = Duration::from_millis(guard);
        let config = support::config().with_model(model);
        let mut quick = |_| {
            let start = Instant::now();
            prepare_on(&config, &machine).unwrap();
            println!("{:?}", start.elapsed());
            start.elapsed() < guard
        };
        assert!((0..20).any(&mut quick), "never within {guard:?}");
    }
}
