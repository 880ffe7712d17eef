//! A recursion without end.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};

fn case(fault: Fault, message: &'static str) -> Case {
    Case::new(fault, message, CrashReason::Signal, Bare::Dies(libc::SIGSEGV))
}

#[test]
fn stack_overflow() {
    case(Fault::StackOverflow, "SIGSEGV").show(this_test!());
}

#[test]
fn stack_overflow_on_a_compute_thread() {
    case(Fault::ComputeStackOverflow, "on a compute thread").show(this_test!());
}
