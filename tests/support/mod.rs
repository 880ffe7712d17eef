//! What the integration tests share: the real model, supervisors on it, and looks at the process.
#![allow(dead_code, unused_imports, unused_macros)] // each test file uses a part

pub mod again;
pub mod child;
pub mod filter;
pub mod large;
pub mod prometheus;
pub mod reference;
pub mod traces;

use llamapen::{
    EngineConfig, Event, Failed, FinishReason, Isolation, Request, Supervisor, SupervisorConfig, TokenStream, prepare,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A guard against hangs, not a measure of speed.
pub const LONG: Duration = Duration::from_secs(120);

/// The real model: `LLAMAPEN_TEST_MODEL`, or where `make model` puts it.
pub fn model() -> PathBuf {
    if let Some(path) = std::env::var_os("LLAMAPEN_TEST_MODEL") {
        return path.into();
    }
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("LLAMAPEN_CACHE_DIR")
        .or_else(|| Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("llamapen")))
        .expect("a home folder");
    let path = cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(
        path.is_file(),
        "the test model is not at {}: run `make model`, or set LLAMAPEN_TEST_MODEL",
        path.display()
    );
    path
}

/// The synthetic models: `LLAMAPEN_SYNTHETIC_MODELS`, which names the folder that `scripts/synthetic.py` prints.
pub fn synthetic() -> PathBuf {
    let folder = std::env::var_os("LLAMAPEN_SYNTHETIC_MODELS");
    folder.expect("set LLAMAPEN_SYNTHETIC_MODELS to what scripts/synthetic.py prints").into()
}

/// One thread per worker, a small context: tests run beside each other. Workers are what `LLAMAPEN_TEST_ISOLATION` says.
pub fn config() -> EngineConfig {
    let config = EngineConfig::new(model()).with_threads(1).with_n_ctx(1024);
    if in_processes() { config.with_isolation(Isolation::Process) } else { config }
}

/// Whether the tests run with workers that are processes.
pub fn in_processes() -> bool {
    match std::env::var("LLAMAPEN_TEST_ISOLATION").as_deref() {
        Ok("process") => true,
        Ok("thread") | Err(_) => false,
        Ok(other) => panic!("LLAMAPEN_TEST_ISOLATION: {other:?} is neither thread nor process"),
    }
}

pub fn start(config: &EngineConfig) -> Supervisor {
    start_with(config, SupervisorConfig::default())
}

pub fn start_with(config: &EngineConfig, supervisor: SupervisorConfig) -> Supervisor {
    let supervisor = Supervisor::start(prepare(config).unwrap(), supervisor).unwrap();
    assert!(supervisor.wait_ready(Some(LONG)).unwrap(), "not ready in time");
    supervisor
}

/// A request whose answer is always the same.
pub fn greedy(tokens: impl Into<Vec<i32>>) -> Request {
    Request::tokens(tokens).with_temperature(0.0).with_ignore_eos(true).with_seed(0)
}

/// `n` tokens of plain words, other ones for another `seed`.
pub fn words(seed: i32, n: usize) -> Vec<i32> {
    (0..n as i32).map(|i| 1000 + (i * 7919 + seed * 7_001) % 20_000).collect()
}

/// A whole answer, read to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub tokens: Vec<i32>,
    pub text: String,
    pub reason: FinishReason,
    pub seed: u64,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    /// How often it went on in another worker.
    pub restarts: u32,
}

/// Reads a stream to its end and checks the order of its events on the way.
pub fn read(stream: TokenStream) -> Result<Answer, Failed> {
    let mut answer = Answer {
        tokens: vec![],
        text: String::new(),
        reason: FinishReason::Stop,
        seed: 0,
        prompt_tokens: 0,
        cached_tokens: 0,
        restarts: 0,
    };
    let (mut started, mut end) = (false, None);
    for event in stream {
        assert!(end.is_none(), "{event:?} after the terminal event");
        match event {
            Event::Started(s) => {
                assert!(!std::mem::replace(&mut started, true), "started twice");
                (answer.seed, answer.prompt_tokens, answer.cached_tokens) = (s.seed, s.prompt_tokens, s.cached_tokens);
            }
            Event::Token(token) => {
                assert!(started, "a token before the start");
                assert_eq!(token.index as usize, answer.tokens.len());
                answer.tokens.push(token.token);
                answer.text.push_str(&token.text);
            }
            Event::Restarted(restarted) => {
                assert!(started, "a restart before the start");
                answer.restarts += 1;
                let seen = (answer.restarts, answer.tokens.len());
                assert_eq!((restarted.attempt, restarted.tokens_kept as usize), seen);
            }
            Event::Finished(finished) => {
                assert_eq!(finished.usage.completion_tokens as usize, answer.tokens.len());
                answer.text.push_str(&finished.text);
                answer.reason = finished.reason;
                end = Some(Ok(()));
            }
            Event::Failed(failed) => end = Some(Err(failed)),
            other => panic!("unexpected {other:?}"),
        }
    }
    end.expect("a stream ends with a terminal event").map(|()| answer)
}

/// A few tokens, to be had soon.
pub fn brief() -> Request {
    Request::prompt("Once").with_ignore_eos(true).with_max_tokens(8)
}

/// Asks again and again until `done`, with pauses of random length: at any moment of what else happens.
pub fn keep_asking(supervisor: &Supervisor, seed: u64, most_pause: Duration, done: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !done.load(Ordering::Relaxed) {
        assert!(read(supervisor.submit(brief().with_max_tokens(random.u32(1..4))).unwrap()).is_ok());
        std::thread::sleep(most_pause.mul_f64(random.f64()));
    }
}

/// Waits until `done`, as a guard against hangs.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "{what}: not in {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Threads of this process.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Open file descriptors, without the one this look takes.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Children of this process, dead ones that nobody has waited for among them.
pub fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    let mut children: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect();
    children.sort_unstable();
    children
}

/// What this process holds of the system's: threads, descriptors and children.
pub fn held() -> [usize; 3] {
    [threads(), descriptors(), children().len()]
}

/// Waits until this process holds no more of anything.
pub fn holds_at_most(most: [usize; 3]) {
    eventually("what the dead held is given back", || held().iter().zip(most).all(|(now, most)| *now <= most));
}

/// What [`hub_cache`] calls the real model.
pub const HUB_REFERENCE: &str = "hf:HuggingFaceTB/SmolLM2/SmolLM2.Q4_1.gguf";

/// A cache of the hub's tools that holds the real model.
pub fn hub_cache() -> TempDir {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let cache = TempDir::new().unwrap();
    let repository = cache.path().join("models--HuggingFaceTB--SmolLM2");
    let snapshot = repository.join("snapshots").join(COMMIT);
    for folder in ["refs", "blobs"].map(|name| repository.join(name)).iter().chain([&snapshot]) {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
    std::os::unix::fs::symlink(model(), repository.join("blobs/ab12")).unwrap();
    std::os::unix::fs::symlink("../../blobs/ab12", snapshot.join("SmolLM2.Q4_1.gguf")).unwrap();
    cache
}

/// A folder with a stand-in for NVIDIA's driver library, for `LD_LIBRARY_PATH`. It behaves as `FAKE_CUDA` says.
pub fn cuda_stand_in(defines: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    compile_stand_in("fake_cuda.c", &folder.path().join("libcuda.so.1"), defines);
    folder
}

/// The same of NVIDIA's management library, put into this folder.
pub fn nvml_stand_in(folder: &Path) {
    compile_stand_in("fake_nvml.c", &folder.join("libnvidia-ml.so.1"), &[]);
}

fn compile_stand_in(source: &str, library: &Path, defines: &[&str]) {
    let soname = library.file_name().unwrap().to_str().unwrap();
    let status = Command::new(std::env::var_os("CC").unwrap_or("cc".into()))
        .args(["-shared", "-fPIC", &format!("-Wl,-soname,{soname}"), "-o"])
        .arg(library)
        .args(defines)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(source))
        .status()
        .unwrap();
    assert!(status.success());
}

/// The same with a library that cannot be loaded: it hides the driver that this machine may have.
pub fn no_cuda() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("libcuda.so.1"), "no library").unwrap();
    folder
}
