//! What a program that took a worker's process over would try: for tests of the sandbox.

use serde::{Deserialize, Serialize};
use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixDatagram;

/// What there is to be tried on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Targets {
    /// The model's file.
    pub model: OsString,
    /// A port of this machine on which somebody listens.
    pub port: u16,
}

/// What was tried, and the number of the error that it was refused with.
pub(crate) type Attempt = (String, Result<(), i32>);

/// The only one that is to succeed in a sandbox.
pub(crate) const READ_MODEL: &str = "read the model";
/// Refused as a call that there is not.
pub(crate) const CLONE3: &str = "clone3";

/// Tries it all. Parents are looked at and not harmed.
pub(crate) fn probe(targets: &Targets) -> Vec<Attempt> {
    let parent = std::os::unix::process::parent_id() as libc::pid_t;
    let new_file = std::env::temp_dir().join(format!("llamapen-probe-{}", std::process::id()));
    let tried: Vec<(&str, io::Result<()>)> = vec![
        (READ_MODEL, File::open(&targets.model).map(drop)),
        ("read /etc/passwd", File::open("/etc/passwd").map(drop)),
        ("list a folder", std::fs::read_dir("/").map(drop)),
        ("write to the model", File::options().write(true).open(&targets.model).map(drop)),
        ("create a file", File::create(&new_file).and_then(|_| std::fs::remove_file(&new_file))),
        ("make a folder", std::fs::create_dir(&new_file).and_then(|()| std::fs::remove_dir(&new_file))),
        ("connect", TcpStream::connect((Ipv4Addr::LOCALHOST, targets.port)).map(drop)),
        ("make a UNIX socket", UnixDatagram::unbound().map(drop)),
        ("fork", in_child(|| 0)),
        ("exec", exec(c"/bin/true")),
        ("exec from memory", exec_from_memory()),
        ("signal the parent", call(libc::SYS_kill, [parent.into(), 0, 0, 0])),
        ("signal a thread of the parent", call(libc::SYS_tgkill, [parent.into(), parent.into(), 0, 0])),
        ("trace the parent", trace(parent)),
        ("read the parent's memory", File::open(format!("/proc/{parent}/mem")).map(drop)),
        ("read the parent's memory by a call", call(libc::SYS_process_vm_readv, [parent.into(), 0, 0, 0])),
        ("hold the parent", call(libc::SYS_pidfd_open, [parent.into(), 0, 0, 0])),
        ("map code", map_code()),
        ("be dumpable", call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0])),
        ("set a limit", set_limit()),
        ("change the user", call(libc::SYS_setuid, [own_user(), 0, 0, 0])),
        ("change the folder", call(libc::SYS_chdir, [c"/".as_ptr() as i64, 0, 0, 0])),
        ("personality", call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0])),
        // With arguments that are wrong, these come to nothing where they are allowed.
        (CLONE3, call(libc::SYS_clone3, [0; 4])),
        ("a new name space", call(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::CLONE_THREAD).into(), 0, 0, 0])),
        ("mount", call(libc::SYS_mount, [0; 4])),
        ("io_uring", call(libc::SYS_io_uring_setup, [0; 4])),
        ("bpf", call(libc::SYS_bpf, [-1, 0, 0, 0])),
        ("perf events", call(libc::SYS_perf_event_open, [0; 4])),
        ("userfaultfd", call(libc::SYS_userfaultfd, [-1, 0, 0, 0])),
        ("keyctl", call(libc::SYS_keyctl, [-1, 0, 0, 0])),
        ("inotify", call(libc::SYS_inotify_init1, [-1, 0, 0, 0])),
    ];
    let error = |error: io::Error| error.raw_os_error().unwrap_or(-1);
    tried.into_iter().map(|(what, result)| (what.to_owned(), result.map_err(error))).collect()
}

/// Makes a system call whose arguments do no harm.
fn call(number: libc::c_long, [a, b, c, d]: [i64; 4]) -> io::Result<()> {
    // SAFETY: the callers' arguments point to nothing, or to static text.
    of(unsafe { libc::syscall(number, a, b, c, d, 0i64, 0i64) })
}

fn of(result: libc::c_long) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Runs `body` in a child that ends with the number that it returns, which is that of an error.
fn in_child(body: impl FnOnce() -> i32) -> io::Result<()> {
    // SAFETY: the child of this process with several threads calls `body`, which is to do nothing but system calls, and ends.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(body()) },
        _ => {}
    }
    let mut status = 0;
    // SAFETY: `status` may be written to.
    of(unsafe { libc::waitpid(child, &mut status, 0) }.into())?;
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// In a child, or where there can be none in this process, which is then gone if it succeeds.
fn exec(program: &CStr) -> io::Result<()> {
    let run = || {
        let none = [std::ptr::null()];
        // SAFETY: a text that ends with NUL, and two lists that end with null.
        unsafe { libc::execve(program.as_ptr(), none.as_ptr(), none.as_ptr()) };
        io::Error::last_os_error().raw_os_error().unwrap_or(-1)
    };
    match in_child(|| 0) {
        Ok(()) => in_child(run),
        Err(_) => Err(io::Error::from_raw_os_error(run())),
    }
}

fn exec_from_memory() -> io::Result<()> {
    // SAFETY: a static name.
    let file = unsafe { libc::memfd_create(c"probe".as_ptr(), 0) };
    of(file.into())?;
    let run = || {
        let none = [std::ptr::null::<u8>()];
        let (path, list) = (c"".as_ptr(), none.as_ptr());
        // SAFETY: as in `exec`; the file is open.
        unsafe { libc::syscall(libc::SYS_execveat, file, path, list, list, libc::AT_EMPTY_PATH) };
        io::Error::last_os_error().raw_os_error().unwrap_or(-1)
    };
    let result = match in_child(|| 0) {
        Ok(()) => in_child(run),
        Err(_) => Err(io::Error::from_raw_os_error(run())),
    };
    // SAFETY: opened above, and nobody else's.
    unsafe { libc::close(file) };
    result
}

/// Without stopping it; it ends with this process.
fn trace(pid: libc::pid_t) -> io::Result<()> {
    call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), pid.into(), 0, 0])
}

fn map_code() -> io::Result<()> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping that nobody uses.
    match unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) } {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        // SAFETY: mapped above.
        page => of(unsafe { libc::munmap(page, 4096) }.into()),
    }
}

/// To what it is.
fn set_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` may be written to, then read.
    unsafe {
        of(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit).into())?;
        of(libc::setrlimit(libc::RLIMIT_NOFILE, &limit).into())
    }
}

fn own_user() -> i64 {
    // SAFETY: takes nothing.
    unsafe { libc::getuid() }.into()
}
