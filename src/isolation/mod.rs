//! Fault domains: where native code runs, and how what goes wrong there is kept there.

pub(crate) mod thread;
