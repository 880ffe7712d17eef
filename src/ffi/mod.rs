//! The C API: what `include/llamapen.h` declares. One file per C object; casts, texts and panics are in `border`, what
//! several functions take in `options` and `progress`.
//!
//! The header is generated from these files (`tests/header.rs`); the comments here are its documentation, so they are
//! written for C callers.

// One contract holds for every function: the conventions at the top of the header.
#![allow(clippy::missing_safety_doc)]

mod border;
mod config;
mod engine;
mod error;
mod handoff;
mod info;
mod lease;
mod machine;
mod model;
mod options;
mod plan;
mod progress;
mod request;
mod status;
mod supervisor;
mod worker;

pub use config::*;
pub use engine::*;
pub use error::*;
pub use handoff::*;
pub use info::*;
pub use lease::*;
pub use machine::*;
pub use model::*;
pub use plan::*;
pub use progress::llamapen_progress;
pub use request::*;
pub use status::*;
pub use supervisor::*;
pub use worker::*;
