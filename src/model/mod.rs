//! Model files: a safe reader of GGUF headers and what they say about a model.
//!
//! A model file is untrusted input. llama.cpp's own loader stops the process on many malformed files (assertions,
//! divisions by zero, endless loops), so a file is judged here first, in safe Rust, and only what passes is handed
//! to it. The work is split in two:
//!
//! * [`read_header`] and [`Gguf`]: the *syntax*. Magic, version, counts, lengths, types, shapes, offsets. Only the
//!   header is read, never the tensor data, and memory stays within a small multiple of the header's own bytes.
//! * [`ModelInfo::from_gguf`]: the *meaning*. Head counts, layer counts, vocabulary and tensor types are checked
//!   against everything llama.cpp asserts while loading; what is left is a typed, serializable description.

mod check;
mod gguf;
mod info;
mod quantization;
mod types;

#[cfg(test)]
mod loader_tests;
#[cfg(test)]
mod mutation_tests;
#[cfg(test)]
mod random;
#[cfg(test)]
mod seeds;

pub use gguf::{Array, Gguf, GgufError, Split, StringArray, TensorInfo, Value};
pub use info::{ModelInfo, PerLayer, SsmInfo};
pub use types::GgmlType;

use std::path::Path;

/// Reads and checks the GGUF header of the file at `path`.
///
/// Only the header is read: a file of 40 GB costs as much as its metadata and tensor list. The path must name a
/// regular file, so that a pipe or a device cannot make the caller wait.
pub fn read_header(path: &Path) -> Result<Gguf, GgufError> {
    Gguf::open(path)
}
