//! What the caller asks for: configurations with defaults, ranges and names.
//!
//! As JSON, unknown keys are refused by name, so that a misspelt option never silently does nothing.

/// Builder methods of a configuration: each sets one field.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident, $field:ident: $type:ty => $value:expr;)*) => {$(
        #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $name(mut self, $field: $type) -> Self {
            self.$field = $value;
            self
        }
    )*};
}

mod child;
mod engine;
mod flags;
mod isolation;
mod kv_type;
mod restarts;
mod start_fault;
mod supervisor;
mod tuning;

pub(crate) use child::MOST_CPUS;
pub use child::{ChildConfig, Sandbox};
pub use engine::{DEFAULT_CTX, DEFAULT_UBATCH, EngineConfig, MIN_CTX, Shrink};
pub use isolation::Isolation;
pub use kv_type::KvType;
pub use start_fault::StartFault;
pub use supervisor::{QueueFullPolicy, SupervisorConfig, TaintPolicy};
pub use tuning::Tuning;

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;

/// Reads JSON; the error names the text it is about and the place in it.
pub(crate) fn from_json<T: DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::invalid(what, e.to_string()))
}

/// Whole milliseconds, as fields hold them.
fn in_ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Refuses a value outside `range`, naming both.
pub(crate) fn in_range<T>(what: &str, value: T, range: std::ops::RangeInclusive<T>) -> Result<()>
where
    T: PartialOrd + std::fmt::Display,
{
    match range.contains(&value) {
        true => Ok(()),
        false => Err(Error::invalid(what, format!("{value} is not between {} and {}", range.start(), range.end()))),
    }
}
