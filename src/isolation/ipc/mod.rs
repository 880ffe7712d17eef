//! What a host and its worker child send each other: frames over a pair of Unix stream sockets.
//!
//! A frame carries one message, of any serde type, and perhaps one [`Blob`] of raw bytes. What is large travels as a sealed
//! file in memory, by its descriptor: a socket never holds more than a few small frames. The other side is taken to be
//! damaged or hostile: whatever arrives, there is no panic, no wait but for bytes, no more memory than was sent.

mod backlog;
#[cfg(feature = "benches")]
pub(crate) mod bench;
mod blob;
mod decoder;
mod error;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod outbox;
mod outlet;
mod reader;
mod sealed;
#[cfg(test)]
mod tests;

pub(crate) use blob::Blob;
pub(crate) use error::IpcError;
pub(crate) use outbox::Outbox;
pub(crate) use outlet::Outlet;
pub(crate) use reader::Reader;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::os::fd::OwnedFd;

/// Two ends of a stream. Neither outlives an `exec`: the child's is handed on by the spawn.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}
