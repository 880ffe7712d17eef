//! [`Priority`]: which class of the queue a request waits in.

use serde::{Deserialize, Serialize};

/// Which requests go first when several wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Priority {
    /// Somebody waits for it. Taken before those of `Batch`.
    #[default]
    Interactive,
    /// Can wait: taken when no interactive one waits, and once after every 8 interactive ones in a row that were taken
    /// before it.
    Batch,
}
