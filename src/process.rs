//! Which process an object was made in: a child made by `fork` has the object, but none of its threads.

use crate::error::{Error, Result};

/// The process that made an object.
#[derive(Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// `Forked` anywhere but in the process that made the object. To be asked before any lock is taken: in a forked
    /// child it may be held, for ever, by a thread that does not exist there.
    pub(crate) fn check(self) -> Result<()> {
        match self.0 == std::process::id() {
            true => Ok(()),
            false => Err(Error::Forked),
        }
    }
}
