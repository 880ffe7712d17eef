//! Model files: how they are named and found, whether they are the right ones, and what they say about a model.
//!
//! A [`ModelReference`] names a model, [`locate()`] finds its files on this machine, [`verify_digests`] compares them with
//! digests that the caller knows. Nothing here downloads anything.
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
mod digest;
mod digest_cache;
mod gguf;
mod header;
mod hub;
mod info;
mod inspect;
mod locate;
mod open;
mod quantization;
mod reference;
mod split;
mod types;

#[cfg(test)]
mod loader_tests;
#[cfg(test)]
mod mutation_tests;
#[cfg(test)]
mod random;
#[cfg(test)]
mod seeds;

pub use digest::{Digest, HashProgress, hash_file, verify_digests};
pub use digest_cache::DigestCache;
pub use gguf::{Array, Gguf, GgufError, Split, StringArray, TensorInfo, Value};
pub use header::Header;
pub use hub::{HubCache, HubReference};
pub use info::{ModelInfo, PerLayer, SsmInfo};
pub use inspect::{ModelDescription, ModelFile, inspect};
pub use locate::{ModelFiles, locate};
pub use reference::{ModelReference, RemoteReference};
pub use types::GgmlType;

pub(crate) use check::rotates_positions;
pub(crate) use digest::header_digest;
pub(crate) use open::open_regular;

use std::path::Path;

/// Reads and checks the GGUF header of the file at `path`.
///
/// Only the header is read: a file of 40 GB costs as much as its metadata and tensor list. The path must name a
/// regular file, so that a pipe or a device cannot make the caller wait.
pub fn read_header(path: &Path) -> Result<Gguf, GgufError> {
    Gguf::open(path)
}

/// Tiny models of many architectures, all of which llama.cpp runs: names and files.
#[cfg(test)]
pub(crate) fn tiny_models() -> Vec<(&'static str, Vec<u8>)> {
    seeds::all().into_iter().map(|(name, builder)| (name, builder.build())).collect()
}
