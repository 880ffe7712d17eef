//! Where native code runs, and how what goes wrong there is kept there: fault domains of threads (`thread`, `domain`, `pen`), and
//! child processes (`child`), what they may do (`confine`), and how they are talked to (`ipc`).

pub(crate) mod child;
pub(crate) mod confine;
mod domain;
pub(crate) mod ipc;
#[cfg(panic = "abort")]
mod panic;
mod remains;
mod signal;
pub(crate) mod thread;

pub(crate) use domain::{FaultKind, handlers_installed, install_handlers};
#[cfg(feature = "fault-injection")]
pub(crate) use domain::{Injected, Place, arm};
pub(crate) use remains::Remains;
pub(crate) use signal::signal_name;
