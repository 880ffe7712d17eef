//! The machine.

use super::border::{give_text, guard};
use super::error::llamapen_error;
use crate::device::Devices;
use crate::machine::MachineSnapshot;
use std::ffi::c_char;

/// The stable facts of this machine, as far as this process may use it, as JSON: CPUs, memory and limits in bytes
/// (null: none, or unknown), "cpu_features", "cpu_level" (which CPU kernels of this library run there; only of one that has
/// several), and "devices" as llamapen_devices gives them. Equal machines give equal
/// bytes. It can be kept, changed, and given to llamapen_prepare_with as "machine". Freed with llamapen_string_free.
///
/// with_devices: not 0 asks the GPU driver, in a build that can use GPUs. After that a child made by fork cannot use
/// CUDA. 0 leaves the driver alone: its state is "not_asked".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_machine(
    with_devices: i32,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        let machine = if with_devices == 0 { MachineSnapshot::observe_host() } else { MachineSnapshot::observe() };
        Ok(machine.to_json())
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, make)) }
}

/// The GPUs that this process sees, as JSON: "driver" ({"state": "present", "absent" or "failed", ...}), "devices"
/// ([{"index", "name", "total_bytes", ...}]) and "broken" (those that are there but do not answer, and why). Asks NVIDIA's
/// driver in any build, without a context: no device memory is taken, but a child made by fork afterwards cannot use
/// CUDA. No driver is no error. Freed with llamapen_string_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_devices(json: *mut *mut c_char, error: *mut *mut llamapen_error) -> i32 {
    let make = || Ok(serde_json::to_string(&Devices::discover()).expect("plain data"));
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, make)) }
}
