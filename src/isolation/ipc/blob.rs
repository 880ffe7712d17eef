//! Raw bytes that go along with a message: a sequence's saved state, or logits.

use super::frame::INLINE;
use super::sealed::SealedFile;
use std::io;
use std::sync::Arc;

/// Bytes in memory if they are few, else a sealed file. A clone shares them.
#[derive(Debug, Clone)]
pub(crate) struct Blob(pub(super) Bytes);

#[derive(Debug, Clone)]
pub(super) enum Bytes {
    /// At most [`INLINE`].
    Inline(Arc<Vec<u8>>),
    /// More.
    Sealed(SealedFile),
}

impl Blob {
    pub(crate) fn new(bytes: Vec<u8>) -> io::Result<Self> {
        match bytes.len() {
            0..=INLINE => Ok(Self(Bytes::Inline(Arc::new(bytes)))),
            _ => Self::from_slice(&bytes),
        }
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> io::Result<Self> {
        match bytes.len() {
            0..=INLINE => Self::new(bytes.to_vec()),
            _ => Ok(Self(Bytes::Sealed(SealedFile::new(bytes)?))),
        }
    }

    /// What [`read`](Self::read) would take of memory: the other side chose it, up to [`MAX_BLOB`](super::frame::MAX_BLOB).
    pub(crate) fn len(&self) -> u64 {
        match &self.0 {
            Bytes::Inline(bytes) => bytes.len() as u64,
            Bytes::Sealed(file) => file.len(),
        }
    }

    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        match &self.0 {
            Bytes::Inline(bytes) => Ok(bytes.to_vec()),
            Bytes::Sealed(file) => file.read(),
        }
    }

    /// The same without a copy, where there is no other clone and no file.
    pub(crate) fn into_bytes(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Bytes::Inline(bytes) => Ok(Arc::unwrap_or_clone(bytes)),
            Bytes::Sealed(file) => file.read(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_whatever_their_number() {
        for len in [0, 1, INLINE, INLINE + 1, 3 * INLINE] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            for blob in [Blob::new(bytes.clone()).unwrap(), Blob::from_slice(&bytes).unwrap()] {
                assert_eq!(blob.len(), len as u64);
                assert_eq!(matches!(blob.0, Bytes::Sealed(_)), len > INLINE);
                assert_eq!(blob.clone().into_bytes().unwrap(), bytes);
                assert_eq!(blob.read().unwrap(), bytes);
            }
        }
    }
}
