//! What does not go on, and is ended by the supervisor's watch over it.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};
use std::time::Duration;

/// Longer than anything else that a worker does, also beside other tests.
const LIMIT: Duration = Duration::from_secs(4);

fn case(fault: Fault) -> Case {
    Case { stall_limit: Some(LIMIT), ..Case::new(fault, "stall", CrashReason::Stall, Bare::Hangs) }
}

#[test]
fn endless_loop() {
    case(Fault::EndlessLoop).show(this_test!());
}
