//! What the benchmarks of frames measure.

use super::decoder::Decoder;
use super::frame::Frame;
use super::{Outbox, Reader, pair};
use crate::remote::bench::Message;

/// Of frames that wait.
const LIMIT: u64 = 1 << 20;

/// From messages to bytes and back, without a socket.
pub struct Stream(Decoder);

impl Default for Stream {
    fn default() -> Self {
        Self(Decoder::new())
    }
}

impl Stream {
    /// The bytes of a frame; none if it cannot be encoded.
    pub fn encode(message: &Message) -> Vec<u8> {
        Frame::new(message, None).map(|frame| frame.bytes).unwrap_or_default()
    }

    /// What arrives is one whole frame; false if it is none.
    pub fn decode(&mut self, bytes: &[u8]) -> bool {
        let Some(space) = self.0.space().get_mut(..bytes.len()) else { return false };
        space.copy_from_slice(bytes);
        self.0.arrived(bytes.len(), Vec::new());
        matches!(self.0.next::<Message>(), Ok(Some(_)))
    }
}

/// The two ends of a stream, as a host and its child have them.
pub struct Sockets {
    outbox: Outbox,
    reader: Reader,
}

impl Sockets {
    /// A pair in this process.
    pub fn new() -> std::io::Result<Self> {
        let (ours, theirs) = pair()?;
        Ok(Self { outbox: Outbox::new(ours, LIMIT), reader: Reader::new(theirs) })
    }

    /// One message there; false if it does not arrive.
    pub fn pass(&mut self, message: &Message) -> bool {
        self.outbox.send(message, None).is_ok() && matches!(self.reader.next::<Message>(), Ok(Some(_)))
    }
}
