//! What a domain leaves that died: some of it can be freed afterwards, by a domain of its own, in case that fails, too.

use super::domain::{Domain, Fault, FaultKind};
use super::thread;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Freeing takes milliseconds. One that does not come to an end waits for something that the dead held.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the supervisor can still reach of a domain's. Both are called once, in this order, in domains of their own, when no
/// thread of the dead domain is left.
pub(crate) trait Remains: Send + Sync + 'static {
    /// Frees native objects.
    ///
    /// # Safety
    /// Nobody uses them any more. They are whole: the domain did not die of a memory fault, nor at some instruction.
    unsafe fn free(&self);

    /// Gives back the domain's shares of what others use, too.
    ///
    /// # Safety
    /// Nobody uses the domain's shares any more.
    unsafe fn give_back(&self);
}

/// Of what only runs in Rust.
impl Remains for () {
    unsafe fn free(&self) {}
    unsafe fn give_back(&self) {}
}

/// After the last thread of `dead` has ended.
pub(super) fn reclaim(dead: &Domain, fault: &Fault, remains: impl Remains) {
    let remains = Arc::new(remains);
    if fault.kind != FaultKind::Signal && dead.is_whole() {
        let remains = remains.clone();
        // SAFETY: its threads are gone, and how it died was asked.
        guarded(move || unsafe { remains.free() });
    }
    // What was freed took its blocks off the list.
    dead.free_blocks();
    // SAFETY: its threads are gone.
    guarded(move || unsafe { remains.give_back() });
}

/// Runs `body` to its end or its death, in a domain of its own.
fn guarded(body: impl FnOnce() + Send + 'static) {
    let Some(domain) = Domain::new() else { return };
    let body = move || {
        thread::enter();
        drop(catch_unwind(AssertUnwindSafe(body)));
    };
    if !domain.start(thread::STACK_BYTES, Box::new(body)) {
        return;
    }
    if !domain.is_over(PATIENCE) {
        domain.condemn(c"stall: what a dead domain left could not be freed in time");
    }
    match domain.wait() {
        None => domain.join(),
        Some(fault) => {
            tracing::warn!(%fault, "what a dead worker left could not be freed");
            if domain.park(thread::PARK_AT_ALL) {
                domain.reap();
                domain.free_blocks();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn what_is_freed_runs_in_a_domain_and_may_panic() {
        let (send, receive) = mpsc::channel();
        guarded(move || {
            send.send(thread::is_current()).unwrap();
            panic!("no llama");
        });
        assert_eq!(receive.recv(), Ok(true));
        assert!(!thread::is_current());
    }
}
