//! GPUs: which there are, which to use, and what goes where. Plain values and pure functions.
//!
//! # What asking the driver does
//! [`Devices::discover`], and in a build with CUDA [`MachineSnapshot::observe`](crate::MachineSnapshot::observe) and so
//! [`prepare`](crate::prepare()), ask NVIDIA's driver over its driver API: `cuInit`,
//! counts, names, sizes and attributes. No context is created, so no device memory is taken and nothing can run on a
//! device. On a host without `libcuda.so.1` that is one failed look for a file and leaves nothing behind.
//!
//! Where there is a driver, `cuInit` is NVIDIA's code and does, in this process, what it does. It is excepted from the
//! rule that preparing does nothing:
//! * the driver library and what it links stay mapped until the process ends;
//! * it opens `/dev/nvidiactl`, `/dev/nvidia-uvm` and the `/dev/nvidia<N>` of the visible devices, reads files below
//!   `/proc` and `/sys`, and keeps descriptors; where the device nodes do not exist yet it may run `nvidia-modprobe`;
//! * without the persistence daemon the first call waits until the kernel module has woken the devices: up to seconds;
//! * `CUDA_VISIBLE_DEVICES` is read, and a later change of it is ignored;
//! * **a child made by `fork` afterwards cannot use CUDA** (`CUDA_ERROR_NOT_INITIALIZED`), and knows no way back. That is
//!   why PyTorch counts devices with NVML instead ("poison fork" in its documentation);
//! * it may start threads. Those that are known belong to contexts, which are not created here.
//!
//! That list is what is publicly known; it has not been measured by this project, whose tests make the same calls to a
//! stand-in for the driver. A host that forks and uses CUDA in the children calls
//! [`MachineSnapshot::observe_host`](crate::MachineSnapshot::observe_host), which leaves the driver alone.
//!
//! `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` are the driver's own business: hidden devices do not appear, and indices
//! count what is visible, in that order. Free memory per device is not among the facts: it changes, and the driver API
//! tells it to contexts only.

mod mask;
mod policy;
mod split;

pub use mask::{DeviceMask, select};
pub use policy::{DeviceDecision, decide};
pub use split::{DeviceRoom, DeviceShare, LayerSplit, SplitRatios, split_layers};

use serde::{Deserialize, Serialize};

/// Something that knows which devices there are: NVIDIA's driver, or a stand-in for it.
pub(crate) trait Driver {
    /// Looks for devices, without creating a context. Never fails: what went wrong is in the answer.
    fn discover(&self) -> Devices;
}

/// For whoever does not want the driver to be asked.
pub(crate) struct NotAsked;

impl Driver for NotAsked {
    fn discover(&self) -> Devices {
        Devices::default()
    }
}

/// The GPUs of a machine, as its driver tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Devices {
    /// Whether there is a driver.
    pub driver: DriverState,
    /// The devices that answered, by index.
    pub devices: Vec<DeviceInfo>,
    /// Devices that are there but did not answer, such as one that fell off the bus.
    pub broken: Vec<BrokenDevice>,
}

/// What became of asking the driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum DriverState {
    /// Nobody asked.
    #[default]
    NotAsked,
    /// There is no usable driver library.
    Absent {
        /// What the loader said.
        reason: String,
    },
    /// There is a driver library, but it refuses to work.
    Failed {
        /// `CUresult` as a number.
        code: u32,
        /// The call, the name of the error, what it means and what to do.
        reason: String,
    },
    /// There is a working driver.
    Present {
        /// Newest CUDA version it runs, 1000 · major + 10 · minor: 13000 is CUDA 13.0.
        version: u32,
    },
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Index among the devices that this process sees.
    pub index: u32,
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Such as `GPU-0123abcd-…`, or `MIG-…` for a slice of one. Old drivers do not tell.
    pub uuid: Option<String>,
    /// Such as `0000:3b:00.0`.
    pub pci_bus_id: Option<String>,
    /// Memory in bytes, before anybody took of it.
    pub total_bytes: u64,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Whether it shares the host's memory.
    pub integrated: bool,
    /// Whether error correction is on.
    pub ecc: Option<bool>,
    /// Whether it is a slice of a GPU (multi-instance GPU). Told by the driver's two kinds of UUID, where it has both.
    pub mig: Option<bool>,
    /// Who may use it.
    pub compute_mode: ComputeMode,
}

/// Who may create contexts on a device: `nvidia-smi -c`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ComputeMode {
    /// Any number of processes.
    #[default]
    Shared,
    /// One process at a time.
    ExclusiveProcess,
    /// Nobody.
    Prohibited,
}

/// A device that is there but cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BrokenDevice {
    /// Index among the devices that this process sees.
    pub index: u32,
    /// `CUresult` as a number.
    pub code: u32,
    /// The call, the name of the error, what it means and what to do.
    pub reason: String,
}

impl DeviceInfo {
    /// A device with this index, name and memory in bytes, for planning on machines that are not there.
    pub fn new(index: u32, name: impl Into<String>, total_bytes: u64) -> Self {
        Self {
            index,
            name: name.into(),
            uuid: None,
            pci_bus_id: None,
            total_bytes,
            compute_capability: (0, 0),
            multiprocessors: 0,
            integrated: false,
            ecc: None,
            mig: None,
            compute_mode: ComputeMode::Shared,
        }
    }

    /// Sets [`compute_capability`](Self::compute_capability).
    #[must_use]
    pub fn with_compute_capability(mut self, major: u32, minor: u32) -> Self {
        self.compute_capability = (major, minor);
        self
    }

    /// Sets [`compute_mode`](Self::compute_mode).
    #[must_use]
    pub fn with_compute_mode(mut self, mode: ComputeMode) -> Self {
        self.compute_mode = mode;
        self
    }

    /// Why nothing can run on it, if so.
    #[must_use]
    pub fn unusable(&self) -> Option<&'static str> {
        match self.compute_mode {
            ComputeMode::Prohibited => Some("its compute mode prohibits it (nvidia-smi -c DEFAULT allows it)"),
            _ if self.total_bytes == 0 => Some("it has no memory"),
            _ => None,
        }
    }
}

impl BrokenDevice {
    pub(crate) fn new(index: u32, code: u32, reason: String) -> Self {
        Self { index, code, reason }
    }
}

impl Devices {
    /// Asks NVIDIA's driver, without creating a context; [what that does](self#what-asking-the-driver-does).
    #[must_use]
    pub fn discover() -> Self {
        crate::native::CudaDriver.discover()
    }

    /// A working driver for CUDA `version` (13000 is 13.0) with these devices.
    #[must_use]
    pub fn present(version: u32, devices: Vec<DeviceInfo>) -> Self {
        Self { driver: DriverState::Present { version }, devices, broken: vec![] }
    }

    /// No driver, and why.
    pub fn absent(reason: impl Into<String>) -> Self {
        Self { driver: DriverState::Absent { reason: reason.into() }, ..Self::default() }
    }

    /// A driver that refuses: its `CUresult` and what that means.
    pub fn failed(code: u32, reason: impl Into<String>) -> Self {
        Self { driver: DriverState::Failed { code, reason: reason.into() }, ..Self::default() }
    }

    /// The device with this index.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&DeviceInfo> {
        self.devices.iter().find(|device| device.index == index)
    }

    /// Those that something can run on.
    pub fn usable(&self) -> impl Iterator<Item = &DeviceInfo> {
        self.devices.iter().filter(|device| device.unusable().is_none())
    }

    /// Why nothing can run on any device, or `None` where something can.
    #[must_use]
    pub fn unusable(&self) -> Option<String> {
        match &self.driver {
            DriverState::NotAsked => Some("the driver was not asked".into()),
            DriverState::Absent { reason } => Some(format!("no NVIDIA driver: {reason}")),
            DriverState::Failed { reason, .. } => Some(format!("the NVIDIA driver does not work: {reason}")),
            DriverState::Present { .. } if self.usable().next().is_some() => None,
            DriverState::Present { .. } => Some(match self.left_out() {
                why if why.is_empty() => "the NVIDIA driver sees no device; is CUDA_VISIBLE_DEVICES set?".into(),
                why => format!("no usable device: {why}"),
            }),
        }
    }

    /// Devices on which nothing can run, and why: `GPU1: …; GPU2: …`. Empty where there are none.
    pub(crate) fn left_out(&self) -> String {
        let unusable = self.devices.iter().filter_map(|d| Some((d.index, d.unusable()?)));
        let broken = self.broken.iter().map(|d| (d.index, d.reason.as_str()));
        unusable.chain(broken).map(|(index, why)| format!("GPU{index}: {why}")).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask that a text spells.
    pub(super) fn mask(text: &str) -> DeviceMask {
        text.parse().unwrap()
    }

    /// Two devices.
    pub(super) fn two() -> Devices {
        Devices::present(13000, vec![DeviceInfo::new(0, "A", 1), DeviceInfo::new(1, "B", 1)])
    }
}
