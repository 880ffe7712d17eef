//! Memory faults.

use crate::case::{Bare, Case, this_test};
use llamapen::{CrashReason, Fault};

fn case(fault: Fault, message: &'static str) -> Case {
    Case::new(fault, message, CrashReason::Signal, Bare::Dies(libc::SIGSEGV))
}

#[test]
fn null_write() {
    case(Fault::NullWrite, "SIGSEGV (11), address 0x0,").show(this_test!());
}

#[test]
fn null_write_on_a_compute_thread() {
    case(Fault::ComputeNullWrite, "on a compute thread").show(this_test!());
}

/// To where nothing is.
#[test]
fn wild_write() {
    case(Fault::WildWrite, "SIGSEGV (11), address 0xdead0000000,").show(this_test!());
}

#[test]
fn wild_write_on_a_compute_thread() {
    case(Fault::ComputeWildWrite, "on a compute thread").show(this_test!());
}

#[test]
fn read_only_write() {
    case(Fault::ReadOnlyWrite, "SIGSEGV (11), address 0x7").show(this_test!());
}

#[test]
fn read_only_write_on_a_compute_thread() {
    case(Fault::ComputeReadOnlyWrite, "on a compute thread").show(this_test!());
}

/// To rearranged weights, or where this CPU has no kernels for such, to the mapped file. They stay as they are: the answers are
/// the same after it.
#[test]
fn weight_write() {
    case(Fault::WeightWrite, "SIGSEGV (11), address 0x7").show(this_test!());
}

#[test]
fn weight_write_to_the_mapped_file() {
    let case = case(Fault::WeightWrite, "SIGSEGV (11), address 0x7");
    Case { engine: case.engine.clone().with_repack(false), ..case }.show(this_test!());
}

#[test]
fn weight_write_where_the_file_was_read_into_memory() {
    let case = case(Fault::WeightWrite, "SIGSEGV (11), address 0x7");
    Case { engine: case.engine.clone().with_repack(false).with_mmap(false), ..case }.show(this_test!());
}

#[test]
fn weight_write_on_a_compute_thread() {
    case(Fault::ComputeWeightWrite, "on a compute thread").show(this_test!());
}
