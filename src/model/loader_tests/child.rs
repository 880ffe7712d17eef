//! The child process that loads files, and its end of the parent.
//!
//! The child is this test program again, told to run one ignored test. It takes paths from its standard input and says
//! on its standard output how far it comes, in lines that begin with `@`.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::model::{GgmlType, ModelInfo, read_header};
use crate::native::{Batch, Context, ContextParams, Kernels, LoadParams, Model, init_backend};

const THIS_TEST: &str = "model::loader_tests::child::loads_files_for_a_parent";
/// Far more than any file here takes; it is for loops without end.
const DEADLINE: Duration = Duration::from_secs(20);
/// Address space of a child: a file that makes the loader take more than this is a death.
const MEMORY_KIB: u32 = 4 << 20;

/// How far a file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// llama.cpp gave a load error.
    Refused,
    /// It loaded, but no context could be made.
    Loaded,
    /// A context was made; nothing was decoded, or not with success.
    Context,
    /// A token was decoded.
    Decoded,
}

impl Outcome {
    pub(super) const ALL: &[Self; 4] = &[Self::Refused, Self::Loaded, Self::Context, Self::Decoded];
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused cleanly",
            Self::Loaded => "loaded",
            Self::Context => "with a context",
            Self::Decoded => "decoded",
        })
    }
}

/// What ended a child.
#[derive(Debug)]
pub(super) struct Death {
    /// What it was doing.
    stage: String,
    /// None if it had to be killed.
    status: Option<ExitStatus>,
    /// Its last words.
    said: String,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            None => write!(f, "hangs in {}", self.stage)?,
            Some(status) => match status.signal() {
                Some(signal) => write!(f, "signal {signal} in {}", self.stage)?,
                None => write!(f, "{status} in {}", self.stage)?,
            },
        }
        write!(f, ": {}", self.said.trim())
    }
}

/// A child that is started again when it dies.
pub(super) struct Child {
    process: std::process::Child,
    input: ChildStdin,
    lines: Receiver<String>,
    errors: std::fs::File,
    file: PathBuf,
}

impl Child {
    pub(super) fn start() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("llamapen-mutant-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let file = std::env::temp_dir().join(name);
        let errors_path = file.with_extension("stderr");
        let errors =
            std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&errors_path).unwrap();
        std::fs::remove_file(&errors_path).unwrap();
        // The shell sets limits without a line of unsafe code.
        let limits = format!("ulimit -v {MEMORY_KIB}; ulimit -c 0; exec \"$0\" \"$@\"");
        let mut process = Command::new("sh")
            .args(["-c", &limits])
            .arg(std::env::current_exe().unwrap())
            .args([THIS_TEST, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            // Without it ggml starts a debugger to print a backtrace.
            .env("GGML_NO_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().unwrap())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, lines) = crossbeam_channel::unbounded();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix('@')
                    && sender.send(line.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { process, input, lines, errors, file }
    }

    /// Has the child load a file of these bytes.
    pub(super) fn run(&mut self, bytes: &[u8]) -> Result<Outcome, Death> {
        std::fs::write(&self.file, bytes).unwrap();
        // If this fails, the child is gone, which the loop below finds out.
        let _ = writeln!(self.input, "{}", self.file.display());
        let deadline = Instant::now() + DEADLINE;
        let mut stage = "start".to_owned();
        loop {
            match self.lines.recv_deadline(deadline) {
                Ok(line) => match Outcome::ALL.iter().find(|outcome| format!("{outcome:?}") == line) {
                    Some(&outcome) => return Ok(outcome),
                    None => stage = line,
                },
                Err(error) => {
                    if error == RecvTimeoutError::Timeout {
                        self.process.kill().unwrap();
                    }
                    let status = self.process.wait().unwrap();
                    let status = (error == RecvTimeoutError::Disconnected).then_some(status);
                    let mut said = Vec::new();
                    self.errors.seek(SeekFrom::Start(0)).unwrap();
                    self.errors.read_to_end(&mut said).unwrap();
                    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(1000)..]).into_owned();
                    let death = Death { stage, status, said };
                    *self = Self::start();
                    return Err(death);
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

#[test]
#[ignore = "the child process of the other tests here"]
fn loads_files_for_a_parent() {
    init_backend().unwrap();
    // The test harness has begun a line.
    println!();
    for path in std::io::stdin().lines() {
        let outcome = load(Path::new(&path.unwrap()));
        say(&format!("{outcome:?}"));
    }
}

fn say(word: &str) {
    println!("@{word}");
    std::io::stdout().flush().unwrap();
}

/// What the supervisor's loader and a worker do with a file. Files that this reader refuses go all the way.
fn load(path: &Path) -> Outcome {
    let info = read_header(path).and_then(|gguf| ModelInfo::from_gguf(&gguf)).ok();
    let wordless =
        |info: &ModelInfo| info.n_vocab == 0 || matches!(info.tokenizer_model.as_deref(), Some("none" | "no_vocab"));
    say("loading");
    let Ok(model) =
        Model::load(path, &LoadParams { use_mmap: true, use_repack: true, ..LoadParams::default() }, |_| true)
    else {
        return Outcome::Refused;
    };
    let model = Arc::new(model);
    if !info.as_ref().is_some_and(wordless) {
        say("tokenizing");
        let _ = model.tokenize("ab a<s>\n é日\u{1f600}", true);
    }
    say("making a context");
    let params = ContextParams {
        n_ctx: 16,
        n_seq: 1,
        n_ubatch: 8,
        n_outputs: 1,
        n_threads: 1,
        flash_attention: true,
        kv_type_k: GgmlType::F16,
        kv_type_v: GgmlType::F16,
        swa_full: false,
    };
    let Ok(mut context) = Context::new(model, &params, Arc::new(AtomicI32::new(0))) else {
        return Outcome::Loaded;
    };
    // What `prepare` refuses is not decoded.
    if info.is_some_and(|info| wordless(&info) || info.reads_as_a_whole()) {
        return Outcome::Context;
    }
    say("decoding");
    let mut batch = Batch::default();
    batch.push(0, 0, 0, true);
    match context.decode(&batch, Kernels::Fast) {
        Ok(()) => Outcome::Decoded,
        Err(_) => Outcome::Context,
    }
}
