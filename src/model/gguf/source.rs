//! Bounded little-endian reading: nothing is read or allocated before it is known to be in the file.

use std::fmt::Arguments;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};

use super::error::{GgufError, quoted};

/// Headers beyond this are refused. Real ones take a few tens of MiB at most, nearly all of it the vocabulary; the
/// limit keeps a crafted file from growing a host process by gigabytes.
pub(in crate::model) const MAX_HEADER_BYTES: u64 = 256 << 20;

/// A reader that knows its position and the length of the file.
pub(super) struct Source<R> {
    inner: BufReader<R>,
    position: u64,
    length: u64,
}

impl<R: Read + Seek> Source<R> {
    pub(super) fn new(mut reader: R) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { offset: 0, source };
        let length = reader.seek(SeekFrom::End(0)).map_err(io)?;
        reader.rewind().map_err(io)?;
        Ok(Self { inner: BufReader::with_capacity(64 << 10, reader), position: 0, length })
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn remaining(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    /// Fails unless `count` items of at least `size` bytes each are still to come.
    pub(super) fn need(&self, what: Arguments<'_>, count: u64, size: u64) -> Result<(), GgufError> {
        // A product that overflows is more than any file holds, so saturating keeps the answer right.
        let required = count.saturating_mul(size);
        if required > self.remaining() {
            return Err(self.truncated(what, required));
        }
        let end = self.position.saturating_add(required);
        if end > MAX_HEADER_BYTES {
            return Err(GgufError::malformed(
                self.position,
                what,
                format_args!("a header of at most {MAX_HEADER_BYTES} bytes"),
                format_args!("one of at least {end} bytes"),
            ));
        }
        Ok(())
    }

    /// Fills `buffer`. The caller has checked that the bytes are there; a file that shrank meanwhile is truncated.
    pub(super) fn fill(&mut self, what: Arguments<'_>, buffer: &mut [u8]) -> Result<(), GgufError> {
        match self.inner.read_exact(buffer) {
            Ok(()) => {
                self.position = self.position.saturating_add(buffer.len() as u64);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(self.truncated(what, buffer.len() as u64)),
            Err(source) => Err(GgufError::Io { offset: self.position, source }),
        }
    }

    pub(super) fn bytes<const N: usize>(&mut self, what: Arguments<'_>) -> Result<[u8; N], GgufError> {
        self.need(what, 1, N as u64)?;
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: Arguments<'_>) -> Result<u32, GgufError> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: Arguments<'_>) -> Result<u64, GgufError> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    /// Reads a length-prefixed string into `raw`, replacing what it held, and checks that it is UTF-8.
    pub(super) fn text<'b>(&mut self, what: Arguments<'_>, raw: &'b mut Vec<u8>) -> Result<&'b str, GgufError> {
        let length = self.u64(format_args!("the length of {what}"))?;
        self.need(what, length, 1)?;
        let start = self.position;
        // `need` has bounded the length by MAX_HEADER_BYTES, which fits a usize.
        raw.clear();
        raw.resize(length as usize, 0);
        self.fill(what, raw)?;
        std::str::from_utf8(raw).map_err(|e| {
            let at = start.saturating_add(e.valid_up_to() as u64);
            GgufError::malformed(at, what, "UTF-8 text", "bytes that are not UTF-8")
        })
    }

    /// Reads a string that names or describes something. llama.cpp handles these as C strings, so a NUL byte would
    /// make it see another text than this reader did.
    pub(super) fn string(&mut self, what: Arguments<'_>) -> Result<String, GgufError> {
        let mut raw = Vec::new();
        let text = self.text(what, &mut raw)?;
        if let Some(nul) = text.bytes().position(|b| b == 0) {
            let found = quoted(text);
            let start = self.position.saturating_sub(raw.len() as u64);
            let at = start.saturating_add(nul as u64);
            return Err(GgufError::malformed(at, what, "text without NUL bytes", found));
        }
        Ok(text.to_owned())
    }

    fn truncated(&self, what: Arguments<'_>, required: u64) -> GgufError {
        GgufError::Truncated { offset: self.position, what: what.to_string(), required, available: self.remaining() }
    }
}
