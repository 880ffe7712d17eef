//! Seccomp: which system calls a process may make. A list of what a worker needs, so that whatever else there is, and will
//! be, is refused; with an error and not with a death, so that a library that tries something and can do without does.

use super::{ConfineError, Guard};
use libc::{c_int, c_long};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

type Rules = Vec<(c_long, Vec<SeccompRule>)>;

/// Whatever its arguments are.
const ALWAYS: &[c_long] = &[
    // Files that are open. Which may be opened is Landlock's.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fadvise64,
    // What is sent to the host without a copy in between.
    libc::SYS_ftruncate,
    // Whether there is a file, and how large it is: names that can be guessed can be found out.
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    // The socket to the host: one that is connected sends to nobody else.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    // Memory that no code is in.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    // Threads, and their waiting for each other.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals that it raises itself, and the handlers that contain its faults.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // What it may know of itself and the machine.
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_getcwd,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// What opens a file for more than reading. `O_TMPFILE` holds `O_DIRECTORY`, which is harmless.
const WRITING: c_int =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// New name spaces, and children that somebody traces, or that nobody may.
const MORE_THAN_A_THREAD: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PTRACE
    | libc::CLONE_UNTRACED;

const PR_SET_VMA: u64 = 0x53_56_4d_41;
const MEMFD_FLAGS: u32 = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL;

/// Leaves this thread, and those it starts, what a worker needs, and nothing else.
pub(super) fn only_a_workers() -> Result<Guard, ConfineError> {
    let allowed = allowed().map_err(unmade)?;
    let count = allowed.len();
    let allowed = program(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?;
    // Its flags are in memory, where no filter sees them. glibc takes "no such call" for an old kernel's, and uses clone.
    let no_clone3 = vec![(libc::SYS_clone3, vec![])];
    let no_clone3 = program(no_clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    // In this order, as the second one lets no further one be put up. The kernel takes the stricter answer of the two.
    let put_up = [no_clone3, allowed].iter().try_for_each(|program| seccompiler::apply_filter(program));
    Ok(match put_up {
        Ok(()) => Guard::On(format!("{count} system calls")),
        Err(Error::Prctl(error) | Error::Seccomp(error)) => Guard::Missing(error.to_string()),
        Err(other) => return Err(unmade(other)),
    })
}

fn program(rules: Rules, otherwise: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, ConfineError> {
    let arch = std::env::consts::ARCH.try_into().map_err(unmade)?;
    SeccompFilter::new(rules.into_iter().collect(), otherwise, listed, arch).and_then(TryInto::try_into).map_err(unmade)
}

fn unmade(error: impl std::fmt::Display) -> ConfineError {
    ConfineError::Filter(error.to_string())
}

fn allowed() -> Result<Rules, BackendError> {
    let rule = |conditions: &[SeccompCondition]| SeccompRule::new(conditions.to_vec());
    let none_of = |argument, bits: c_int| is(argument, Dword, MaskedEq(bits as u32 as u64), 0);
    let one_of = |argument, values: &[u64]| {
        values.iter().map(|value| rule(&[is(argument, Dword, Eq, *value)?])).collect::<Result<Vec<_>, _>>()
    };
    let ints = |values: &[c_int]| values.iter().map(|value| *value as u32 as u64).collect::<Vec<_>>();
    let mut rules: Rules = ALWAYS.iter().map(|call| (*call, vec![])).collect();
    rules.extend([
        (libc::SYS_openat, vec![rule(&[none_of(2, WRITING)?])?]),
        // Without an address.
        (libc::SYS_sendto, vec![rule(&[is(4, Qword, Eq, 0)?])?]),
        (libc::SYS_mmap, vec![rule(&[none_of(2, libc::PROT_EXEC)?])?]),
        (libc::SYS_mprotect, vec![rule(&[none_of(2, libc::PROT_EXEC)?])?]),
        (libc::SYS_memfd_create, vec![rule(&[none_of(1, !MEMFD_FLAGS as c_int)?])?]),
        (
            libc::SYS_fcntl,
            one_of(
                1,
                &ints(&[
                    libc::F_GETFD,
                    libc::F_SETFD,
                    libc::F_GETFL,
                    libc::F_SETFL,
                    libc::F_DUPFD_CLOEXEC,
                    libc::F_ADD_SEALS,
                    libc::F_GET_SEALS,
                ]),
            )?,
        ),
        // How long a read or a write waits for the host.
        (
            libc::SYS_setsockopt,
            [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO]
                .into_iter()
                .map(|option| rule(&[is(1, Dword, Eq, libc::SOL_SOCKET as u64)?, is(2, Dword, Eq, option as u64)?]))
                .collect::<Result<_, _>>()?,
        ),
        // Whether a descriptor blocks, and whether it is a terminal.
        (libc::SYS_ioctl, one_of(1, &[libc::FIONBIO, libc::TCGETS])?),
        // Names for threads and for memory.
        (libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, PR_SET_VMA])?),
        // Threads, and no processes.
        (
            libc::SYS_clone,
            vec![rule(&[is(
                0,
                Dword,
                MaskedEq((libc::CLONE_THREAD | MORE_THAN_A_THREAD) as u32 as u64),
                libc::CLONE_THREAD as u64,
            )?])?],
        ),
        // The other filter answers.
        (libc::SYS_clone3, vec![]),
        // Its own threads: an abort, and the parking of a domain.
        (libc::SYS_tgkill, vec![rule(&[is(0, Dword, Eq, u64::from(std::process::id()))?])?]),
        // To read its own limits, and not to set any.
        (libc::SYS_prlimit64, vec![rule(&[is(0, Dword, Eq, 0)?, is(2, Qword, Eq, 0)?])?]),
    ]);
    Ok(rules)
}

fn is(argument: u8, length: SeccompCmpArgLen, how: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, length, how, value)
}
