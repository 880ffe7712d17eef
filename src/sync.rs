//! The locks of the two queues that requests pass: parking_lot's, or under `cfg(loom)` those of loom, which runs every
//! order in which threads can come to them (`interleavings`; `make loom`).

#[cfg(not(loom))]
pub(crate) use parking_lot::{Condvar, Mutex};

#[cfg(loom)]
pub(crate) use model::{Condvar, Mutex};

#[cfg(loom)]
mod model {
    use std::ops::{Deref, DerefMut};
    use std::time::Instant;

    /// As parking_lot's: nothing is poisoned, since a panic ends the model.
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// Empty only while it waits.
    pub(crate) struct Guard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    pub(crate) struct Condvar(loom::sync::Condvar);

    pub(crate) struct WaitResult(bool);

    impl WaitResult {
        pub(crate) fn timed_out(&self) -> bool {
            self.0
        }
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            Guard(Some(self.0.lock().expect("a panic ends the model")))
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("not waiting")
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("not waiting")
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<T>(&self, guard: &mut Guard<'_, T>) {
            let taken = guard.0.take().expect("not waiting");
            guard.0 = Some(self.0.wait(taken).expect("a panic ends the model"));
        }

        /// Without an end: loom has no time. So a wake-up that is missed is a deadlock, which it reports, and no timeout
        /// hides it.
        pub(crate) fn wait_until<T>(&self, guard: &mut Guard<'_, T>, _: Instant) -> WaitResult {
            self.wait(guard);
            WaitResult(false)
        }
    }
}
