//! What a processor refuses to do.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};

fn division(fault: Fault, message: &'static str) -> Case {
    Case::new(fault, message, CrashReason::Signal, Bare::Dies(libc::SIGFPE))
}

fn illegal(fault: Fault, message: &'static str) -> Case {
    Case::new(fault, message, CrashReason::Signal, Bare::Dies(libc::SIGILL))
}

#[test]
fn division_by_zero() {
    division(Fault::DivisionByZero, "SIGFPE").show(this_test!());
}

#[test]
fn division_by_zero_on_a_compute_thread() {
    division(Fault::ComputeDivisionByZero, "on a compute thread").show(this_test!());
}

#[test]
fn illegal_instruction() {
    illegal(Fault::IllegalInstruction, "SIGILL").show(this_test!());
}

#[test]
fn illegal_instruction_on_a_compute_thread() {
    illegal(Fault::ComputeIllegalInstruction, "on a compute thread").show(this_test!());
}
