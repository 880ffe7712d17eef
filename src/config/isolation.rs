//! [`Isolation`]: what a worker's death can take along.

use serde::{Deserialize, Serialize};

/// Where workers run. Both run the same loop and give the same events and bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Isolation {
    /// As threads of this process, on one copy of the weights. Most faults are contained; `docs/containment.md` says which
    /// are not.
    Thread,
    /// Each as a child process that loads the model itself: whatever becomes of it, this process goes on, and all of its
    /// memory is given back. This process never reads the weights. What is mapped from the file is in memory once; what is
    /// not, such as weights repacked for faster kernels, once per worker.
    Process,
}

impl Isolation {
    /// Name as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Process => "process",
        }
    }
}
