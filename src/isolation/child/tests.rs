//! The embedded launcher under hosts of every kind. Each host is a process of its own: this test program again, running only
//! `host`.

use super::embedded::{Place, places};
use super::launch::LaunchError;
use super::launch::launch_from;
use super::locate::Library;
use super::locate::NotLocated;
use super::*;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as CommandOutput, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
const KIND: &str = "LLAMAPEN_TEST_HOST";
const LIBRARY: &str = "LLAMAPEN_TEST_LIBRARY";

/// A folder with a library that everybody may read.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let folder = Self(tempfile::Builder::new().permissions(everybody).tempdir().unwrap());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/isolation/child/test_worker.c");
        folder.compile(&source);
        folder
    }

    fn compile(&self, source: &Path) {
        let output =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(self.library()).arg(source).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("libworker.so")
    }

    fn host(&self, kind: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "isolation::child::tests::host", "--ignored", "--nocapture", "--test-threads", "1"]);
        command.env(KIND, kind).env(LIBRARY, self.library());
        command
    }
}

fn start(library: &Path, places: &[Place], options: &LaunchOptions) -> Result<(Launched, UnixStream), LaunchError> {
    let (ours, socket) = UnixStream::pair().unwrap();
    let launched = launch_from(&Located::Library(Library::at(library)), places, socket.into(), options)?;
    Ok((launched, ours))
}

/// A worker that runs.
fn worker(library: &Path) -> (Launched, UnixStream) {
    let (launched, mut socket) = start(library, &places(library), &LaunchOptions::default()).unwrap();
    ready(&launched, &mut socket);
    (launched, socket)
}

fn ready(launched: &Launched, socket: &mut UnixStream) {
    let mut byte = [0];
    let read = socket.read_exact(&mut byte);
    assert!(read.is_ok() && byte == *b"r", "{:?} {:?}", launched.child.try_wait(), launched.output.last_lines(SOON));
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn is_gone_soon(pid: u32) -> bool {
    let deadline = Instant::now() + SOON;
    // Who waits for an orphan is not our matter.
    let runs = || crate::machine::running_process(pid).is_some();
    while runs() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    !runs()
}

/// Numbers of open descriptors.
fn open(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut open: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    open.sort();
    open
}

fn signals(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    // Not the two that glibc keeps for itself.
    u64::from_str_radix(mask.trim_start_matches(':').trim(), 16).unwrap() & !(0b11 << 31)
}

/// Nothing of the host's is left in it, TERM ends it, and one that sees its host close the socket ends in order.
fn check_workers(library: &Path, kind: &str) {
    let (launched, socket) = worker(library);
    let pid = launched.child.pid();
    // Another user's are nobody's to see.
    if kind != "nobody" {
        assert_eq!(open(pid), ["0", "1", "2"]);
    }
    assert_eq!(signals(pid, "SigBlk"), 0);
    assert_eq!(signals(pid, "SigIgn"), 1 << (libc::SIGPIPE - 1) | 1 << (libc::SIGXFSZ - 1));
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "llamapen-worker\n");
    let known = |exit| if kind == "ignores_sigchld" { Exit::Unknown } else { exit };
    let ended = launched.child.terminate(SOON).unwrap();
    assert_eq!(ended, known(Exit::Signal { number: libc::SIGTERM, core: false }));
    assert!(!exists(pid));
    drop(socket);

    let (launched, socket) = worker(library);
    drop(socket);
    assert_eq!(launched.child.wait_for(SOON).unwrap(), known(Exit::Code(7)));
    assert_eq!(launched.output.last_lines(SOON), ["the worker runs"]);
}

/// More than a thousand, and not closed on exec.
fn descriptors() -> Vec<libc::c_int> {
    // SAFETY: system calls on local data.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        (0..1200).map(|_| libc::dup(libc::STDERR_FILENO)).collect()
    }
}

fn in_memory() -> std::io::Result<embedded::Executable> {
    embedded::Executable::new(&Place::Memory, None)
}

/// From here on such system calls fail here and in all children: all of them, or those with this bit in their second argument.
fn refuse(calls: &[libc::c_long], bit: Option<u32>, error: libc::c_int) {
    use seccompiler::SeccompCmpOp::MaskedEq;
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCondition, SeccompFilter, SeccompRule};
    let with = |bit: u32| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, MaskedEq(bit.into()), bit.into());
        SeccompRule::new(vec![condition.unwrap()]).unwrap()
    };
    let rules = calls.iter().map(|&call| (call, bit.map(with).into_iter().collect()));
    let (fails, arch) = (SeccompAction::Errno(error.cast_unsigned()), std::env::consts::ARCH.try_into().unwrap());
    let filter = SeccompFilter::new(rules.collect(), SeccompAction::Allow, fails, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
#[ignore = "a host, run by the other tests"]
fn host() {
    let (kind, library) = (std::env::var(KIND).expect("run by other tests only"), std::env::var_os(LIBRARY).unwrap());
    let library = PathBuf::from(library);
    let mut kept = vec![];
    // SAFETY: system calls on local data, in a process that is there for this.
    unsafe {
        match kind.as_str() {
            "plain" => {}
            "blocks_signals" => {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
            }
            "ignores_signals" => {
                for number in (1..libc::SIGRTMAX()).filter(|&number| number != libc::SIGCHLD) {
                    libc::signal(number, libc::SIG_IGN);
                }
            }
            "ignores_sigchld" => drop(libc::signal(libc::SIGCHLD, libc::SIG_IGN)),
            "many_descriptors" => kept = descriptors(),
            "no_stdin" => {
                libc::close(libc::STDIN_FILENO);
                assert!(!in_memory().unwrap().path.ends_with("0"));
            }
            "elsewhere" => std::env::set_current_dir("/proc").unwrap(),
            "nowhere" => {
                let folder = tempfile::tempdir().unwrap();
                std::env::set_current_dir(folder.path()).unwrap();
                folder.close().unwrap();
            }
            "nobody" => {
                // Only who may become somebody else can show it.
                if libc::geteuid() == 0 {
                    assert_eq!(libc::setgid(65534) | libc::setuid(65534), 0);
                }
            }
            // What a kernel of 2018 lacks.
            "old_kernel" => {
                kept = descriptors();
                refuse(&[libc::SYS_close_range, libc::SYS_pidfd_open], None, libc::ENOSYS);
                refuse(&[libc::SYS_memfd_create], Some(libc::MFD_EXEC), libc::EINVAL);
                assert!(in_memory().is_ok());
            }
            "no_memory_files" => {
                refuse(&[libc::SYS_memfd_create], None, libc::EPERM);
                assert!(in_memory().is_err());
            }
            "dumps_core" => {
                let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
                libc::setrlimit(libc::RLIMIT_CORE, &limit);
            }
            "is_killed" => {
                let (launched, _socket) = worker(&library);
                println!("\nworker {}", launched.child.pid());
                std::thread::sleep(SOON * 2);
            }
            "ends_a_thread" => {
                let (launched, _socket) = std::thread::spawn(move || worker(&library)).join().unwrap();
                let exit = launched.child.wait_for(SOON).unwrap();
                assert_eq!(exit, Exit::Signal { number: libc::SIGKILL, core: false });
                return;
            }
            _ => unreachable!("{kind}"),
        }
    }
    assert!(kept.iter().all(|&fd| fd > libc::STDERR_FILENO));
    check_workers(&library, &kind);
}

fn run(command: &mut Command) {
    let CommandOutput { status, stdout, stderr } = command.output().unwrap();
    let text = || format!("{}\n{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}\n{status}\n{}", text());
}

#[test]
fn under_every_host_a_worker_starts_clean_and_ends_when_told() {
    let folder = Folder::new();
    std::thread::scope(|scope| {
        for kind in [
            "plain",
            "blocks_signals",
            "ignores_signals",
            "ignores_sigchld",
            "many_descriptors",
            "no_stdin",
            "elsewhere",
            "nowhere",
            "nobody",
            "old_kernel",
            "no_memory_files",
            "dumps_core",
            "ends_a_thread",
        ] {
            let mut command = folder.host(kind);
            scope.spawn(move || run(&mut command));
        }
    });
    // No launcher on disk either.
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1);
}

#[test]
fn a_worker_dies_with_a_host_that_is_killed() {
    let folder = Folder::new();
    let mut host = folder.host("is_killed").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pid: u32 = lines.find_map(|line| line.strip_prefix("worker ")?.parse().ok()).unwrap();
    assert!(exists(pid));
    // Stopped, it does not see that its socket ends.
    // SAFETY: a system call without memory; the process runs.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGSTOP) };
    host.kill().unwrap();
    assert_eq!(host.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(is_gone_soon(pid));
}

#[test]
fn a_worker_whose_host_is_gone_does_not_begin() {
    let folder = Folder::new();
    let executable = in_memory().unwrap();
    // Its parent is this process, not the first one.
    let status = Command::new(&executable.path).arg("1").arg(folder.library()).status().unwrap();
    assert_eq!(status.code(), Some(entry::HOST_IS_GONE));
}

#[test]
fn where_memory_is_not_executed_a_folder_serves_and_is_left_as_it_was() {
    let folder = Folder::new();
    let (place, none) = (tempfile::tempdir().unwrap(), folder.0.path().join("none"));
    for last in [Place::Folder(place.path().into()), Place::Private(place.path().into())] {
        let places = [Place::Folder(none.clone()), last];
        let (launched, mut socket) = start(&folder.library(), &places, &LaunchOptions::default()).unwrap();
        ready(&launched, &mut socket);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
    let failed =
        start(&folder.library(), &[Place::Private(none.clone()), Place::Folder(none)], &LaunchOptions::default());
    let text = failed.err().unwrap().to_string();
    assert!(text.matches("No such file").count() == 2 && text.contains("set LLAMAPEN_WORKER"), "{text}");
}

#[test]
fn a_library_that_was_replaced_is_not_started() {
    let folder = Folder::new();
    let located = Located::Library(Library::at(&folder.library()));
    folder.compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/isolation/child/test_worker.c"));
    let socket: OwnedFd = UnixStream::pair().unwrap().0.into();
    let failed = launch(&located, socket, &LaunchOptions::default()).err().unwrap();
    assert!(matches!(failed, LaunchError::NotLocated(NotLocated::Replaced { .. })), "{failed}");
}

#[test]
fn a_library_that_is_none_of_llamapens_is_told_by_code_and_output() {
    let folder = Folder::new();
    let ended = |library: &Path| {
        let (launched, _socket) = start(library, &places(library), &LaunchOptions::default()).unwrap();
        let exit = launched.child.wait_for(SOON).unwrap();
        (exit, launched.output.last_lines(SOON).join("\n"))
    };
    let broken = folder.0.path().join("libbroken.so");
    std::fs::write(&broken, "no library").unwrap();
    let (exit, text) = ended(&broken);
    assert_eq!(exit, Exit::Code(entry::LIBRARY_FAILED));
    assert!(text.contains("cannot load the library") && text.contains("libbroken.so"), "{text}");

    let empty = folder.0.path().join("empty.c");
    std::fs::write(&empty, "").unwrap();
    folder.compile(&empty);
    let (exit, text) = ended(&folder.library());
    assert_eq!(exit, Exit::Code(entry::NO_ENTRY));
    assert!(text.contains("no library of llamapen"), "{text}");
    assert!(why_not_started(entry::NO_ENTRY).is_some() && why_not_started(7).is_none());
}

#[test]
fn a_program_gets_the_host_its_socket_and_the_environment_and_is_named_in_a_file_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let [log, pid_file, script] = ["log", "pid", "worker.sh"].map(|name| folder.path().join(name));
    let text = format!("#!/bin/sh\necho $PPID ${} $MORE\nread line\nexit 5\n", entry::HOST);
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = LaunchOptions {
        environment: vec![("MORE".into(), "more".into())],
        log: Some(log.clone()),
        pid_file: Some(pid_file.clone()),
    };
    let (ours, socket) = UnixStream::pair().unwrap();
    let located = locate(Some(&script)).unwrap();
    let launched = launch(&located, socket.into(), &options).unwrap();
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), format!("{}\n", launched.child.pid()));
    drop(ours);
    assert_eq!(launched.child.wait_for(SOON).unwrap(), Exit::Code(5));
    let pid = std::process::id();
    assert_eq!(launched.output.last_lines(SOON), [format!("{pid} {pid} more")]);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{pid} {pid} more\n"));
    drop(launched);
    assert!(!pid_file.exists());
}

#[test]
fn what_cannot_be_written_or_started_is_told_and_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none/file");
    let failed = |located: &Located, options: LaunchOptions| {
        let (ours, socket) = UnixStream::pair().unwrap();
        let error = launch(located, socket.into(), &options).err().unwrap().to_string();
        // Whoever had the other end has it no more.
        assert_eq!((&ours).read(&mut [0]).unwrap(), 0, "{}", ours.as_raw_fd());
        error
    };
    let shell = Located::Program("/bin/sh".into());
    let log = failed(&shell, LaunchOptions { log: Some(none.clone()), ..Default::default() });
    assert!(log.contains("the log") && log.contains("No such file"), "{log}");
    let pid_file = failed(&shell, LaunchOptions { pid_file: Some(none.clone()), ..Default::default() });
    assert!(pid_file.contains("process number") && pid_file.contains("No such file"), "{pid_file}");
    let program = failed(&Located::Program(none.clone()), LaunchOptions::default());
    assert!(program.contains(&none.display().to_string()) && program.contains("No such file"), "{program}");
}
