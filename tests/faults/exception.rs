//! C++ exceptions.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};

fn case(fault: Fault, message: &'static str, bare: Bare) -> Case {
    Case::new(fault, message, CrashReason::CppException, bare)
}

/// Where no graph is computed: it is caught, and nothing else needed.
#[test]
fn out_of_the_shim() {
    case(Fault::CppException, "injected C++ exception", Bare::Contained).show(this_test!());
}

/// Out of a filter in a chain of llama.cpp's.
#[test]
fn out_of_the_sampler() {
    case(Fault::SamplerException, "injected C++ exception", Bare::Contained).show(this_test!());
}

/// Where other threads wait for the one that throws.
#[test]
fn out_of_a_graph() {
    case(Fault::Exception, "injected C++ exception", Bare::Hangs).show(this_test!());
}

#[test]
fn out_of_a_graph_on_a_compute_thread() {
    let message = "injected C++ exception, on a compute thread";
    case(Fault::ComputeException, message, Bare::Dies(libc::SIGABRT)).show(this_test!());
}
