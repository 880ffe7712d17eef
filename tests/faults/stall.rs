//! What does not go on, and is ended by the supervisor's watch over it.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};
use std::time::Duration;

/// Longer than anything else that a worker does, also beside other tests.
const LIMIT: Duration = Duration::from_secs(4);

fn case(fault: Fault) -> Case {
    Case {
        stall_limit: Some(LIMIT),
        ..Case::new(fault, "stall: its loop has not turned", CrashReason::Stall, Bare::Hangs)
    }
}

#[test]
fn endless_loop() {
    case(Fault::EndlessLoop).show(this_test!());
}

#[test]
fn endless_loop_on_a_compute_thread() {
    case(Fault::ComputeEndlessLoop).show(this_test!());
}

/// In the decode of its first piece.
#[test]
fn endless_prompt() {
    case(Fault::EndlessPrompt).show(this_test!());
}

#[test]
fn endless_tokeniser() {
    case(Fault::EndlessTokeniser).show(this_test!());
}
