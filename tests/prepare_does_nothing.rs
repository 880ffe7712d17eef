//! What `prepare` may never do: load weights, start a thread or a process, open a socket, write, make a CUDA context, touch
//! signals, or leave anything behind.
//!
//! Each run is a process of its own, looked at from three sides: its traces before and after, a filter of the kernel that
//! ends it at the first forbidden system call, and a world in which nothing can be written and nobody reached. Each rule is
//! broken once on purpose, by the child after the call, and must be noticed.

mod support;

use llamapen::{
    CheckStatus, EngineConfig, MachineSnapshot, plan, plan_on, preflight, preflight_on, prepare, prepare_on,
};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::IntoRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output};
use support::traces::{Traces, bytes_read, changes, peak_and_resident, traces};
use support::{filter, large};
use tempfile::TempDir;

/// A target of this library, and one that holds in a build without optimisation too.
const MOST_GROWTH: u64 = 32 << 20;
/// Headers are read twice; the largest here has 8 MB. The weights of the smallest have 96.
const MOST_READ: u64 = 20 << 20;

/// One call in one child.
#[derive(Clone, Serialize, Deserialize)]
struct Ask {
    call: Call,
    config: EngineConfig,
    /// Whether it succeeds.
    good: bool,
    under: Under,
    /// A rule that the child breaks after the call.
    breach: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Call {
    Prepare,
    PrepareOn,
    Plan,
    PlanOn,
    Preflight,
    PreflightOn,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Under {
    Traces,
    Filter,
    ReadOnly,
}

/// What a child saw of itself.
#[derive(Serialize, Deserialize)]
struct Report {
    changed: Traces,
    growth: u64,
    read: u64,
}

impl Call {
    const ALL: [Self; 6] =
        [Self::Prepare, Self::PrepareOn, Self::Plan, Self::PlanOn, Self::Preflight, Self::PreflightOn];

    /// Whether it succeeded.
    fn make(self, config: &EngineConfig) -> bool {
        let machine = MachineSnapshot::new(2, 8 << 30);
        match self {
            Self::Prepare => prepare(config).is_ok(),
            Self::PrepareOn => prepare_on(config, &machine).is_ok(),
            Self::Plan => plan(config).is_ok(),
            Self::PlanOn => plan_on(config, &machine).is_ok(),
            Self::Preflight => preflight(config).status() != CheckStatus::Fail,
            Self::PreflightOn => preflight_on(config, &machine).status() != CheckStatus::Fail,
        }
    }

    /// Whether it asks the driver, which the system's loader has to find first.
    fn observes(self) -> bool {
        matches!(self, Self::Prepare | Self::Plan | Self::Preflight)
    }

    /// Whether it reads the whole file to check digests.
    fn hashes(self) -> bool {
        matches!(self, Self::Prepare | Self::PrepareOn)
    }
}

/// The child: not a test by itself.
#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    let ask: Ask = support::child::asked();
    match ask.under {
        Under::Traces => watched(&ask),
        Under::Filter => filtered(&ask),
        Under::ReadOnly => {
            let error = File::create("new").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
            let error = std::net::TcpStream::connect("127.0.0.1:9").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
            watched(&ask);
        }
    }
}

fn watched(ask: &Ask) {
    let (before, (_, resident), read) = (traces(), peak_and_resident(), bytes_read());
    let good = ask.call.make(&ask.config);
    if let Some(rule) = &ask.breach {
        breach(rule);
    }
    let (after, (peak, _), read) = (traces(), peak_and_resident(), bytes_read() - read);
    assert_eq!(good, ask.good);
    support::child::answer(&Report { changed: changes(&before, &after), growth: peak.saturating_sub(resident), read });
}

fn filtered(ask: &Ask) -> ! {
    let forbidden =
        ask.breach.as_ref().map(|rule| filter::forbidden().into_iter().find(|(name, ..)| name == rule).unwrap());
    filter::install(ask.call.observes());
    let good = ask.call.make(&ask.config);
    if let Some(call) = forbidden {
        filter::call(call);
    }
    // SAFETY: ends this process; what the test harness would do now is not allowed any more.
    unsafe { libc::_exit(i32::from(good != ask.good)) }
}

/// The rules that traces tell of, and where each shows.
const BREACHES: [(&str, &str); 19] = [
    ("thread", "threads"),
    ("process", "children"),
    ("process that ended", "children"),
    ("descriptor", "descriptors"),
    ("socket", "descriptors"),
    ("mapping", "mappings"),
    ("code", "mappings"),
    ("output", "written"),
    ("empty file", "files"),
    ("handler", "signals"),
    ("ignored signal", "signals"),
    ("mask", "signals"),
    ("timer", "timers"),
    ("limit", "limits"),
    ("umask", "umask"),
    ("directory", "directory"),
    ("environment", "environment"),
    ("memory", "memory"),
    ("weights", "read"),
];

/// Breaks a rule and leaves it broken.
fn breach(rule: &str) {
    extern "C" fn handler(_: libc::c_int) {}
    let model = || File::open(support::model()).unwrap();
    // SAFETY: for all of them: what they are given lives as long as they look at it, and this process only reports what
    // it sees of itself and ends.
    unsafe {
        match rule {
            "thread" => drop(std::thread::spawn(|| std::thread::sleep(support::LONG))),
            "process" => drop(Command::new("sleep").arg("1").spawn().unwrap()),
            "process that ended" => match libc::fork() {
                0 => libc::_exit(0),
                child => assert!(child > 0),
            },
            "descriptor" => _ = model().into_raw_fd(),
            "socket" => _ = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into_raw_fd(),
            "mapping" => {
                use std::os::fd::AsRawFd;
                let file = model();
                let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
                let map = libc::mmap(std::ptr::null_mut(), 4096, read, private, file.as_raw_fd(), 0);
                assert_ne!(map, libc::MAP_FAILED);
            }
            "code" => {
                let (code, private) = (libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                assert_ne!(libc::mmap(std::ptr::null_mut(), 4096, code, private, -1, 0), libc::MAP_FAILED);
            }
            "output" => eprintln!("."),
            "empty file" => drop(File::create("new").unwrap()),
            "handler" => _ = libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t),
            "ignored signal" => _ = libc::signal(libc::SIGUSR1, libc::SIG_IGN),
            "mask" => {
                let mut signals = std::mem::zeroed();
                libc::sigaddset(&raw mut signals, libc::SIGUSR1);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
            }
            "timer" => {
                let mut timer = std::mem::zeroed();
                let created = libc::timer_create(libc::CLOCK_MONOTONIC, std::ptr::null_mut(), &raw mut timer);
                assert_eq!(created, 0);
            }
            "limit" => {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                assert_eq!(libc::setrlimit(libc::RLIMIT_CORE, &raw const none), 0);
            }
            "umask" => _ = libc::umask(0o123),
            "directory" => std::env::set_current_dir("/").unwrap(),
            "environment" => std::env::set_var("LLAMAPEN_NEW", "1"),
            "memory" => drop(std::hint::black_box(vec![1u8; 2 * MOST_GROWTH as usize])),
            "weights" => _ = io::copy(&mut model().take(2 * MOST_READ), &mut io::sink()).unwrap(),
            _ => panic!("no rule is called {rule}"),
        }
    }
}

/// Where a child runs: its own home and working directory, a hub cache with the model, and a driver of ours or none.
struct Place {
    home: TempDir,
    hub: TempDir,
    driver: TempDir,
}

impl Place {
    fn new(driver: TempDir) -> Self {
        Self { home: TempDir::new().unwrap(), hub: support::hub_cache(), driver }
    }

    fn command(&self, ask: &Ask) -> Command {
        let mut command = support::child::command(ask);
        command.current_dir(&self.home).env("LD_LIBRARY_PATH", self.driver.path()).env("HF_HUB_CACHE", self.hub.path());
        for home in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "LLAMAPEN_CACHE_DIR"] {
            command.env(home, self.home.path());
        }
        command.env_remove("FAKE_CUDA").env_remove("FAKE_CUDA_INIT");
        command
    }

    /// The rules that a child has broken.
    fn broken(&self, ask: &Ask, output: &Output) -> Vec<String> {
        let report: Report = support::child::answer_of(output);
        let most_read = match ask.call.hashes() && !ask.config.digest.is_empty() {
            true => MOST_READ + support::model().metadata().unwrap().len(),
            false => MOST_READ,
        };
        let files = fs::read_dir(&self.home).unwrap().count();
        let more = [("memory", report.growth > MOST_GROWTH), ("read", report.read > most_read), ("files", files > 0)];
        report.changed.values().for_each(|change| println!("{change}"));
        println!("memory grew by {} KiB, {} KiB were read", report.growth >> 10, report.read >> 10);
        report.changed.into_keys().chain(more.iter().filter(|rule| rule.1).map(|rule| rule.0.to_owned())).collect()
    }
}

/// Models by each kind of name, whole and not: each configuration, and whether it can be prepared.
fn configs(folder: &Path) -> Vec<(&'static str, EngineConfig, bool)> {
    let real = support::config();
    let digest = llamapen::model::hash_file(&support::model(), &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let with_digest = |digest: &str| real.clone().with_digest(digest).unwrap();
    let damaged = folder.join("damaged.gguf");
    let mut head = vec![];
    File::open(support::model()).unwrap().take(1 << 20).read_to_end(&mut head).unwrap();
    fs::write(&damaged, head).unwrap();
    let mut too_much = real.clone();
    too_much.memory_limit = Some(1 << 20);
    vec![
        ("by its path", real.clone(), true),
        ("with its digest", with_digest(&digest.to_string()), true),
        ("with another digest", with_digest(&format!("sha256:{}", "0".repeat(64))), false),
        ("in the hub's cache", real.clone().with_model(support::HUB_REFERENCE), true),
        ("not in the hub's cache", real.clone().with_model("hf:nobody/nothing/no.gguf"), false),
        ("that is damaged", real.clone().with_model(damaged), false),
        ("that is too much", too_much, false),
    ]
}

/// Every call on every model, each in a child under `under`.
fn every_call(under: Under, driver: TempDir, mut judge: impl FnMut(&Place, &Ask, &str)) {
    let folder = TempDir::new().unwrap();
    let place = Place::new(driver);
    for (name, config, good) in configs(folder.path()) {
        for call in Call::ALL {
            // Whether a digest is the right one is only looked at by what hashes.
            let good = good || (!config.digest.is_empty() && !call.hashes());
            judge(&place, &Ask { call, config: config.clone(), good, under, breach: None }, name);
        }
    }
}

fn simple(call: Call, under: Under) -> Ask {
    Ask { call, config: support::config(), good: true, under, breach: None }
}

#[test]
fn nothing_is_left_behind() {
    every_call(Under::Traces, support::no_cuda(), |place, ask, name| {
        let broken = place.broken(ask, &place.command(ask).output().unwrap());
        assert!(broken.is_empty(), "a model {name}: {broken:?}");
    });
}

/// Whatever its size: 40 GB with a header of 8 MB.
#[test]
fn a_large_model_costs_its_header() {
    let place = Place::new(support::no_cuda());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("large.gguf");
    assert!(large::write(&file, large::Weights::F16).unwrap() > 40_000_000_000);
    let config = support::config().with_model(file);
    for call in [Call::PrepareOn, Call::PreflightOn] {
        for under in [Under::Traces, Under::Filter] {
            let ask = Ask { config: config.clone(), ..simple(call, under) };
            let output = place.command(&ask).output().unwrap();
            match under {
                Under::Filter => assert!(output.status.success(), "{}", output.status),
                _ => assert_eq!(place.broken(&ask, &output), [""; 0]),
            }
        }
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    for (rule, where_it_shows) in BREACHES {
        let place = Place::new(support::no_cuda());
        let ask = Ask { breach: Some(rule.into()), ..simple(Call::Prepare, Under::Traces) };
        let broken = place.broken(&ask, &place.command(&ask).output().unwrap());
        assert!(broken.iter().any(|broken| broken == where_it_shows), "{rule}: {broken:?}");
    }
}

#[test]
fn no_forbidden_system_call_is_made() {
    every_call(Under::Filter, support::no_cuda(), |place, ask, name| {
        let output = place.command(ask).output().unwrap();
        assert!(output.status.success(), "a model {name}: {}, `strace -f` tells why", output.status);
    });
}

#[test]
fn every_forbidden_system_call_ends_the_process() {
    let place = Place::new(support::no_cuda());
    // Of a model that is not there: it is what comes after the call that counts here. `plan` has the wider filter.
    let config = EngineConfig::new("missing.gguf");
    for call in [Call::PlanOn, Call::Plan] {
        let mut ask = Ask { call, config: config.clone(), good: false, under: Under::Filter, breach: None };
        assert!(place.command(&ask).output().unwrap().status.success(), "it ends well by itself");
        for (rule, ..) in filter::forbidden() {
            ask.breach = Some(rule.into());
            let status = place.command(&ask).output().unwrap().status;
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{rule}: {status}");
        }
    }
}

/// Making a context would end the process.
#[test]
fn asking_the_driver_makes_no_context() {
    let place = Place::new(support::cuda_stand_in(&[]));
    for call in Call::ALL {
        let ask = simple(call, Under::Traces);
        let broken = place.broken(&ask, &place.command(&ask).output().unwrap());
        assert!(broken.is_empty(), "{broken:?}");
        let status = place.command(&simple(call, Under::Filter)).output().unwrap().status;
        assert!(status.success(), "{status}, `strace -f` tells why");
    }
}

#[test]
fn nothing_needs_to_be_written_or_reached() {
    let place = Place::new(support::no_cuda());
    for call in Call::ALL {
        let ask = simple(call, Under::ReadOnly);
        let mut command = place.command(&ask);
        // SAFETY: only system calls between `fork` and `exec`.
        unsafe { command.pre_exec(alone_and_read_only) };
        match command.output() {
            Ok(output) => assert!(place.broken(&ask, &output).is_empty()),
            Err(error) => return println!("skipped: this user cannot have a read-only world here: {error}"),
        }
    }
}

/// Gives this process a view of the file system that cannot be written to, and a network without anybody in it.
fn alone_and_read_only() -> io::Result<()> {
    let worlds = libc::CLONE_NEWNS | libc::CLONE_NEWNET;
    let read_only = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: takes no pointers; this process has one thread.
    let apart = unsafe { libc::unshare(worlds) == 0 || libc::unshare(libc::CLONE_NEWUSER | worlds) == 0 };
    // SAFETY: the path and the attributes live as long as the call.
    let set = apart
        && unsafe {
            let (root, size) = (c"/".as_ptr(), size_of_val(&read_only));
            let everywhere = libc::AT_RECURSIVE;
            libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, root, everywhere, &raw const read_only, size) == 0
        };
    if set { Ok(()) } else { Err(io::Error::last_os_error()) }
}
