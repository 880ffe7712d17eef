//! A frame as it is sent: a header, then what it announces and is small; what is large goes along as sealed files.

use super::blob::{Blob, Bytes};
use super::error::IpcError;
use super::sealed::SealedFile;
use serde::Serialize;
use std::fs::File;
use std::sync::Arc;

/// Of a body and of a blob, each: more travels as a file.
pub(super) const INLINE: usize = 64 << 10;
/// Of an encoded message. The receiver reads it into memory.
pub(crate) const MAX_BODY: u64 = 64 << 20;
/// Of a blob. Only who asks for its bytes reads it into memory.
pub(crate) const MAX_BLOB: u64 = 64 << 30;
/// A body and a blob.
pub(super) const MAX_FILES: usize = 2;
/// What the longest frame takes of the stream.
pub(super) const MAX_FRAME: usize = Header::BYTES + 2 * INLINE;

/// "llamapen inter-process".
const MAGIC: [u8; 4] = *b"LPIP";
/// Raised with every change of the header or of what messages mean: both sides are of one build.
pub(super) const VERSION: u16 = 1;

/// Magic, version, flags (bit 0: there is a blob), length of the body, length of the blob; numbers are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) body: u32,
    pub(super) blob: Option<u64>,
}

impl Header {
    pub(super) const BYTES: usize = 20;
    const BLOB: u16 = 1;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let flags = if self.blob.is_some() { Self::BLOB } else { 0 };
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body.to_le_bytes());
        bytes[12..].copy_from_slice(&self.blob.unwrap_or(0).to_le_bytes());
        bytes
    }

    /// Of what has arrived; `None` while there is too little. What is wrong is said at its first byte: nobody waits for the
    /// rest of it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, IpcError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(IpcError::BadHeader(format!("it begins with \"{}\"", bytes[..known].escape_ascii())));
        }
        if let Some(&theirs) = bytes[known..].first_chunk() {
            match u16::from_le_bytes(theirs) {
                VERSION => {}
                theirs => return Err(IpcError::Version { theirs, ours: VERSION }),
            }
        }
        let Some(&[_, _, _, _, _, _, f0, f1, b0, b1, b2, b3, ref blob @ ..]) = bytes.first_chunk::<{ Self::BYTES }>()
        else {
            return Ok(None);
        };
        let body = u32::from_le_bytes([b0, b1, b2, b3]);
        let blob = match (u16::from_le_bytes([f0, f1]), u64::from_le_bytes(*blob)) {
            (0, 0) => None,
            (Self::BLOB, len) => Some(len),
            (flags, len) => return Err(IpcError::BadHeader(format!("flags {flags:#x} with a blob of {len} bytes"))),
        };
        check(body.into(), blob)?;
        Ok(Some(Self { body, blob }))
    }

    /// What the frame takes of the stream.
    pub(super) fn frame_bytes(self) -> usize {
        Self::BYTES + self.body_bytes().unwrap_or(0) + self.blob_bytes().unwrap_or(0)
    }

    /// Bytes of the body in the stream; `None`: it is a file.
    pub(super) fn body_bytes(self) -> Option<usize> {
        inline(self.body.into())
    }

    /// Bytes of the blob in the stream; `None`: it is a file, or there is none.
    pub(super) fn blob_bytes(self) -> Option<usize> {
        self.blob.and_then(inline)
    }

    /// How many files come along.
    pub(super) fn files(self) -> usize {
        usize::from(self.body_bytes().is_none()) + usize::from(self.blob.is_some() && self.blob_bytes().is_none())
    }
}

fn inline(len: u64) -> Option<usize> {
    usize::try_from(len).ok().filter(|len| *len <= INLINE)
}

fn check(body: u64, blob: Option<u64>) -> Result<(), IpcError> {
    for (what, bytes, limit) in [("message", body, MAX_BODY), ("blob", blob.unwrap_or(0), MAX_BLOB)] {
        if bytes > limit {
            return Err(IpcError::TooLarge { what, bytes, limit });
        }
    }
    Ok(())
}

/// A frame, ready to be sent.
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    /// They go with the first byte.
    pub(super) files: Vec<Arc<File>>,
    /// Memory that it holds while it waits.
    pub(super) cost: u64,
}

impl Frame {
    pub(super) fn new(message: &impl Serialize, blob: Option<&Blob>) -> Result<Self, IpcError> {
        let mut bytes = vec![0; Header::BYTES];
        rmp_serde::encode::write_named(&mut bytes, message)
            .map_err(|error| IpcError::BadBody(format!("it cannot be encoded: {error}")))?;
        let body = (bytes.len() - Header::BYTES) as u64;
        let blob_len = blob.map(Blob::len);
        check(body, blob_len)?;
        let header = Header { body: body as u32, blob: blob_len };
        bytes[..Header::BYTES].copy_from_slice(&header.encode());

        let mut frame = Self { bytes, files: Vec::new(), cost: size_of::<Self>() as u64 };
        if header.body_bytes().is_none() {
            let file = SealedFile::new(&frame.bytes[Header::BYTES..])
                .map_err(|error| IpcError::NoMemory(error.to_string()))?;
            frame.bytes = frame.bytes[..Header::BYTES].to_vec();
            frame.add(&file);
        }
        match blob.map(|blob| &blob.0) {
            Some(Bytes::Inline(bytes)) => frame.bytes.extend_from_slice(bytes),
            Some(Bytes::Sealed(file)) => frame.add(file),
            None => {}
        }
        frame.cost += frame.bytes.len() as u64;
        Ok(frame)
    }

    fn add(&mut self, file: &SealedFile) {
        self.files.push(file.file().clone());
        self.cost += file.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_wait_for_their_last_byte() {
        for blob in [None, Some(0), Some(1), Some(MAX_BLOB)] {
            for body in [0, 1, INLINE as u32, MAX_BODY as u32] {
                let bytes = (Header { body, blob }).encode();
                assert_eq!(Header::decode(&bytes).unwrap(), Some(Header { body, blob }));
                for short in 0..Header::BYTES {
                    assert_eq!(Header::decode(&bytes[..short]).unwrap(), None);
                }
            }
        }
    }

    #[test]
    fn a_wrong_header_is_named_at_its_first_wrong_byte() {
        let good = (Header { body: 1, blob: None }).encode();
        let with = |at: usize, byte: u8, len: usize| {
            let mut bytes = good;
            bytes[at] = byte;
            Header::decode(&bytes[..len]).unwrap_err()
        };
        for at in 0..4 {
            assert!(matches!(with(at, 0, at + 1), IpcError::BadHeader(_)));
        }
        assert_eq!(with(4, 2, 6), IpcError::Version { theirs: 2, ours: 1 });
        assert!(matches!(with(6, 2, 20), IpcError::BadHeader(_)), "an unknown flag");
        assert!(matches!(with(12, 1, 20), IpcError::BadHeader(_)), "a length without a blob");
        assert_eq!(with(11, 4, 20), IpcError::TooLarge { what: "message", bytes: (64 << 20) + 1, limit: MAX_BODY });
        let blob = (Header { body: 1, blob: Some(MAX_BLOB + 1) }).encode();
        assert!(matches!(Header::decode(&blob), Err(IpcError::TooLarge { what: "blob", .. })));
    }

    #[test]
    fn what_is_too_large_is_not_sent() {
        let text = "x".repeat(MAX_BODY as usize);
        assert!(matches!(Frame::new(&text, None), Err(IpcError::TooLarge { what: "message", .. })));
    }
}
