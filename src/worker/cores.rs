//! The compute threads that the workers of a supervisor have together. A worker that is alone computes with all of them; while
//! several have requests, each computes with its share, from its next decode on: then there are never more threads that want to
//! run than cores.

use crate::remote::Link;
use crate::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

pub(crate) struct Cores {
    threads: u32,
    /// Otherwise every worker has that many for itself.
    shared: bool,
    share: AtomicU32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Workers that have requests, or try out what they can do.
    active: u32,
    /// Workers that are processes: told of each change.
    children: Vec<Weak<Link>>,
}

impl Cores {
    pub(crate) fn new(threads: u32, shared: bool) -> Self {
        Self { threads, shared, share: AtomicU32::new(threads), inner: Mutex::default() }
    }

    /// Threads that a worker computes its next batch with.
    pub(crate) fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }

    /// In a child process: what its host says.
    pub(crate) fn told(&self, share: u32) {
        self.share.store(share.clamp(1, self.threads), Ordering::Relaxed);
    }

    /// A worker begins to compute, or has nothing more to compute.
    pub(super) fn change(&self, begins: bool) {
        if !self.shared {
            return;
        }
        let mut inner = self.inner.lock();
        inner.active = if begins { inner.active + 1 } else { inner.active.saturating_sub(1) };
        let share = (self.threads / inner.active.max(1)).max(1);
        if self.share.swap(share, Ordering::Relaxed) != share {
            inner.children.retain(|child| child.upgrade().map(|child| child.tell_share(share)).is_some());
        }
    }

    /// Tells this child what its share is, now and whenever that changes.
    pub(crate) fn tell(&self, child: &Arc<Link>) {
        if self.shared {
            let mut inner = self.inner.lock();
            child.tell_share(self.share());
            inner.children.push(Arc::downgrade(child));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_has_all_of_them() {
        let cores = Cores::new(8, true);
        let shares: Vec<_> = [true, true, true, false, false, false]
            .into_iter()
            .map(|begins| {
                cores.change(begins);
                cores.share()
            })
            .collect();
        assert_eq!(shares, [8, 4, 2, 4, 8, 8]);
        let few = Cores::new(2, true);
        (0..5).for_each(|_| few.change(true));
        assert_eq!(few.share(), 1, "never none");
        let each = Cores::new(4, false);
        each.change(true);
        each.change(true);
        assert_eq!(each.share(), 4, "not shared");
    }

    #[test]
    fn what_a_host_says_is_kept_within_bounds() {
        let cores = Cores::new(4, true);
        for (told, share) in [(2, 2), (0, 1), (99, 4)] {
            cores.told(told);
            assert_eq!(cores.share(), share);
        }
    }
}
