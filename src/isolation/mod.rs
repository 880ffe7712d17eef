//! Fault domains: where native code runs, and how what goes wrong there is kept there.

mod domain;
pub(crate) mod thread;

#[cfg(feature = "fault-injection")]
pub(crate) use domain::{Injected, arm};
pub(crate) use domain::{FaultKind, handlers_installed, install_handlers};
