//! The receiving end.

use super::blob::Blob;
use super::decoder::Decoder;
use super::error::IpcError;
use super::frame::MAX_FILES;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use serde::de::DeserializeOwned;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Reads what is there, many frames at once, and waits where there is nothing.
pub(crate) struct Reader {
    socket: Arc<OwnedFd>,
    /// Or why there is nothing more to be had.
    decoder: Result<Decoder, IpcError>,
}

impl Reader {
    pub(crate) fn new(socket: impl Into<Arc<OwnedFd>>) -> Self {
        Self { socket: socket.into(), decoder: Ok(Decoder::new()) }
    }

    /// The next message; `None`: the other side has closed the stream, or ended, between two. After an error that error
    /// again: nobody knows where the next frame would begin.
    pub(crate) fn next<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Option<Blob>)>, IpcError> {
        let decoder = self.decoder.as_mut().map_err(|error| error.clone())?;
        let result = next(&self.socket, decoder);
        if let Err(error) = &result {
            self.decoder = Err(error.clone());
        }
        result
    }
}

fn next<M: DeserializeOwned>(socket: &OwnedFd, decoder: &mut Decoder) -> Result<Option<(M, Option<Blob>)>, IpcError> {
    loop {
        if let Some(frame) = decoder.next()? {
            return Ok(Some(frame));
        }
        if receive(socket, decoder)? == 0 {
            return decoder.finish().map(|()| None);
        }
    }
}

/// Waits for bytes; 0: there will be no more.
fn receive(socket: &OwnedFd, decoder: &mut Decoder) -> Result<usize, IpcError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    // Closes what is not taken out of it.
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut bytes = [IoSliceMut::new(decoder.space())];
        match recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // It ended before it had read everything that was sent to it: for who receives, an end like any other.
            Err(Errno::CONNRESET) => return Ok(0),
            result => break result.map_err(|error| IpcError::io("receiving", error))?,
        }
    };
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files = files.flatten().collect();
    if received.flags.contains(ReturnFlags::CTRUNC) {
        let text = "there were too many, or this process may open no more (raise its limit of open files)";
        return Err(IpcError::Descriptor(text.into()));
    }
    decoder.arrived(received.bytes, files);
    Ok(received.bytes)
}
