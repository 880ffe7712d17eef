//! A worker in a process of its own: the child that runs it, its stand-in in the host, and what the two say to each other.
//!
//! The child runs the same loop as a worker of the thread tier, with a queue, requests and a state of its own, that tell the
//! host instead of being looked at (`Host`). The stand-in takes requests from the host's queue as the loop would, and does to
//! them and to the worker's state what the child says.

#[cfg(feature = "benches")]
pub(crate) mod bench;
mod child;
mod ending;
#[cfg(feature = "fault-injection")]
mod fault;
mod hearing;
mod host;
mod link;
mod log;
mod message;
mod stand_in;

pub(crate) use child::main as child_main;
pub(crate) use host::Host;
pub(crate) use link::Link;
pub(crate) use stand_in::{Handle, Heard, Remote, Seat};
