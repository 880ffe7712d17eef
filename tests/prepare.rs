//! `prepare` decides and checks, and does nothing.

mod support;

use llamapen::{EngineConfig, Error, PreparedEngine, Status, Supervisor, SupervisorConfig, prepare};
use std::fs;
use std::path::{Path, PathBuf};

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("llamapen-prepare-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn refused(config: &EngineConfig) -> Error {
    prepare(config).expect_err("must be refused")
}

#[test]
fn describes_the_real_model() {
    let engine = prepare(&support::config()).unwrap();
    let info = engine.info();
    assert_eq!((info.architecture.as_str(), info.n_ctx_train, info.n_layer, info.n_vocab), ("llama", 8192, 30, 49152));
    assert!(info.chat_template.as_deref().unwrap().contains("<|im_start|>"));
    assert_eq!(info.file_bytes, fs::metadata(support::model()).unwrap().len());
    assert_eq!((engine.n_ctx(), engine.threads(), engine.workers(), engine.slots()), (1024, 1, 1, 1));
    assert!(engine.engine_digest().starts_with("sha256:"));
}

#[test]
fn chooses_what_is_left_open_within_the_cores() {
    let engine = prepare(&EngineConfig::new(support::model())).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get() as u32;
    assert_eq!(engine.threads() * engine.workers(), cores);
    assert_eq!(engine.n_ctx(), 4096);

    let error = refused(&support::config().with_threads(cores + 1));
    assert_eq!(error.status(), Status::InvalidParams);
    let error = refused(&support::config().with_workers(cores).with_threads(cores + 1));
    assert_eq!(error.status(), Status::InvalidParams);
    if cores > 1 {
        let error = refused(&support::config().with_workers(cores).with_threads(2));
        assert!(error.to_string().contains("compute threads"), "{error}");
    }
}

#[test]
fn equal_input_gives_equal_bytes_and_json_gives_it_back() {
    let (a, b) = (prepare(&support::config()).unwrap(), prepare(&support::config()).unwrap());
    assert_eq!(a.to_json(), b.to_json());
    assert_eq!(PreparedEngine::from_json(&a.to_json()).unwrap(), a);
    // The same file by another path is the same engine.
    let link = scratch("link").join("model.gguf");
    std::os::unix::fs::symlink(support::model(), &link).unwrap();
    let by_link = prepare(&support::config().with_model(link));
    assert_eq!(by_link.unwrap(), a);
}

#[test]
fn refuses_what_is_no_model_file() {
    let dir = scratch("files");
    let at = |path: &Path| EngineConfig::new(path);
    let status = |path: &Path| refused(&at(path)).status();

    assert_eq!(refused(&EngineConfig::new("")).status(), Status::InvalidParams);
    let missing = refused(&at(&dir.join("missing.gguf")));
    assert_eq!(missing.status(), Status::ModelNotFound);
    assert!(missing.to_string().contains("missing.gguf"), "{missing}");
    let directory = refused(&at(&dir));
    assert_eq!(directory.status(), Status::ModelNotFound);
    assert!(directory.to_string().contains("directory"), "{directory}");
    assert_eq!(status(Path::new("/dev/null")), Status::ModelNotFound);

    fs::write(dir.join("text.gguf"), "not a model at all, but long enough to hold a header").unwrap();
    let text = refused(&at(&dir.join("text.gguf")));
    assert_eq!(text.status(), Status::ModelInvalid);
    assert!(text.to_string().contains("not a GGUF file") && text.to_string().contains("text.gguf"), "{text}");
    fs::write(dir.join("empty.gguf"), "").unwrap();
    assert_eq!(status(&dir.join("empty.gguf")), Status::ModelInvalid);
}

#[test]
fn refuses_a_truncated_model_at_any_length() {
    let dir = scratch("truncated");
    let whole = fs::read(support::model()).unwrap();
    for length in [4, 23, 24, 1_000, 1_000_000, 5_000_000, whole.len() / 2, whole.len() - 1] {
        let path = dir.join(format!("{length}.gguf"));
        fs::write(&path, &whole[..length]).unwrap();
        let error = refused(&EngineConfig::new(&path));
        assert_eq!(error.status(), Status::ModelInvalid, "{length}: {error}");
        assert!(error.to_string().contains("truncated"), "{length}: {error}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn refuses_values_out_of_range_by_name() {
    let base = support::config();
    for (field, config) in [
        ("n_ctx", base.clone().with_n_ctx(0)),
        ("n_ctx", base.clone().with_n_ctx(8193)),
        ("n_ctx", base.clone().with_n_ctx(u32::MAX)),
        ("n_ubatch", base.clone().with_n_ubatch(0)),
        ("n_ubatch", base.clone().with_n_ubatch(1 << 20)),
        ("threads", base.clone().with_threads(0)),
        ("workers", base.clone().with_workers(0)),
        ("workers", base.clone().with_workers(u32::MAX)),
        ("slots", base.clone().with_slots(0)),
        ("slots", base.with_slots(65)),
    ] {
        let error = refused(&config);
        assert_eq!(error.status(), Status::InvalidParams, "{error}");
        assert!(error.to_string().starts_with(&format!("{field}:")), "{error}");
    }
}

/// A deserialized engine is untrusted: what does not fit this build, machine or file is refused when it is started.
#[test]
fn a_stale_or_forged_engine_does_not_start() {
    let dir = scratch("stale");
    let copy = dir.join("model.gguf");
    fs::copy(support::model(), &copy).unwrap();
    let engine = prepare(&support::config().with_model(&copy)).unwrap();
    let start =
        |json: &str| Supervisor::start(PreparedEngine::from_json(json).unwrap(), SupervisorConfig::default()).map(drop);
    start(&engine.to_json()).expect("as it is, it starts");

    let digest = engine.engine_digest().to_owned();
    for (from, to) in [
        ("\"schema\":7", "\"schema\":6"),
        (digest.as_str(), "sha256:00"),
        ("\"n_vocab\":49152", "\"n_vocab\":99999"),
        ("\"threads\":1", "\"threads\":4096"),
        ("\"n_ctx\":1024", "\"n_ctx\":1048576"),
    ] {
        let forged = engine.to_json().replace(from, to);
        assert_ne!(forged, engine.to_json(), "{from} is not in the JSON");
        let error = start(&forged).unwrap_err();
        assert!(matches!(error.status(), Status::StaleEngine | Status::InvalidParams), "{to}: {error}");
    }

    let file = fs::File::options().append(true).open(&copy).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    let error = start(&engine.to_json()).unwrap_err();
    assert_eq!(error.status(), Status::StaleEngine);
    assert!(error.to_string().contains("changed"), "{error}");
    fs::remove_file(&copy).unwrap();
    assert_eq!(start(&engine.to_json()).unwrap_err().status(), Status::ModelNotFound);
}
