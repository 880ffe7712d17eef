//! Starts a worker's process.

use super::embedded::{Executable, Place, places};
use super::entry;
use super::locate::{Library, Located, NotLocated};
use super::output::{Log, Output};
use super::pid_file::PidFile;
use super::process::Child;
use std::ffi::{OsStr, OsString};
use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Another thread of the host may be between fork and exec, where its child has our file open for writing.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(4);

/// What is asked for beside the process itself.
#[derive(Debug, Default, Clone)]
pub(crate) struct LaunchOptions {
    /// Added to the host's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where its output is added to, up to 16 MiB.
    pub log: Option<PathBuf>,
    /// A file with its number, for as long as it is held.
    pub pid_file: Option<PathBuf>,
}

/// A worker's process. Dropped, it is killed.
pub(crate) struct Launched {
    pub child: Child,
    pub output: Output,
    _pid_file: Option<PidFile>,
}

/// Why no process was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("{}", .0.in_full())]
    NotLocated(#[from] NotLocated),
    #[error("a worker's output cannot be read: {0}")]
    Output(#[source] io::Error),
    #[error("the log {} of a worker cannot be written: {source}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("the file {} with a worker's process number cannot be written: {source}", path.display())]
    PidFile { path: PathBuf, source: io::Error },
    #[error("a worker's process cannot be started from {what}: {problem}")]
    Start { what: String, problem: String },
    #[error(
        "a worker's process cannot be started: {}. Allow one of these, or set LLAMAPEN_WORKER to a llamapen-worker", tried.join("; ")
    )]
    Embedded { tried: Vec<String> },
}

/// Starts a worker's process, which has `socket` as its stdin. Its other end must be closed on exec, or nobody ever reads
/// its end.
///
/// To be called on a thread that outlives the process: the system ends the process with the *thread* that started it.
pub(crate) fn launch(located: &Located, socket: OwnedFd, options: &LaunchOptions) -> Result<Launched, LaunchError> {
    let places = match located {
        Located::Library(library) => places(&library.path),
        Located::Program(_) => vec![],
    };
    launch_from(located, &places, socket, options)
}

pub(super) fn launch_from(
    located: &Located,
    places: &[Place],
    socket: OwnedFd,
    options: &LaunchOptions,
) -> Result<Launched, LaunchError> {
    let log = options
        .log
        .as_deref()
        .map(|path| Log::open(path).map_err(|source| LaunchError::Log { path: path.into(), source }));
    let (reader, writer) = io::pipe().map_err(LaunchError::Output)?;
    // First of all: a process whose output nobody reads would stop.
    let output = Output::read(reader, log.transpose()?).map_err(LaunchError::Output)?;
    let streams = Streams { socket, output: writer };
    let child = match located {
        Located::Library(library) => start_library(library, places, &streams, options)?,
        Located::Program(path) => start_program(path, &streams, options)
            .map_err(|e| LaunchError::Start { what: located.to_string(), problem: e.to_string() })?,
    };
    let write = |path: &PathBuf| {
        PidFile::write(path, child.pid()).map_err(|source| LaunchError::PidFile { path: path.clone(), source })
    };
    let _pid_file = options.pid_file.as_ref().map(write).transpose()?;
    Ok(Launched { child, output, _pid_file })
}

/// What becomes the process's stdin, and its stdout and stderr. Closed here once it is started.
struct Streams {
    socket: OwnedFd,
    output: PipeWriter,
}

fn start_program(path: &Path, streams: &Streams, options: &LaunchOptions) -> io::Result<Child> {
    start(command(path, options).env(entry::HOST, std::process::id().to_string()), streams)
}

fn start_library(
    library: &Library,
    places: &[Place],
    streams: &Streams,
    options: &LaunchOptions,
) -> Result<Child, LaunchError> {
    library.check()?;
    let mut tried = Vec::new();
    for place in places {
        let started = Executable::new(place, library.interpreter.as_deref()).and_then(|executable| {
            let mut command = command(&executable.path, options);
            command.arg(std::process::id().to_string()).arg(&library.path).args(&library.needs);
            start(&mut command, streams)
        });
        match started {
            Ok(child) => return Ok(child),
            Err(e) => tried.push(match place {
                Place::Memory => format!("from memory: {e}"),
                Place::Folder(folder) | Place::Private(folder) => format!("from {}: {e}", folder.display()),
            }),
        }
    }
    Err(LaunchError::Embedded { tried })
}

fn command(program: &Path, options: &LaunchOptions) -> Command {
    let mut command = Command::new(program);
    command.arg0(OsStr::new("llamapen-worker"));
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Nothing of ours runs between fork and exec, so the library can use `posix_spawn`: with a large host it is much faster.
fn start(command: &mut Command, streams: &Streams) -> io::Result<Child> {
    let mut tries = 0;
    loop {
        command.stdin(streams.socket.try_clone()?);
        command.stdout(streams.output.try_clone()?);
        command.stderr(streams.output.try_clone()?);
        match command.spawn() {
            Ok(child) => return Ok(Child::new(&child)),
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => tries += 1,
            Err(e) => return Err(e),
        }
        std::thread::sleep(BUSY_WAIT);
    }
}
