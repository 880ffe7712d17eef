//! What a processor refuses to do.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};

#[test]
fn division_by_zero() {
    Case::new(Fault::DivisionByZero, "SIGFPE", CrashReason::Signal, Bare::Dies(libc::SIGFPE)).show(this_test!());
}

#[test]
fn illegal_instruction() {
    Case::new(Fault::IllegalInstruction, "SIGILL", CrashReason::Signal, Bare::Dies(libc::SIGILL)).show(this_test!());
}
