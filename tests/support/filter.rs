//! A filter of the kernel that ends this process at the first system call which a call that does nothing may not make.
//!
//! It lists what is allowed, so that whatever else there is, and will be, is not.

use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, Le, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, apply_filter};

/// Far less than the weights of any model, far more than the system loader's list of libraries.
const SMALL: u64 = 1 << 20;
/// What opens a file for more than reading. `O_TMPFILE` holds `O_DIRECTORY`, which is harmless.
const WRITING: i32 =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// Puts the filter over this thread for the rest of its life, and over what it might start. The test harness has another
/// thread, which is left alone.
///
/// With `loader`, the system's loader may look for a library: it maps its list and what it finds, all of it small.
pub fn install(loader: bool) {
    let always = |call: c_long| (call, vec![]);
    let mut rules: Vec<(c_long, Vec<SeccompRule>)> = vec![
        // Reading files and folders.
        always(libc::SYS_read),
        always(libc::SYS_pread64),
        always(libc::SYS_readv),
        always(libc::SYS_lseek),
        always(libc::SYS_close),
        always(libc::SYS_fstat),
        always(libc::SYS_newfstatat),
        always(libc::SYS_statx),
        always(libc::SYS_readlinkat),
        always(libc::SYS_getdents64),
        always(libc::SYS_getcwd),
        #[cfg(target_arch = "x86_64")]
        always(libc::SYS_readlink),
        (libc::SYS_openat, vec![rule(&[is(2, Dword, MaskedEq(WRITING as u64), 0)])]),
        // The standard library looks whether a descriptor is one before it closes it.
        (libc::SYS_fcntl, vec![rule(&[is(1, Dword, Eq, libc::F_GETFD as u64)])]),
        // Memory that is nobody's and no code.
        (libc::SYS_mmap, vec![rule(&[flag(3, libc::MAP_ANONYMOUS), no_code()])]),
        (libc::SYS_mprotect, vec![rule(&[no_code()])]),
        always(libc::SYS_munmap),
        always(libc::SYS_mremap),
        always(libc::SYS_madvise),
        always(libc::SYS_brk),
        // Looking at the machine and at oneself.
        always(libc::SYS_futex),
        always(libc::SYS_getrandom),
        always(libc::SYS_clock_gettime),
        always(libc::SYS_getpid),
        always(libc::SYS_gettid),
        always(libc::SYS_geteuid),
        always(libc::SYS_sched_getaffinity),
        always(libc::SYS_sched_yield),
        (libc::SYS_prlimit64, vec![rule(&[is(2, Qword, Eq, 0)])]),
        always(libc::SYS_exit_group),
    ];
    if loader {
        let private = is(3, Dword, MaskedEq(libc::MAP_TYPE as u64), libc::MAP_PRIVATE as u64);
        let (_, mmap) = rules.iter_mut().find(|(call, _)| *call == libc::SYS_mmap).unwrap();
        mmap.push(rule(&[private, is(1, Qword, Le, SMALL)]));
    }
    let filter = SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows"),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}

fn rule(conditions: &[SeccompCondition]) -> SeccompRule {
    SeccompRule::new(conditions.to_vec()).unwrap()
}

fn is(
    argument: u8,
    length: seccompiler::SeccompCmpArgLen,
    how: seccompiler::SeccompCmpOp,
    value: u64,
) -> SeccompCondition {
    SeccompCondition::new(argument, length, how, value).unwrap()
}

fn flag(argument: u8, flag: i32) -> SeccompCondition {
    is(argument, Dword, MaskedEq(flag as u64), flag as u64)
}

fn no_code() -> SeccompCondition {
    is(2, Dword, MaskedEq(libc::PROT_EXEC as u64), 0)
}

/// System calls that the filter must not let through: name, number, arguments. None would do anything if it were let
/// through, so that a filter with a hole is noticed and not suffered.
pub fn forbidden() -> Vec<(&'static str, c_long, [c_long; 6])> {
    let plain = |name, call| (name, call, [-1; 6]);
    let open = |name, flags: i32| (name, libc::SYS_openat, [-1, 0, c_long::from(flags), 0, 0, 0]);
    let map = |name, length, protection: i32, flags: i32, file| {
        (name, libc::SYS_mmap, [0, length, c_long::from(protection), c_long::from(flags), file, 0])
    };
    vec![
        // Threads and processes.
        plain("clone", libc::SYS_clone),
        plain("clone3", libc::SYS_clone3),
        plain("execve", libc::SYS_execve),
        plain("execveat", libc::SYS_execveat),
        plain("kill", libc::SYS_kill),
        plain("ptrace", libc::SYS_ptrace),
        // The network.
        plain("socket", libc::SYS_socket),
        plain("socketpair", libc::SYS_socketpair),
        plain("connect", libc::SYS_connect),
        plain("bind", libc::SYS_bind),
        plain("listen", libc::SYS_listen),
        plain("sendto", libc::SYS_sendto),
        plain("sendmsg", libc::SYS_sendmsg),
        // Writing.
        open("open to write", libc::O_WRONLY),
        open("open to read and write", libc::O_RDWR),
        open("create", libc::O_CREAT),
        open("truncate while opening", libc::O_TRUNC),
        open("make a temporary file", libc::O_TMPFILE),
        plain("openat2", libc::SYS_openat2),
        plain("write", libc::SYS_write),
        plain("writev", libc::SYS_writev),
        plain("pwrite64", libc::SYS_pwrite64),
        plain("sendfile", libc::SYS_sendfile),
        plain("copy_file_range", libc::SYS_copy_file_range),
        plain("ftruncate", libc::SYS_ftruncate),
        plain("fallocate", libc::SYS_fallocate),
        plain("unlinkat", libc::SYS_unlinkat),
        plain("renameat2", libc::SYS_renameat2),
        plain("mkdirat", libc::SYS_mkdirat),
        plain("linkat", libc::SYS_linkat),
        plain("symlinkat", libc::SYS_symlinkat),
        plain("mknodat", libc::SYS_mknodat),
        plain("fchmodat", libc::SYS_fchmodat),
        plain("fchownat", libc::SYS_fchownat),
        plain("utimensat", libc::SYS_utimensat),
        plain("setxattr", libc::SYS_setxattr),
        plain("flock", libc::SYS_flock),
        // Weights, and code.
        map("map a file", 32 << 20, libc::PROT_READ, libc::MAP_PRIVATE, -1),
        map("map a file shared", 4096, libc::PROT_READ, libc::MAP_SHARED, -1),
        map("map code", -1, libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        ("make code", libc::SYS_mprotect, [1, 0, c_long::from(libc::PROT_EXEC), 0, 0, 0]),
        plain("mlock", libc::SYS_mlock),
        plain("mlockall", libc::SYS_mlockall),
        // Signals and timers.
        plain("rt_sigaction", libc::SYS_rt_sigaction),
        plain("rt_sigprocmask", libc::SYS_rt_sigprocmask),
        plain("timer_create", libc::SYS_timer_create),
        plain("setitimer", libc::SYS_setitimer),
        // What outlives the call, or rules the process.
        plain("dup", libc::SYS_dup),
        plain("pipe2", libc::SYS_pipe2),
        plain("eventfd2", libc::SYS_eventfd2),
        plain("epoll_create1", libc::SYS_epoll_create1),
        plain("memfd_create", libc::SYS_memfd_create),
        plain("inotify_init1", libc::SYS_inotify_init1),
        plain("io_uring_setup", libc::SYS_io_uring_setup),
        plain("ioctl", libc::SYS_ioctl),
        plain("prctl", libc::SYS_prctl),
        plain("chdir", libc::SYS_chdir),
        // Sets it to what no test relies on: a mask cannot be refused.
        plain("umask", libc::SYS_umask),
        plain("setpriority", libc::SYS_setpriority),
        plain("sched_setaffinity", libc::SYS_sched_setaffinity),
        ("setrlimit", libc::SYS_prlimit64, [-1; 6]),
    ]
}

/// Makes a system call of that list.
pub fn call((_, number, arguments): (&str, c_long, [c_long; 6])) {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no argument points to anything, so that the kernel refuses the call if the filter does not.
    unsafe { libc::syscall(number, a, b, c, d, e, f) };
}
