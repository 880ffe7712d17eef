//! The locks of the library: those of the standard library, without poisoning, for a panic is contained where it happens.
//!
//! A lock of these is a word of its own, which a thread waits for in the kernel. Locks whose waiting threads stand in a
//! table of the process, as parking_lot's do, are of no use here: a child made by `fork` gets that table with threads in it
//! that it does not have, so that its own, new locks hang, and so would those of a host that lost a thread while it waited.
//!
//! The two queues that requests pass take theirs from [`tried`]: under `cfg(loom)` those of loom, which runs every order in
//! which threads can come to them (`interleavings`; `make loom`).

pub(crate) use plain::{Condvar, Mutex, MutexGuard};

/// One implementation over two libraries that look the same. loom can make nothing at compile time.
macro_rules! locks {
    ($library:ident, [$($constant:ident)?]) => {
        use std::ops::{Deref, DerefMut};
        use std::sync::{PoisonError, TryLockError};
        use std::time::Instant;

        #[derive(Debug, Default)]
        pub(crate) struct Mutex<T>($library::sync::Mutex<T>);

        /// Empty only while it waits.
        #[derive(Debug)]
        pub(crate) struct MutexGuard<'a, T>(Option<$library::sync::MutexGuard<'a, T>>);

        #[derive(Debug, Default)]
        pub(crate) struct Condvar($library::sync::Condvar);

        #[allow(dead_code, reason = "not all of it is used by the queues")]
        impl<T> Mutex<T> {
            pub(crate) $($constant)? fn new(value: T) -> Self {
                Self($library::sync::Mutex::new(value))
            }

            pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
                MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
            }

            /// `None` while somebody has it.
            pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
                match self.0.try_lock() {
                    Ok(guard) => Some(MutexGuard(Some(guard))),
                    Err(TryLockError::Poisoned(guard)) => Some(MutexGuard(Some(guard.into_inner()))),
                    Err(TryLockError::WouldBlock) => None,
                }
            }

            pub(crate) fn get_mut(&mut self) -> &mut T {
                self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
            }

            pub(crate) fn into_inner(self) -> T {
                self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
            }
        }

        impl<T> Deref for MutexGuard<'_, T> {
            type Target = T;

            fn deref(&self) -> &T {
                self.0.as_deref().expect("not waiting")
            }
        }

        impl<T> DerefMut for MutexGuard<'_, T> {
            fn deref_mut(&mut self) -> &mut T {
                self.0.as_deref_mut().expect("not waiting")
            }
        }

        #[allow(dead_code, reason = "not all of it is used beside loom")]
        impl Condvar {
            pub(crate) $($constant)? fn new() -> Self {
                Self($library::sync::Condvar::new())
            }

            pub(crate) fn notify_one(&self) {
                self.0.notify_one();
            }

            pub(crate) fn notify_all(&self) {
                self.0.notify_all();
            }

            /// May return for no reason.
            pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
                let taken = guard.0.take().expect("not waiting");
                guard.0 = Some(self.0.wait(taken).unwrap_or_else(PoisonError::into_inner));
            }

            /// Whether `deadline` has passed; may return before for no reason. loom has no time: there it waits without an
            /// end, so that a wake-up that is missed is a deadlock, which loom reports, and no timeout hides it.
            pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
                let taken = guard.0.take().expect("not waiting");
                let left = deadline.saturating_duration_since(Instant::now());
                let (taken, result) = self.0.wait_timeout(taken, left).unwrap_or_else(PoisonError::into_inner);
                guard.0 = Some(taken);
                result.timed_out()
            }
        }
    };
}

mod plain {
    locks!(std, [const]);
}

/// Those of the queues.
pub(crate) mod tried {
    #[cfg(loom)]
    locks!(loom, []);
    #[cfg(not(loom))]
    pub(crate) use super::plain::{Condvar, Mutex};
}
