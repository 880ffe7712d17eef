//! A forked child: for the parent's handles a typed error, never a hang, and it may have its own. Each test alone in its process.

mod support;

use llamapen::{Event, Next, Request, Status, Supervisor};
use support::again::{in_a_child, this_test};

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

/// How the forked `child` ended.
fn exit_code(child: libc::pid_t) -> i32 {
    assert!(child > 0, "fork failed");
    let child = Child(child);
    let mut status = 0;
    support::eventually("the child ends", || {
        // SAFETY: waits for our own child without blocking.
        unsafe { libc::waitpid(child.0, &mut status, libc::WNOHANG) == child.0 }
    });
    assert!(libc::WIFEXITED(status), "the child was killed: {status}");
    libc::WEXITSTATUS(status)
}

fn answer(supervisor: &Supervisor) -> Vec<i32> {
    support::read(supervisor.submit(support::greedy(support::words(1, 8)).with_max_tokens(8)).unwrap()).unwrap().tokens
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
    assert_eq!(exit_code(child), 0, "calls that did not return FORKED");
    // The parent is untouched.
    stream.cancel().unwrap();
    assert!(supervisor.health().unwrap().ready);
}

/// What the parent's threads wait for is no business of the child's, which has the memory they wait in but not the threads.
#[test]
fn a_child_runs_its_own_however_many_threads_of_the_parent_wait() {
    const THREADS: usize = 100;
    in_a_child(this_test!(), || {
        let supervisor = support::start(&support::config());
        let all = answer(&supervisor);
        let busy = supervisor.submit(Request::prompt("a").with_ignore_eos(true)).unwrap();
        let waiting: Vec<_> = (0..THREADS).map(|_| supervisor.submit(Request::prompt("a")).unwrap()).collect();
        std::thread::scope(|scope| {
            for stream in &waiting {
                scope.spawn(|| while !matches!(stream.next_event(None), Ok(Next::End) | Err(_)) {});
            }
            for _ in 0..5 {
                // SAFETY: the parent's locks are not touched in the child, which ends with _exit.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let own = support::start(&support::config());
                    let same = answer(&own) == all;
                    let stopped = own.stop().is_ok();
                    // SAFETY: ends the child without running the parent's exit handlers.
                    unsafe { libc::_exit(i32::from(!same) + 2 * i32::from(!stopped)) };
                }
                assert_eq!(exit_code(child), 0, "1: another answer, 2: not stopped");
            }
            for stream in &waiting {
                stream.cancel().unwrap();
            }
        });
        busy.cancel().unwrap();
    });
}
