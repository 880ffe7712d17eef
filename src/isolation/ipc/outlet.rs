//! The sending end of the child: it gathers small messages, and waits where the host does not read.

use super::backlog::Backlog;
use super::blob::Blob;
use super::error::IpcError;
use super::frame::Frame;
use crate::sync::Mutex;
use rustix::net::SendFlags;
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that wait for a flush.
const GATHERED: u64 = 32 << 10;
/// Until the system may take descriptors again.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Outlet {
    backlog: Mutex<Backlog>,
}

impl Outlet {
    pub(crate) fn new(socket: impl Into<Arc<OwnedFd>>) -> Self {
        Self { backlog: Mutex::new(Backlog::new(socket.into())) }
    }

    /// Keeps it for the next [`flush`](Self::flush), which comes by itself when much is kept.
    pub(crate) fn send(&self, message: &impl Serialize, blob: Option<&Blob>) -> Result<(), IpcError> {
        let frame = Frame::new(message, blob)?;
        let mut backlog = self.backlog.lock();
        backlog.push(frame)?;
        if backlog.cost() > GATHERED { write_all(&mut backlog) } else { Ok(()) }
    }

    /// Sends bytes that need not be a message.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), IpcError> {
        self.flush()?;
        let raw = Frame { bytes: bytes.into(), files: vec![], cost: 0 };
        self.backlog.lock().push(raw)?;
        self.flush()
    }

    /// Sends the first half of a message.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn write_half(&self, message: &impl Serialize) -> Result<(), IpcError> {
        let frame = Frame::new(message, None)?;
        self.write(&frame.bytes[..frame.bytes.len() / 2])
    }

    /// Sends everything, and waits until the socket has taken it.
    pub(crate) fn flush(&self) -> Result<(), IpcError> {
        write_all(&mut self.backlog.lock())
    }
}

fn write_all(backlog: &mut Backlog) -> Result<(), IpcError> {
    while !backlog.write(SendFlags::empty())? {
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
