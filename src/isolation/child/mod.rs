//! The process tier's processes: found (`locate`), started (`launch`), watched and ended (`process`), what they write
//! (`output`); and how they begin (`entry`, `settle.c`; from a shared library by `launcher.c`).
//!
//! A worker gets its socket as stdin, a pipe as stdout and stderr, and nothing else of the host's.

mod embedded;
mod entry;
mod launch;
mod locate;
mod objects;
mod output;
mod pid_file;
mod process;
#[cfg(test)]
mod tests;

pub(crate) use entry::{main, main_if_child, why_not_started};
pub(crate) use launch::{LaunchOptions, Launched, launch};
pub(crate) use locate::{Located, NotLocated, locate};
pub(crate) use objects::own_file;
pub(crate) use process::Exit;
