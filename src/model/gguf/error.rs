//! What can be wrong with a GGUF file, and where.

use std::io;

use thiserror::Error;

/// Why a file was refused. Every variant carries the byte offset of the fault.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file does not start with the magic bytes `GGUF`.
    #[error(
        "not a GGUF file: expected \"GGUF\" at byte {offset}, found \"{}\"",
        .found.escape_ascii()
    )]
    NotGguf {
        /// Where the magic was expected; always 0.
        offset: u64,
        /// The bytes found instead, at most four.
        found: Vec<u8>,
    },

    /// A GGUF file of a version that this reader, like llama.cpp, does not take.
    #[error(
        "unsupported GGUF version at byte {offset}: expected 2 or 3, found {found}{}",
        if *.big_endian { " (a big-endian file)" } else { "" }
    )]
    UnsupportedVersion {
        /// Where the version number stands.
        offset: u64,
        /// The version number, read as little-endian.
        found: u32,
        /// Whether the number makes sense when its bytes are swapped.
        big_endian: bool,
    },

    /// The file ends too early, in its header or in the tensor data that the header describes.
    #[error("truncated at byte {offset}: {what} takes {required} bytes, {available} are left")]
    Truncated {
        /// Where the missing part starts.
        offset: u64,
        /// What does not fit.
        what: String,
        /// Bytes that part takes at least.
        required: u64,
        /// Bytes from `offset` to the end of the file.
        available: u64,
    },

    /// The file is complete but contradicts the format, or describes a model that llama.cpp cannot load safely.
    #[error("malformed at byte {offset}: {what}: expected {expected}, found {found}")]
    Malformed {
        /// Where the fault stands. For a missing key: where the metadata ends.
        offset: u64,
        /// Which field is wrong.
        what: String,
        /// What it should have been.
        expected: String,
        /// What it is.
        found: String,
    },

    /// The file could not be read.
    #[error("cannot read at byte {offset}: {source}")]
    Io {
        /// How far reading had come.
        offset: u64,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl GgufError {
    /// The byte offset in the file at which the fault was found.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::NotGguf { offset, .. }
            | Self::UnsupportedVersion { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::Malformed { offset, .. }
            | Self::Io { offset, .. } => *offset,
        }
    }

    pub(in crate::model) fn malformed(
        offset: u64,
        what: impl ToString,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        Self::Malformed { offset, what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// Text from the file, made fit for a message: quoted, escaped and cut to a length that a log line bears.
pub(in crate::model) fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    format!("'{shown}'")
}
