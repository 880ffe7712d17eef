//! A child process from its start to its end: waited for, asked to end, killed; never a zombie, and no signal ever goes to
//! another process that has been given its number.

use crate::process::Process;
use crate::sync::Mutex;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long to wait for a process after SIGKILL before somebody else does: it may sit in an endless wait of the kernel's.
const DIES_SOON: Duration = Duration::from_secs(2);
/// Between looks at a process on a kernel that tells of no end within a time.
const LOOK: Duration = Duration::from_millis(5);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal {
        number: i32,
        core: bool,
    },
    /// Somebody else took the status: the host ignores SIGCHLD, or waits for all children.
    Unknown,
}

/// A child of this process. Dropped, it is killed.
pub(crate) struct Child {
    pid: libc::pid_t,
    /// Whose child it is: a forked copy of this must do nothing.
    parent: Process,
    /// Names this process and no later one with its number. `None`: the kernel has none.
    handle: Option<OwnedFd>,
    /// Held while it is signalled or reaped, so that the number stays its own.
    ended: Mutex<Option<Exit>>,
}

impl Child {
    /// Of a child that was just started and not waited for.
    pub(super) fn new(child: &std::process::Child) -> Self {
        Self::with(child, open_handle)
    }

    fn with(child: &std::process::Child, open: fn(libc::pid_t) -> Option<OwnedFd>) -> Self {
        let pid = child.id().cast_signed();
        Self { pid, parent: Process::current(), handle: open(pid), ended: Mutex::new(None) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    /// Waits for its end, and is there when it comes.
    #[cfg(test)]
    pub(crate) fn wait(&self) -> Exit {
        loop {
            if let Some(ended) = self.wait_until(None) {
                return ended;
            }
        }
    }

    /// The same for so long at most.
    pub(crate) fn wait_for(&self, limit: Duration) -> Option<Exit> {
        self.wait_until(Some(Instant::now() + limit))
    }

    /// Its end, if it has come.
    pub(crate) fn try_wait(&self) -> Option<Exit> {
        let mut ended = self.ended.lock();
        if ended.is_none() {
            *ended = reap(self.pid);
        }
        *ended
    }

    /// SIGKILL. Does nothing to one that has ended.
    pub(crate) fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// SIGTERM, and SIGKILL for one that goes on for longer than `grace`. `None`: not even that has ended it yet.
    pub(crate) fn terminate(&self, grace: Duration) -> Option<Exit> {
        self.signal(libc::SIGTERM);
        self.wait_for(grace).or_else(|| {
            self.kill();
            self.wait_for(DIES_SOON)
        })
    }

    fn signal(&self, number: libc::c_int) {
        let ended = self.ended.lock();
        if ended.is_some() {
            return;
        }
        // SAFETY: plain system calls; the process is our child and was not reaped by us, or the handle names it. That it is
        // gone is the only failure.
        unsafe {
            match &self.handle {
                Some(handle) => {
                    let no_info = std::ptr::null::<libc::siginfo_t>();
                    libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), number, no_info, 0);
                }
                None => drop(libc::kill(self.pid, number)),
            }
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Option<Exit> {
        loop {
            if let Some(ended) = self.try_wait() {
                return Some(ended);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            match (&self.handle, left) {
                (Some(handle), left) => readable(handle, left),
                (None, None) => self.wait_unreaped(),
                (None, Some(left)) => std::thread::sleep(left.min(LOOK)),
            }
        }
    }

    /// Leaves the process to be reaped: here the lock is not held.
    fn wait_unreaped(&self) {
        // SAFETY: `siginfo_t` is plain data for which zero is a valid value, and is written to within its size.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, self.pid.cast_unsigned(), &mut info, libc::WEXITED | libc::WNOWAIT);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.parent.check().is_err() || self.try_wait().is_some() {
            return;
        }
        self.kill();
        if self.wait_for(DIES_SOON).is_some() {
            return;
        }
        let pid = self.pid;
        let wait = move || {
            // SAFETY: a system call without memory; nobody else reaps it any more.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        };
        // Without a thread it is left to the system, which takes it when the host ends.
        let _ = std::thread::Builder::new().name("llamapen-reaper".into()).spawn(wait);
    }
}

fn open_handle(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: a system call without memory; the new descriptor, which is closed on exec, is nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as libc::c_int))
    }
}

/// Waits until the handle's process has ended, or for so long.
fn readable(handle: &OwnedFd, limit: Option<Duration>) {
    // Rounded up: else the last wait would be a busy one.
    let ms = limit.map_or(-1, |limit| i32::try_from(limit.as_millis() + 1).unwrap_or(i32::MAX));
    let mut poll = libc::pollfd { fd: handle.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, and one is said.
    unsafe { libc::poll(&mut poll, 1, ms) };
}

/// Takes the status of a child that has ended. `None`: it has not.
fn reap(pid: libc::pid_t) -> Option<Exit> {
    let mut status = 0;
    // SAFETY: `status` may be written to.
    let found = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
    if found == 0 || (found < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)) {
        return None;
    }
    if found < 0 {
        return Some(Exit::Unknown);
    }
    Some(match libc::WIFEXITED(status) {
        true => Exit::Code(libc::WEXITSTATUS(status)),
        false => Exit::Signal { number: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    const KILLED: Exit = Exit::Signal { number: libc::SIGKILL, core: false };

    /// With the kernel's handle and without.
    #[expect(clippy::zombie_processes, reason = "waited for as what is tested")]
    fn shells(script: &str) -> [Child; 2] {
        [open_handle as fn(_) -> _, |_| None].map(|open| {
            let mut child = Command::new("sh").arg("-c").arg(script).stdout(Stdio::piped()).spawn().unwrap();
            let started = Child::with(&child, open);
            // It has come as far as to say so.
            child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            started
        })
    }

    fn exists(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn an_end_is_told_at_once_and_as_it_was() {
        for child in shells("echo; exec sleep 0.1") {
            assert_eq!(child.wait(), Exit::Code(0));
        }
        for (script, exit) in [
            ("echo; exit 7", Exit::Code(7)),
            ("ulimit -c 0; echo; kill -ABRT $$", Exit::Signal { number: libc::SIGABRT, core: false }),
            ("echo; kill -KILL $$", KILLED),
        ] {
            for child in shells(script) {
                let ended = child.wait_for(Duration::from_secs(20)).unwrap();
                assert_eq!(ended, exit, "{script}");
                assert_eq!(child.try_wait(), Some(ended));
                assert!(!exists(child.pid()));
            }
        }
    }

    #[test]
    fn a_process_that_goes_on_is_waited_for_no_longer_than_said() {
        for child in shells("echo; exec sleep 60") {
            assert_eq!(child.try_wait(), None);
            let began = Instant::now();
            assert_eq!(child.wait_for(Duration::from_millis(60)), None);
            assert!(began.elapsed() >= Duration::from_millis(60));
        }
    }

    #[test]
    fn term_ends_what_heeds_it_and_kill_the_rest() {
        for child in shells("echo; exec sleep 60") {
            let ended = child.terminate(Duration::from_secs(20)).unwrap();
            assert_eq!(ended, Exit::Signal { number: libc::SIGTERM, core: false });
        }
        for child in shells("trap '' TERM; echo; while :; do sleep 0.1; done") {
            assert_eq!(child.terminate(Duration::from_millis(100)).unwrap(), KILLED);
        }
    }

    #[test]
    fn one_that_is_stopped_is_killed() {
        for child in shells("echo; exec sleep 60") {
            child.signal(libc::SIGSTOP);
            // SAFETY: a system call without memory; returns once it has stopped.
            unsafe { libc::waitpid(child.pid, std::ptr::null_mut(), libc::WUNTRACED) };
            assert_eq!(child.terminate(Duration::from_millis(100)).unwrap(), KILLED);
        }
    }

    #[test]
    fn a_dropped_child_is_gone_and_a_signal_to_one_that_ended_goes_nowhere() {
        for child in shells("echo; exec sleep 60") {
            let pid = child.pid();
            drop(child);
            assert!(!exists(pid));
        }
        for child in shells("echo") {
            child.wait();
            child.kill();
            assert_eq!(child.terminate(Duration::ZERO).unwrap(), Exit::Code(0));
        }
    }

    #[test]
    fn one_thread_waits_while_another_one_kills() {
        for child in shells("echo; exec sleep 60") {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| child.wait());
                std::thread::sleep(Duration::from_millis(20));
                child.kill();
                assert_eq!(waiting.join().unwrap(), KILLED);
            });
        }
    }

    #[test]
    fn a_status_that_somebody_else_took_is_unknown() {
        for child in shells("echo; exit 3") {
            // SAFETY: a system call without memory.
            unsafe { libc::waitpid(child.pid, std::ptr::null_mut(), 0) };
            assert_eq!(child.wait(), Exit::Unknown);
        }
    }
}
