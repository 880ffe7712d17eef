//! GPU or CPU: a choice with a reason, never an accident.

use super::{DeviceMask, Devices, select};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeviceDecision {
    /// Indices of the GPUs, the main one first. Empty: the CPU.
    pub devices: Vec<u32>,
    /// Why, for people.
    pub reason: String,
}

/// Decides where to run: `require_gpu` and `mask` are the caller's wish, the rest is what there is.
///
/// Without a wish it is the GPUs where this build and this machine have them, else the CPU; devices named in the mask, and
/// `require_gpu`, are a must.
///
/// # Errors
/// `InvalidParams` where wishes contradict each other or a device is not there, `Unsupported` where a GPU is a must and
/// this build has no CUDA, `DeviceError` where it is a must and cannot be used. Never the CPU, or another GPU, instead.
pub fn decide(require_gpu: bool, mask: &DeviceMask, devices: &Devices, build_has_cuda: bool) -> Result<DeviceDecision> {
    let named = matches!(mask, DeviceMask::Indices(_));
    let cpu = |reason: String| Ok(DeviceDecision { devices: vec![], reason });
    if *mask == DeviceMask::None {
        return match require_gpu {
            true => Err(Error::invalid("devices", "\"none\" contradicts require_gpu")),
            false => cpu("the CPU: the devices are \"none\"".into()),
        };
    }
    let must = match (named, require_gpu) {
        (true, _) => format!("devices {mask} are asked for"),
        (false, true) => "a GPU is required".into(),
        (false, false) => String::new(),
    };
    if !build_has_cuda {
        return match must.is_empty() {
            true => cpu("the CPU: this build has no CUDA".into()),
            false => Err(Error::Unsupported(format!(
                "{must}, but this build has no CUDA; use a build with it, or ask for the CPU: devices \"none\" without \
                 require_gpu"
            ))),
        };
    }
    // An index that is not there, beside some that are, is the caller's mistake and told apart from a failing driver.
    if let Some(why) = devices.unusable().filter(|_| !named || devices.devices.is_empty()) {
        return match must.is_empty() {
            true => cpu(format!("the CPU: {why}")),
            false => Err(Error::device(format!("{must}, but {why}"))),
        };
    }
    let chosen = select(mask, devices)?;
    let names: Vec<_> = chosen.iter().map(|index| format!("GPU{index}")).collect();
    let why = match (named, devices.left_out()) {
        (true, _) => "as asked for".into(),
        (false, left_out) if left_out.is_empty() => "every device".into(),
        (false, left_out) => format!("every usable device; not {left_out}"),
    };
    Ok(DeviceDecision { devices: chosen, reason: format!("{}: {why}", names.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::{mask, two};
    use crate::device::{BrokenDevice, ComputeMode, DeviceInfo};
    use crate::status::Status;
    use proptest::prelude::*;

    fn prohibited() -> Devices {
        let device = DeviceInfo::new(0, "A", 1).with_compute_mode(ComputeMode::Prohibited);
        Devices::present(13000, vec![device])
    }

    #[test]
    fn every_case() {
        use Status::{DeviceError, InvalidParams, Unsupported};
        let absent = || Devices::absent("libcuda.so.1 was not found");
        let failed = || Devices::failed(803, "cuInit: mismatch");
        let lost = || {
            let mut devices = two();
            devices.broken.push(BrokenDevice::new(2, 46, "fell off the bus".into()));
            devices
        };
        let empty = || Devices::present(13000, vec![]);
        type Expected = std::result::Result<(&'static [u32], &'static str), (Status, &'static str)>;
        let cases: Vec<(bool, &str, Devices, bool, Expected)> = vec![
            (false, "auto", two(), true, Ok((&[0, 1], "GPU0, GPU1: every device"))),
            (false, "1,0", two(), true, Ok((&[1, 0], "GPU1, GPU0: as asked for"))),
            (false, "auto", two(), false, Ok((&[], "this build has no CUDA"))),
            (false, "auto", absent(), true, Ok((&[], "libcuda.so.1 was not found"))),
            (false, "auto", failed(), true, Ok((&[], "cuInit: mismatch"))),
            (false, "auto", empty(), true, Ok((&[], "sees no device"))),
            (false, "auto", prohibited(), true, Ok((&[], "prohibits"))),
            (false, "auto", Devices::default(), true, Ok((&[], "not asked"))),
            (false, "none", two(), true, Ok((&[], "\"none\""))),
            (false, "auto", lost(), true, Ok((&[0, 1], "every usable device; not GPU2: fell off the bus"))),
            // No silent spill: what is named is a must, whatever the policy.
            (false, "0", two(), false, Err((Unsupported, "no CUDA"))),
            (false, "0", absent(), true, Err((DeviceError, "libcuda.so.1 was not found"))),
            (false, "0", failed(), true, Err((DeviceError, "mismatch"))),
            (false, "0", prohibited(), true, Err((DeviceError, "prohibits"))),
            (false, "0,5", two(), true, Err((InvalidParams, "no GPU5"))),
            (false, "5", prohibited(), true, Err((InvalidParams, "no GPU5"))),
            (true, "auto", two(), true, Ok((&[0, 1], "GPU0, GPU1: every device"))),
            (true, "1", two(), true, Ok((&[1], "as asked for"))),
            (true, "auto", two(), false, Err((Unsupported, "no CUDA"))),
            (true, "auto", absent(), true, Err((DeviceError, "libcuda.so.1 was not found"))),
            (true, "auto", failed(), true, Err((DeviceError, "mismatch"))),
            (true, "auto", empty(), true, Err((DeviceError, "sees no device"))),
            (true, "auto", prohibited(), true, Err((DeviceError, "prohibits"))),
            (true, "none", two(), true, Err((InvalidParams, "contradicts"))),
        ];
        for (require, text, devices, cuda, expected) in cases {
            let found = decide(require, &mask(text), &devices, cuda);
            let case = format!("{require} {text} {devices:?} cuda={cuda}: {found:?}");
            match (found, expected) {
                (Ok(found), Ok((indices, part))) => {
                    assert_eq!(found.devices, indices, "{case}");
                    assert!(found.reason.contains(part), "{case}");
                }
                (Err(error), Err((status, part))) => {
                    assert_eq!(error.status(), status, "{case}");
                    assert!(error.to_string().contains(part), "{case}");
                }
                _ => panic!("{case}"),
            }
        }
    }

    proptest! {
        /// Whatever there is: with a must, the answer is exactly what was asked for, or an error.
        #[test]
        fn a_must_is_never_answered_with_the_cpu(
            count in 0u32..4, named in prop::collection::vec(0u32..5, 0..3), require: bool, cuda: bool, present: bool,
        ) {
            let all: Vec<_> = (0..count).map(|i| DeviceInfo::new(i, "x", 1)).collect();
            let devices = if present { Devices::present(13000, all) } else { Devices::absent("x") };
            let mask = if named.is_empty() { DeviceMask::Auto } else { DeviceMask::Indices(named.clone()) };
            if let Ok(found) = decide(require, &mask, &devices, cuda) {
                if !named.is_empty() {
                    prop_assert_eq!(&found.devices, &named);
                }
                prop_assert!(!require || !found.devices.is_empty());
                prop_assert!(cuda || found.devices.is_empty());
            }
        }
    }
}
