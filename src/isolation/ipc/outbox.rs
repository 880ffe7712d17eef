//! The sending end of the host: it never waits for its child.

use super::backlog::Backlog;
use super::blob::Blob;
use super::error::IpcError;
use super::frame::Frame;
use crate::sync::Mutex;
use rustix::net::SendFlags;
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Of those that wait: a process has few descriptors, and a host may need them.
const MAX_WAITING_FILES: usize = 64;

/// What the socket does not take waits here, up to a limit.
pub(crate) struct Outbox {
    backlog: Mutex<Backlog>,
    limit: u64,
}

impl Outbox {
    /// `limit` is in bytes, those of files included; one frame may wait even if it is larger.
    pub(crate) fn new(socket: impl Into<Arc<OwnedFd>>, limit: u64) -> Self {
        Self { backlog: Mutex::new(Backlog::new(socket.into())), limit }
    }

    /// Sends as much as the socket takes; the rest waits for the next call, or for [`flush`](Self::flush).
    pub(crate) fn send(&self, message: &impl Serialize, blob: Option<&Blob>) -> Result<(), IpcError> {
        let frame = Frame::new(message, blob)?;
        let mut backlog = self.backlog.lock();
        if !self.fits(&backlog, &frame) && !backlog.write(SendFlags::DONTWAIT)? && !self.fits(&backlog, &frame) {
            let (waiting, frames) = (backlog.cost(), backlog.len());
            return Err(IpcError::Full { waiting, frames, limit: self.limit });
        }
        backlog.push(frame)?;
        backlog.write(SendFlags::DONTWAIT).map(drop)
    }

    /// Tries again; true: nothing waits.
    pub(crate) fn flush(&self) -> Result<bool, IpcError> {
        self.backlog.lock().write(SendFlags::DONTWAIT)
    }

    fn fits(&self, backlog: &Backlog, frame: &Frame) -> bool {
        let files = backlog.files() + frame.files.len();
        backlog.cost() + frame.cost <= self.limit && files <= MAX_WAITING_FILES
    }
}
