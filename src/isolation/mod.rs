//! Fault domains: where native code runs, and how what goes wrong there is kept there.

mod domain;
#[cfg(panic = "abort")]
mod panic;
mod remains;
pub(crate) mod thread;

pub(crate) use domain::{FaultKind, handlers_installed, install_handlers};
#[cfg(feature = "fault-injection")]
pub(crate) use domain::{Injected, Place, arm};
pub(crate) use remains::Remains;
