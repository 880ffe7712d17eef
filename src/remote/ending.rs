//! What a child died of, told once: by the thread that hears it, or if that is held up by the host's code, by the one that owns
//! it.

use super::link::{Link, Phase};
use super::stand_in::{Heard, Remote, Seat};
use crate::crash::{ChildExit, CrashReason};
use crate::isolation::child::{Exit, Launched, why_not_started};
use crate::isolation::confine::{MemoryGroup, kernel_oom_kills};
use crate::isolation::signal_name;
use crate::sync::Mutex;
use crate::worker::WorkerFault;
use std::sync::Arc;
use std::time::Duration;

/// How long a child may take to be gone after it has said its last word.
const LAST: Duration = Duration::from_secs(2);

pub(super) struct Ending {
    pub remote: Arc<Remote>,
    pub link: Arc<Link>,
    pub seat: Arc<Mutex<Seat>>,
    pub launched: Arc<Launched>,
    pub memory: Memory,
}

/// How to tell whether the system killed it for its memory.
pub(super) struct Memory {
    /// With a limit of its own.
    pub group: Option<MemoryGroup>,
    /// Such kills before it was started.
    pub kills_before: Option<u64>,
}

impl Memory {
    fn killed(&self) -> bool {
        match &self.group {
            Some(group) => group.oom_kills() > 0,
            None => kernel_oom_kills().zip(self.kills_before).is_some_and(|(now, before)| now > before),
        }
    }
}

impl Ending {
    pub(super) fn pid(&self) -> u32 {
        self.launched.child.pid()
    }

    /// Sees that it is gone, and tells why. Without effect once that was done.
    pub(super) fn tell(&self) {
        if std::mem::replace(&mut self.link.standing().told, true) {
            return;
        }
        let child = &self.launched.child;
        // It may sit in an endless wait of the kernel's; then somebody else reaps it.
        let exit = child.wait_for(LAST).or_else(|| {
            child.kill();
            child.wait_for(LAST)
        });
        let process = self.seat.lock().state.process();
        let ended = self.verdict(exit, process.and_then(|process| process.rss_bytes));
        // First: who owns it takes no request for it any more.
        self.link.set_phase(Phase::Over);
        self.link.standing().handed.clear();
        let seat = self.seat.lock().clone();
        seat.state.set_process(None);
        seat.state.set_loading(false);
        (self.remote.tell)(seat.index, Heard::Ended(ended));
    }

    /// Why it ended: what it was killed for, else what it said, else what the system says.
    fn verdict(&self, exit: Option<Exit>, rss_bytes: Option<u64>) -> Result<(), WorkerFault> {
        let (why, said, sent_home) = {
            let mut standing = self.link.standing();
            (standing.why.take(), standing.said.take(), standing.sent_home)
        };
        let output = || self.launched.output.last_lines(LAST);
        let (fault, output) = match (why, said) {
            (None, Some(Ok(()))) => return Ok(()),
            (None, None) if sent_home => return Ok(()),
            (Some(fault), _) | (None, Some(Err(fault))) => (fault, output()),
            (None, None) => {
                let output = output();
                (self.by_the_system(exit, &output), output)
            }
        };
        let exit = ChildExit { pid: self.launched.child.pid(), how: how(exit), rss_bytes, output };
        Err(fault.with_exit(exit))
    }

    /// `output`: its last lines, which often say why it ended itself.
    fn by_the_system(&self, exit: Option<Exit>, output: &[String]) -> WorkerFault {
        let no_memory = output.iter().rfind(|line| says_no_memory(line));
        let wrote = no_memory.or(output.last());
        let (reason, text) = match exit {
            Some(Exit::Signal { number: libc::SIGKILL, .. }) if self.memory.killed() => {
                (CrashReason::HostOutOfMemory, "the system killed it: out of memory".into())
            }
            Some(Exit::Signal { number: libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL, .. }) => {
                (CrashReason::Signal, how(exit))
            }
            Some(Exit::Signal { number: libc::SIGABRT, .. }) if no_memory.is_some() => {
                (CrashReason::HostOutOfMemory, "out of memory".into())
            }
            Some(Exit::Signal { number: libc::SIGABRT, .. }) => {
                (CrashReason::of_abort(wrote.map_or("", String::as_str)), how(exit))
            }
            Some(Exit::Signal { .. }) => (CrashReason::Killed, how(exit)),
            Some(Exit::Code(code)) => match why_not_started(code) {
                Some(why) => (CrashReason::LoadFailed, why.into()),
                None => (CrashReason::Exited, how(exit)),
            },
            Some(Exit::Unknown) | None => (CrashReason::Exited, how(exit)),
        };
        let wrote = match reason {
            CrashReason::Signal | CrashReason::Killed => None,
            CrashReason::HostOutOfMemory => no_memory,
            _ => wrote,
        };
        let wrote = wrote.map(|line| format!("; it last wrote: {line}")).unwrap_or_default();
        WorkerFault::new(reason, format!("the worker process is gone: {text}{wrote}"))
    }
}

/// What Rust and C++ write before they abort for lack of memory: of a limit on the process's data, say. A backtrace may follow.
fn says_no_memory(line: &str) -> bool {
    line.starts_with("memory allocation of ") && line.ends_with(" bytes failed") || line.contains("std::bad_alloc")
}

/// In words.
fn how(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit::Code(code)) => format!("exit code {code}"),
        Some(Exit::Signal { number, core }) => {
            let name = signal_name(number).map(|name| format!(" ({name})")).unwrap_or_default();
            format!("signal {number}{name}{}", if core { ", core dumped" } else { "" })
        }
        Some(Exit::Unknown) => "nobody knows how: the host ignores SIGCHLD, or waits for all children".into(),
        None => "it was killed, and the system has not let go of it yet".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_memory_says_so_in_words_of_its_language() {
        assert!(says_no_memory("memory allocation of 16777216 bytes failed"));
        assert!(says_no_memory("terminate called after throwing an instance of 'std::bad_alloc'"));
        assert!(!says_no_memory("GGML_ASSERT(n > 0) failed"));
        assert!(!says_no_memory(
            "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace."
        ));
    }
}
