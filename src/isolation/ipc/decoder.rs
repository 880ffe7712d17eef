//! From bytes and descriptors to messages and blobs, without a socket.

use super::blob::{Blob, Bytes};
use super::error::IpcError;
use super::frame::{Header, MAX_FRAME};
use super::sealed::SealedFile;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How deep a message may nest: its decoding must not use up a stack.
const MAX_DEPTH: usize = 128;

/// The caller takes all frames there are ([`next`](Self::next)), then puts what arrives into [`space`](Self::space) and says
/// so ([`arrived`](Self::arrived)). After an error it is of no use.
pub(super) struct Decoder {
    /// Has room for the longest frame, so there is space as long as none is whole.
    buffer: Box<[u8]>,
    /// The part of the buffer that has arrived and that no frame has taken.
    start: usize,
    end: usize,
    /// Where `start` is in the stream.
    position: u64,
    arrivals: VecDeque<Arrival>,
}

/// Descriptors, and the bytes of the stream that they came with: the frame that announces them begins there.
struct Arrival {
    from: u64,
    until: u64,
    files: Vec<OwnedFd>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        let buffer = vec![0; MAX_FRAME].into_boxed_slice();
        Self { buffer, start: 0, end: 0, position: 0, arrivals: VecDeque::new() }
    }

    /// Where the next bytes belong.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// So many bytes are in the space, and these descriptors came with them.
    pub(super) fn arrived(&mut self, bytes: usize, files: Vec<OwnedFd>) {
        let from = self.position + (self.end - self.start) as u64;
        self.end = self.buffer.len().min(self.end + bytes);
        if !files.is_empty() {
            self.arrivals.push_back(Arrival { from, until: from + bytes as u64, files });
        }
    }

    /// The next frame; `None`: it is not whole yet.
    pub(super) fn next<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Option<Blob>)>, IpcError> {
        let Some(header) = Header::decode(&self.buffer[self.start..self.end])? else { return Ok(None) };
        self.check_files(header)?;
        if self.end - self.start < header.frame_bytes() {
            return Ok(None);
        }
        let files = if header.files() > 0 { self.arrivals.pop_front().map(|arrival| arrival.files) } else { None };
        let mut files = files.into_iter().flatten();
        self.take(Header::BYTES);
        let message = match header.body_bytes() {
            Some(bytes) => decode(self.take(bytes))?,
            None => {
                let file = received(&mut files, header.body.into())?;
                decode(&file.read().map_err(|error| IpcError::io("a large message", error))?)?
            }
        };
        let blob = match (header.blob, header.blob_bytes()) {
            (None, _) => None,
            (_, Some(bytes)) => Some(Bytes::Inline(Arc::new(self.take(bytes).to_vec()))),
            (Some(len), None) => Some(Bytes::Sealed(received(&mut files, len)?)),
        };
        Ok(Some((message, blob.map(Blob))))
    }

    /// The stream has ended: was that between two frames?
    pub(super) fn finish(&self) -> Result<(), IpcError> {
        match (self.end - self.start, self.arrivals.len()) {
            (0, 0) => Ok(()),
            (0, _) => Err(surplus()),
            (bytes, _) => Err(IpcError::HalfFrame { bytes }),
        }
    }

    /// The descriptors that the next frame announces are there, and those behind them can be a later frame's. Said as soon as
    /// the header is there: no frame gathers descriptors while it waits for its last byte.
    fn check_files(&self, header: Header) -> Result<(), IpcError> {
        let mut arrivals = self.arrivals.iter();
        if header.files() > 0 {
            let here = arrivals.next().filter(|arrival| arrival.from <= self.position);
            let count = here.map_or(0, |arrival| arrival.files.len());
            if count != header.files() {
                let text = format!("{} were announced, {count} came", header.files());
                return Err(IpcError::Descriptor(text));
            }
        }
        let end = self.position + header.frame_bytes() as u64;
        if arrivals.next().is_some_and(|arrival| arrival.until <= end) { Err(surplus()) } else { Ok(()) }
    }

    fn take(&mut self, bytes: usize) -> &[u8] {
        let from = self.start;
        self.start += bytes;
        self.position += bytes as u64;
        &self.buffer[from..self.start]
    }
}

fn surplus() -> IpcError {
    IpcError::Descriptor("no frame announced it".into())
}

fn received(files: &mut impl Iterator<Item = OwnedFd>, len: u64) -> Result<SealedFile, IpcError> {
    SealedFile::receive(files.next().ok_or_else(|| IpcError::Descriptor("it is missing".into()))?, len)
}

fn decode<M: DeserializeOwned>(mut body: &[u8]) -> Result<M, IpcError> {
    let mut decoder = rmp_serde::Deserializer::new(&mut body);
    decoder.set_max_depth(MAX_DEPTH);
    let message = M::deserialize(&mut decoder).map_err(|error| IpcError::BadBody(error.to_string()))?;
    match body.len() {
        0 => Ok(message),
        more => Err(IpcError::BadBody(format!("{more} bytes follow its end"))),
    }
}
