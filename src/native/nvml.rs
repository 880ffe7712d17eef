//! NVIDIA's management library, asked how much memory is free: the driver tells that only to who has a context.

use crate::device::Devices;

/// Bytes that are free now on the devices of these indices; `None` where nobody tells.
#[cfg(feature = "cuda")]
pub(crate) fn free_on_gpus(indices: &[u32], devices: &Devices) -> Vec<Option<u64>> {
    // The name that its ABI has: without the number it is the toolkit's stub, or missing.
    let library = std::ffi::OsStr::new("libnvidia-ml.so.1");
    let nvml = nvml_wrapper::Nvml::builder().lib_path(library).init().ok();
    let free = |index: &u32| {
        let device = nvml.as_ref()?.device_by_uuid(devices.get(*index)?.uuid.as_deref()?).ok()?;
        Some(device.memory_info().ok()?.free)
    };
    indices.iter().map(free).collect()
}

/// Without `cuda` no plan has devices.
#[cfg(not(feature = "cuda"))]
pub(crate) fn free_on_gpus(indices: &[u32], _: &Devices) -> Vec<Option<u64>> {
    vec![None; indices.len()]
}
