//! Sandboxes that are put up for real, each in a process of its own: this test program again, running its ignored test
//! `child`.

use super::probe::{CLONE3, READ_MODEL, Targets, probe};
use super::*;
use crate::{EngineConfig, Event, Fault, Request, Supervisor, SupervisorConfig, TaintPolicy, prepare, test_model};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

const CHILD: &str = "isolation::confine::tests::child";
const ASK: &str = "LLAMAPEN_TEST_ASK";
const ANSWER: &str = "the child answers: ";

/// What a child is to do once it is confined.
#[derive(Serialize, Deserialize)]
enum Act {
    Nothing,
    /// With one layer of the sandbox only.
    ProbeBehind(Layer, Targets),
    Probe(Targets),
    Generate,
    Allocate(usize),
    Talk,
    /// `apply` itself, beside another thread.
    Apply,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Layer {
    Landlock,
    Seccomp,
}

/// What it got, and what it did with it.
type Answer<T> = (ConfinementReport, T);

/// The child, which has another thread: that of the test harness.
#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    let (confinement, act): (Confinement, Act) = serde_json::from_str(&std::env::var(ASK).unwrap()).unwrap();
    // What a host does.
    let engine = matches!(act, Act::Generate)
        .then(|| prepare(&EngineConfig::new(test_model()).with_threads(2).with_slots(2).with_n_ctx(512)).unwrap());
    let sockets = matches!(act, Act::Talk).then(|| UnixStream::pair().unwrap());
    if let Act::Apply = act {
        return answer(&apply(&confinement).map_err(|error| error.to_string()));
    }
    let start = Instant::now();
    let report = match apply_here(&confinement) {
        Ok(report) => report,
        Err(error) => return answer(&Err::<Answer<()>, _>(error.to_string())),
    };
    println!("\nconfined in {:?}", start.elapsed());
    match act {
        Act::Nothing => answer(&Ok::<_, String>((report, ()))),
        Act::Probe(targets) => answer(&Ok::<_, String>((report, probe(&targets)))),
        Act::ProbeBehind(layer, targets) => {
            let guard = match layer {
                Layer::Landlock => files::only(std::slice::from_ref(&targets.model)).unwrap(),
                Layer::Seccomp => syscalls::only_a_workers().unwrap(),
            };
            assert!(guard.is_on(), "{guard}");
            answer(&Ok::<_, String>((report, probe(&targets))));
        }
        Act::Generate => answer(&Ok::<_, String>((report, generated(engine.unwrap())))),
        Act::Allocate(bytes) => {
            let mut block = Vec::<u8>::new();
            answer(&Ok::<_, String>((report, block.try_reserve_exact(bytes).is_ok())));
        }
        Act::Talk => {
            talk(sockets.unwrap());
            answer(&Ok::<_, String>((report, ())));
        }
        Act::Apply => unreachable!("done above"),
    }
}

fn answer(value: &impl Serialize) {
    println!("\n{ANSWER}{}", serde_json::to_string(value).unwrap());
}

/// An answer beside which its worker fails three times, and how often others were restarted by that.
fn generated(engine: crate::PreparedEngine) -> (Vec<i32>, usize) {
    let config = SupervisorConfig::default().with_taint(TaintPolicy::Continue);
    let start = Instant::now();
    let supervisor = Supervisor::start(engine, config).unwrap();
    assert!(supervisor.wait_ready(Some(Duration::from_secs(120))).unwrap());
    println!("ready in {:?}", start.elapsed());
    let request = || Request::prompt("Once upon a time").with_temperature(0.0).with_ignore_eos(true).with_seed(0);
    let answer = supervisor.submit(request().with_max_tokens(24)).unwrap();
    let mut restarts = 0;
    for fault in [Fault::NullWrite, Fault::Abort, Fault::StackOverflow] {
        let bad = supervisor.submit(request().with_max_tokens(8).with_fault(fault).with_fault_after(2)).unwrap();
        restarts += bad.filter(|event| matches!(event, Event::Restarted(_))).count();
    }
    let tokens = answer.filter_map(|event| match event {
        Event::Token(token) => Some(token.token),
        Event::Failed(failed) => panic!("{}", failed.message),
        _ => None,
    });
    (tokens.collect(), restarts)
}

/// What a worker and its host do with the socket between them, and the memory that they hand over.
fn talk((mut here, mut there): (UnixStream, UnixStream)) {
    // SAFETY: a static name; the descriptor is nobody else's.
    let mut state = unsafe {
        let file = libc::memfd_create(c"state".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(file >= 0, "{}", io::Error::last_os_error());
        File::from_raw_fd(file)
    };
    state.set_len(4096).unwrap();
    state.write_all_at(b"state", 100).unwrap();
    state.try_clone().unwrap().write_all(b"head").unwrap();
    // SAFETY: the file is open; the call takes plain numbers.
    let sealed = unsafe { libc::fcntl(state.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE) };
    assert_eq!(sealed, 0, "{}", io::Error::last_os_error());
    assert_eq!(state.write(b"more").unwrap_err().raw_os_error(), Some(libc::EPERM));

    for end in [&here, &there] {
        end.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        end.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    }
    here.write_all(b"frame").unwrap();
    there.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(there.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    there.set_nonblocking(true).unwrap();
    send_file(&here, &state);
    let mut poll = libc::pollfd { fd: there.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry that may be written to.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 1000) }, 1);
    let mut text = [0; 5];
    received_file(&there).read_exact_at(&mut text, 100).unwrap();
    assert_eq!(&text, b"state");
    std::thread::spawn(|| std::thread::sleep(Duration::from_millis(1))).join().unwrap();
    here.shutdown(std::net::Shutdown::Both).unwrap();
}

/// Room for one descriptor beside a byte, aligned as the system wants it.
type Control = [u64; 4];

/// Calls `with` with a message of one byte and a control block.
fn with_message<T>(with: impl FnOnce(&mut libc::msghdr) -> T) -> T {
    let (mut byte, mut control) = ([0u8; 1], Control::default());
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: plain data for which zero is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of::<Control>());
    with(&mut message)
}

fn send_file(socket: &UnixStream, file: &File) {
    with_message(|message| {
        // SAFETY: the control block has room for the header and a descriptor, and is as long as is said then.
        let sent = unsafe {
            message.msg_controllen = libc::CMSG_SPACE(4) as usize;
            let header = libc::CMSG_FIRSTHDR(message);
            ((*header).cmsg_level, (*header).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
            (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(header).cast::<i32>().write_unaligned(file.as_raw_fd());
            libc::sendmsg(socket.as_raw_fd(), message, libc::MSG_NOSIGNAL)
        };
        assert_eq!(sent, 1, "{}", io::Error::last_os_error());
    });
}

fn received_file(socket: &UnixStream) -> File {
    with_message(|message| {
        // SAFETY: the kernel fills the control block in; the descriptor is nobody else's.
        unsafe {
            let received = libc::recvmsg(socket.as_raw_fd(), message, libc::MSG_CMSG_CLOEXEC);
            assert_eq!(received, 1, "{}", io::Error::last_os_error());
            let header = libc::CMSG_FIRSTHDR(message);
            assert!(!header.is_null());
            File::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
        }
    })
}

/// The answer of a child.
fn run<T: DeserializeOwned>(confinement: &Confinement, act: &Act) -> T {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture", "--test-threads", "1"])
        .env(ASK, serde_json::to_string(&(confinement, act)).unwrap())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    for line in out.lines().filter(|line| line.starts_with("confined in ") || line.starts_with("ready in ")) {
        println!("{:?}: {line}", confinement.sandbox);
    }
    let answer = out.lines().find_map(|line| line.strip_prefix(ANSWER)).unwrap_or_else(|| panic!("{out}\n{err}"));
    serde_json::from_str(answer).unwrap()
}

fn confinement(sandbox: Sandbox) -> Confinement {
    Confinement { sandbox, readable: vec![test_model().into()], oom_score_adj: 500, ..Confinement::default() }
}

fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}

type Attempts = std::collections::BTreeMap<String, Result<(), i32>>;

/// What a child tries once it is confined, beside a port of this process.
fn attempts(sandbox: Sandbox, layer: Option<Layer>) -> (ConfinementReport, Attempts) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let targets = Targets { model: test_model().into(), port: listener.local_addr().unwrap().port() };
    let act = match layer {
        Some(layer) => Act::ProbeBehind(layer, targets),
        None => Act::Probe(targets),
    };
    let (report, tried): Answer<Vec<super::probe::Attempt>> =
        run::<Result<_, String>>(&confinement(sandbox), &act).unwrap();
    (report, tried.into_iter().collect())
}

#[test]
fn a_sandboxed_process_reads_the_model_and_may_do_nothing_else() {
    let (report, tried) = attempts(Sandbox::Strict, None);
    println!("{report:?}");
    assert!(report.landlock.is_on() && report.seccomp.is_on() && report.no_new_privs && !report.dumpable, "{report:?}");
    for (what, result) in &tried {
        println!("{what}: {result:?}");
        let expected: &[_] = match what.as_str() {
            READ_MODEL => &[Ok(())],
            CLONE3 => &[Err(libc::ENOSYS)],
            "read /etc/passwd" | "list a folder" | "read the parent's memory" => &[Err(libc::EACCES)],
            _ => &[Err(libc::EPERM)],
        };
        assert!(expected.contains(result), "{what}: {result:?}");
    }
}

#[test]
fn without_a_sandbox_the_same_attempts_succeed_or_fail_of_something_else() {
    let (report, tried) = attempts(Sandbox::Off, None);
    assert_eq!((&report.landlock, &report.seccomp, report.dumpable), (&Guard::Off, &Guard::Off, true));
    // With these arguments.
    let wrong = [
        "exec from memory",
        CLONE3,
        "a new name space",
        "mount",
        "io_uring",
        "bpf",
        "perf events",
        "userfaultfd",
        "keyctl",
        "inotify",
    ];
    // Not to every user.
    let privileged = [
        "trace the parent",
        "read the parent's memory",
        "write to the model",
        "mount",
        "bpf",
        "perf events",
        "userfaultfd",
    ];
    for (what, result) in &tried {
        println!("{what}: {result:?}");
        if is_root() || !privileged.contains(&what.as_str()) {
            match wrong.contains(&what.as_str()) {
                true => assert!(!matches!(result, Err(libc::EPERM | libc::EACCES)), "{what}: {result:?}"),
                false => assert_eq!(*result, Ok(()), "{what}"),
            }
        }
    }
}

#[test]
fn each_layer_holds_without_the_other() {
    let (_, landlock) = attempts(Sandbox::Off, Some(Layer::Landlock));
    let (_, seccomp) = attempts(Sandbox::Off, Some(Layer::Seccomp));
    for what in
        ["read /etc/passwd", "list a folder", "write to the model", "create a file", "make a folder", "connect", "exec"]
    {
        assert_eq!(landlock[what], Err(libc::EACCES), "{what}");
    }
    for what in ["signal the parent", "signal a thread of the parent", "trace the parent"] {
        assert_eq!(landlock[what], Err(libc::EPERM), "{what}");
    }
    assert_eq!((landlock[READ_MODEL], landlock["fork"]), (Ok(()), Ok(())), "not what Landlock is for");
    // It does not know which file a path names.
    let open = [READ_MODEL, "read /etc/passwd", "list a folder", "read the parent's memory", CLONE3];
    for (what, result) in &seccomp {
        assert!(open.contains(&what.as_str()) || *result == Err(libc::EPERM), "{what}: {result:?}");
    }
    assert_eq!(seccomp["read /etc/passwd"], Ok(()));
}

#[test]
fn a_sandboxed_engine_answers_as_one_outside_and_contains_its_faults() {
    let (_, (free, _)): Answer<(Vec<i32>, usize)> =
        run::<Result<_, String>>(&confinement(Sandbox::Off), &Act::Generate).unwrap();
    let (report, (confined, restarts)): Answer<(Vec<i32>, usize)> =
        run::<Result<_, String>>(&confinement(Sandbox::Strict), &Act::Generate).unwrap();
    assert!(report.seccomp.is_on(), "{report:?}");
    assert_eq!(confined, free);
    assert!(confined.len() == 24 && restarts == 3, "{confined:?}, {restarts} restarts");
}

#[test]
fn a_sandboxed_process_talks_to_its_host_and_hands_memory_over() {
    let (report, ()) = run::<Result<Answer<()>, String>>(&confinement(Sandbox::Strict), &Act::Talk).unwrap();
    assert!(report.seccomp.is_on(), "{report:?}");
}

/// What a process is held to by these.
fn held(confinement: &Confinement) -> Result<ConfinementReport, String> {
    run::<Result<Answer<()>, String>>(confinement, &Act::Nothing).map(|(report, ())| report)
}

#[test]
fn cpus_niceness_and_rank_are_what_was_asked_for() {
    let here = held(&Confinement::default()).unwrap();
    let asked = Confinement { cpus: vec![here.cpus[0]], nice: 3, oom_score_adj: 500, ..Confinement::default() };
    let report = held(&asked).unwrap();
    assert_eq!((&report.cpus, report.nice), (&asked.cpus, here.nice + 3));
    assert_eq!(report.oom_score_adj, here.oom_score_adj.map(|adj| adj.max(500)));
    assert_eq!((report.landlock, report.no_new_privs, report.memory), (Guard::Off, false, MemoryLimit::None));
}

#[test]
fn what_cannot_be_had_is_an_error_that_says_what() {
    let here = held(&Confinement::default()).unwrap();
    let error = held(&Confinement { cpus: vec![here.cpus[0], 8191], ..Confinement::default() }).unwrap_err();
    assert_eq!(
        error,
        format!("child.cpus: CPU 8191 is not there, or not allowed; this process may run on {:?}", here.cpus)
    );
    let error = held(&Confinement { cpus: vec![8191], ..Confinement::default() }).unwrap_err();
    assert!(error.starts_with("child.cpus: [8191] cannot be used: Invalid argument"), "{error}");
    let gone = Confinement { readable: vec!["/not/there".into()], ..confinement(Sandbox::Strict) };
    let error = held(&gone).unwrap_err();
    assert!(error.starts_with("/not/there, which the sandbox is to leave readable: "), "{error}");
    // The test harness has a thread, which a sandbox would not hold.
    let error = run::<Result<ConfinementReport, String>>(&confinement(Sandbox::Strict), &Act::Apply).unwrap_err();
    assert!(error.ends_with("the process has 2 threads already"), "{error}");
}

#[test]
fn where_no_group_can_be_made_data_is_limited() {
    let memory = MemoryLimit::RlimitData { bytes: 64 << 20, no_cgroup: "a test".into() };
    let confinement = Confinement { memory, ..Confinement::default() };
    let allocates = |bytes| run::<Result<Answer<bool>, String>>(&confinement, &Act::Allocate(bytes)).unwrap();
    let (report, done) = allocates(16 << 20);
    assert!(done);
    assert_eq!(report.memory.to_string(), "rlimit data, 67108864 bytes (a test)");
    assert!(!allocates(96 << 20).1);
}
