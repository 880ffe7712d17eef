//! llamapen: llama.cpp behind a supervisor (work in progress).
pub mod model;
