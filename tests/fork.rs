//! Handles in a forked child: a typed error, never a hang. Alone in its process, because it forks.

mod support;

use llamapen::{Event, Next, Request, Status};

/// Kills a child that hangs, so that a failing test leaves nothing behind.
struct Child(libc::pid_t);

impl Drop for Child {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // SAFETY: our own child, which has not been waited for if the wait for it failed.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
        }
    }
}

#[test]
fn every_call_in_a_forked_child_returns_forked() {
    let supervisor = support::start(&support::config());
    let stream = supervisor.submit(Request::prompt("a").with_ignore_eos(true)).unwrap();
    while !matches!(stream.next_event(Some(support::LONG)).unwrap(), Next::Event(Event::Token(_))) {}

    // SAFETY: the child only calls what is under test, and ends with _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let forked = [
            supervisor.submit(Request::prompt("a")).err().map(|e| e.status()),
            supervisor.wait_ready(None).err().map(|e| e.status()),
            supervisor.health().err().map(|e| e.status()),
            supervisor.stop().err().map(|e| e.status()),
            supervisor.cancel_load().err().map(|e| e.status()),
            stream.next_event(None).err().map(|e| e.status()),
            stream.cancel().err().map(|e| e.status()),
        ];
        // Dropping must neither hang nor crash.
        drop(stream);
        drop(supervisor);
        let wrong = forked.iter().filter(|status| **status != Some(Status::Forked)).count();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(i32::try_from(wrong).unwrap_or(99)) };
    }
    assert!(child > 0, "fork failed");
    let child = Child(child);
    let mut status = 0;
    support::eventually("the child ends", || {
        // SAFETY: waits for our own child without blocking.
        unsafe { libc::waitpid(child.0, &mut status, libc::WNOHANG) == child.0 }
    });
    assert!(libc::WIFEXITED(status), "the child was killed: {status}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "calls that did not return FORKED");
    // The parent is untouched.
    stream.cancel().unwrap();
    assert!(supervisor.health().unwrap().ready);
}
