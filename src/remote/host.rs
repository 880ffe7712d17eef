//! The host, as the worker in a child process sees it: what it does is told there.

use super::message::{Said, ToHost};
use crate::crash::CrashReason;
use crate::event::Event;
use crate::isolation::ipc::{Blob, Outlet};
use crate::isolation::thread::exit_now;
use crate::status::Status;
use crate::worker::{Measured, PlaceMemory, Snapshot, StartPhases};
use std::time::Duration;

/// Messages are kept until the loop turns: one system call per turn, and one wake-up of the host.
pub(crate) struct Host(Outlet);

impl Host {
    pub(super) fn new(outlet: Outlet) -> Self {
        Self(outlet)
    }

    pub(super) fn say(&self, message: &ToHost) {
        self.say_with(message, None);
    }

    fn say_with(&self, message: &ToHost, blob: Option<&Blob>) {
        // Nobody hears any more: the host is gone, or takes this child for dead. Nothing that it does matters.
        if self.0.send(message, blob).is_err() {
            exit_now(1);
        }
    }

    pub(super) fn say_now(&self, message: &ToHost) {
        self.say(message);
        self.flush();
    }

    fn flush(&self) {
        if self.0.flush().is_err() {
            exit_now(1);
        }
    }

    /// Bytes that need not be a message.
    #[cfg(feature = "fault-injection")]
    pub(super) fn write(&self, bytes: &[u8]) {
        let _ = self.0.write(bytes);
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn write_half(&self, message: &ToHost) {
        let _ = self.0.write_half(message);
    }

    /// The loop turned.
    pub(crate) fn beat(&self) {
        self.say_now(&ToHost::Beat);
    }

    pub(crate) fn kept(&self, positions: u64, stored: u64) {
        self.say(&ToHost::Kept(positions, stored));
    }

    pub(crate) fn memory(&self, places: Vec<PlaceMemory>) {
        self.say(&ToHost::Memory(places));
    }

    pub(crate) fn started(&self, phases: StartPhases) {
        self.say(&ToHost::Started(phases));
    }

    pub(crate) fn measured(&self, measured: Measured) {
        self.say(&ToHost::Measured(measured));
    }

    pub(super) fn step(&self, micros: Option<u64>) {
        self.say_now(&ToHost::Step(micros));
    }

    pub(crate) fn decoded(&self, tokens: usize, took: Duration) {
        self.say(&ToHost::Decoded { tokens: count(tokens), micros: micros(took) });
    }

    pub(crate) fn decode_failed(&self) {
        self.say(&ToHost::DecodeFailed);
    }

    pub(crate) fn event(&self, id: u64, run: u32, event: Event) {
        let mut logits = None;
        let event = match event {
            Event::Started(started) => Said::Started(started),
            Event::Token(mut token) => {
                logits = token.logits.take();
                Said::Token(token)
            }
            Event::Finished(finished) => Said::Finished(finished),
            Event::Failed(failed) => Said::Failed(failed),
            // Only a supervisor restarts.
            Event::Restarted(_) => return,
        };
        let logits = logits.map(|logits| Blob::new(to_bytes(&logits))).transpose();
        match logits {
            Ok(logits) => self.say_with(&ToHost::Event { id, run, event }, logits.as_ref()),
            Err(error) => self.say_now(&ToHost::Died {
                reason: CrashReason::HostOutOfMemory,
                status: Status::OutOfMemory,
                message: format!("no memory for the logits of a token: {error}"),
            }),
        }
    }

    pub(crate) fn drafted(&self, id: u64, tokens: u32, accepted: u32) {
        self.say(&ToHost::Drafted { id, tokens, accepted });
    }

    pub(crate) fn caught_up(&self, id: u64, tokens: u32, took: Duration) {
        self.say(&ToHost::CaughtUp { id, tokens, micros: micros(took) });
    }

    /// A snapshot; gives its memory, for the next one.
    pub(crate) fn saved(&self, id: u64, run: u32, snapshot: Snapshot) -> Vec<u8> {
        let (head, state) = snapshot.into_parts();
        match Blob::from_slice(&state) {
            Ok(blob) => self.say_with(&ToHost::Saved { id, run, head }, Some(&blob)),
            // The request keeps its last one.
            Err(error) => tracing::warn!(%error, request = id, "a snapshot was not taken"),
        }
        state
    }

    pub(crate) fn resumed(&self, id: u64, run: u32) {
        self.say(&ToHost::Resumed { id, run });
    }

    pub(crate) fn freed(&self, id: u64) {
        self.say(&ToHost::Freed { id });
    }
}

fn to_bytes(logits: &[f32]) -> Vec<u8> {
    logits.iter().flat_map(|logit| logit.to_ne_bytes()).collect()
}

/// What [`to_bytes`] made; `None` where it did not.
pub(super) fn from_bytes(bytes: &[u8]) -> Option<Vec<f32>> {
    let (logits, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| logits.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect())
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
