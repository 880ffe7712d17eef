//! What each kind of fault comes to: one test per kind and per thread that raises it, each in a process of its own, which
//! would die of it without the pen: that is tried, too. docs/containment.md is the table of them. Needs the
//! `fault-injection` feature.
#![cfg(feature = "fault-injection")]

mod abort;
mod arithmetic;
mod case;
mod exception;
mod exhaustion;
mod host;
mod load;
mod memory;
mod neighbours;
mod panic;
mod reload;
mod stack;
mod stall;
#[path = "../support/mod.rs"]
mod support;
mod taint;
mod workers;
