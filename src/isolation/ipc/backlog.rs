//! Frames that wait to be sent.

use super::error::IpcError;
use super::frame::{Frame, MAX_FILES};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Frames per system call.
const BATCH: usize = 64;

pub(super) struct Backlog {
    socket: Arc<OwnedFd>,
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that were sent.
    sent: usize,
    cost: u64,
    files: usize,
    broken: Option<IpcError>,
}

impl Backlog {
    pub(super) fn new(socket: Arc<OwnedFd>) -> Self {
        Self { socket, frames: VecDeque::new(), sent: 0, cost: 0, files: 0, broken: None }
    }

    /// Memory that all frames hold.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    /// Descriptors that all frames hold.
    pub(super) fn files(&self) -> usize {
        self.files
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn push(&mut self, frame: Frame) -> Result<(), IpcError> {
        self.check()?;
        self.cost += frame.cost;
        self.files += frame.files.len();
        self.frames.push_back(frame);
        Ok(())
    }

    /// Sends what there is. Whether that was all: without `DONTWAIT` it is, unless the system has too many descriptors under
    /// way. After an error nothing can be sent any more, and nothing waits.
    pub(super) fn write(&mut self, flags: SendFlags) -> Result<bool, IpcError> {
        self.check()?;
        while !self.frames.is_empty() {
            match self.write_once(flags | SendFlags::NOSIGNAL) {
                Ok(bytes) => self.done(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::TOOMANYREFS) => return Ok(false),
                Err(error) => {
                    let error = match error {
                        Errno::PIPE | Errno::CONNRESET => IpcError::Closed,
                        error => IpcError::io("sending", error),
                    };
                    *self = Self { broken: Some(error.clone()), ..Self::new(self.socket.clone()) };
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    /// Files belong to the first byte of a call: a frame that has some begins one, and none behind it has any.
    fn write_once(&self, flags: SendFlags) -> rustix::io::Result<usize> {
        let Some(first) = self.frames.front() else { return Ok(0) };
        let behind = self.frames.iter().skip(1).take_while(|frame| frame.files.is_empty());
        let bytes = std::iter::once(&first.bytes[self.sent..]).chain(behind.map(|frame| &*frame.bytes));
        let bytes: Vec<_> = bytes.take(BATCH).map(IoSlice::new).collect();
        let files: Vec<BorrowedFd<'_>> = first.files.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(Errno::MSGSIZE);
        }
        sendmsg(&self.socket, &bytes, &mut control, flags)
    }

    /// So many bytes were sent, and with the first of them the files.
    fn done(&mut self, bytes: usize) {
        self.sent += bytes;
        if let Some(first) = self.frames.front_mut() {
            self.files -= std::mem::take(&mut first.files).len();
        }
        while let Some(first) = self.frames.front().filter(|first| first.bytes.len() <= self.sent) {
            self.sent -= first.bytes.len();
            self.cost -= first.cost;
            self.frames.pop_front();
        }
    }

    fn check(&self) -> Result<(), IpcError> {
        self.broken.clone().map_or(Ok(()), Err)
    }
}
