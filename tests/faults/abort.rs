//! `GGML_ASSERT` and `GGML_ABORT`.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};

fn case(fault: Fault, message: &'static str) -> Case {
    Case::new(fault, message, CrashReason::Abort, Bare::Dies(libc::SIGABRT))
}

#[test]
fn abort() {
    case(Fault::Abort, "injected abort").show(this_test!());
}

#[test]
fn abort_on_a_compute_thread() {
    case(Fault::ComputeAbort, "injected abort, on a compute thread").show(this_test!());
}
