//! What can go wrong between a host and its worker child.

use std::io;
use thiserror::Error;

/// Why a message was not sent or not received. Can be kept and given again: a stream that is broken stays so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum IpcError {
    /// The system refused something.
    #[error("{what}: {text}")]
    Io { what: &'static str, kind: io::ErrorKind, text: String },

    #[error("the stream ends within a frame, after {bytes} of its bytes: the other side died while it wrote")]
    HalfFrame { bytes: usize },

    #[error("this is no frame: {0}. The other side writes garbage: start a new one")]
    BadHeader(String),

    #[error(
        "the other side speaks version {theirs} of the protocol, this one version {ours}: the library was replaced while it \
         ran, restart the host"
    )]
    Version { theirs: u16, ours: u16 },

    #[error("a {what} of {bytes} bytes is too large: at most {limit} fit")]
    TooLarge { what: &'static str, bytes: u64, limit: u64 },

    #[error("no memory for a large message: {0}")]
    NoMemory(String),

    /// The frame is whole, its message is not of the type that was expected.
    #[error("the message of a frame: {0}")]
    BadBody(String),

    /// Something about the files that came with a frame, or did not.
    #[error("a file that was sent along: {0}")]
    Descriptor(String),

    #[error(
        "{waiting} bytes in {frames} frames wait for the other side to read (at most {limit} bytes may): it is stuck"
    )]
    Full { waiting: u64, frames: usize, limit: u64 },

    #[error("the other side closed the stream: it ended")]
    Closed,
}

impl IpcError {
    /// Whether the stream is as good as before: only this message cannot be sent.
    pub(crate) fn is_of_the_message(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::NoMemory(_) | Self::BadBody(_))
    }

    pub(super) fn io(what: &'static str, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        Self::Io { what, kind: error.kind(), text: error.to_string() }
    }
}
