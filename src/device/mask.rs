//! Which devices a caller names.

use super::{DeviceInfo, Devices};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Devices that may be used: `auto`, `none`, or indices.
///
/// Reads, in any case and with spaces: `0,1`, `GPU0,GPU1`, `cuda:0,CUDA1`; `none` or `cpu`; `auto` or `all`. Written
/// in one form: `auto`, `none`, `0,1`. The order of indices is kept: the first is the main device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum DeviceMask {
    /// Every usable device.
    #[default]
    Auto,
    /// No device: the CPU.
    None,
    /// These devices, each once, at least one.
    Indices(Vec<u32>),
}

impl FromStr for DeviceMask {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |problem: String| Error::invalid("devices", problem);
        let forms = r#"write "auto", "none", or indices such as "0,1" or "GPU0,GPU1""#;
        match text.trim().to_ascii_lowercase().as_str() {
            "" => return Err(invalid(format!("is empty; {forms}"))),
            "auto" | "all" => return Ok(Self::Auto),
            "none" | "cpu" => return Ok(Self::None),
            _ => {}
        }
        let mut indices = vec![];
        for part in text.split(',') {
            let index = index(part.trim()).ok_or_else(|| invalid(format!("{part:?} is no device; {forms}")))?;
            if indices.contains(&index) {
                return Err(invalid(format!("device {index} is named twice in {text:?}")));
            }
            indices.push(index);
        }
        Ok(Self::Indices(indices))
    }
}

fn index(name: &str) -> Option<u32> {
    let name = name.to_ascii_lowercase();
    let digits = ["cuda:", "gpu:", "cuda", "gpu"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
    // Not parse alone: that takes a sign.
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl fmt::Display for DeviceMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Indices(indices) => f.write_str(&list(indices, "", ",")),
        }
    }
}

impl TryFrom<String> for DeviceMask {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DeviceMask> for String {
    fn from(mask: DeviceMask) -> Self {
        mask.to_string()
    }
}

/// The indices that `mask` means on a machine with these `devices`.
///
/// # Errors
/// `InvalidParams` for an index that is not there, naming those that are; `DeviceError` for one that is there but cannot
/// be used. Never another device instead.
pub fn select(mask: &DeviceMask, devices: &Devices) -> Result<Vec<u32>> {
    let indices = match mask {
        DeviceMask::Auto => return Ok(devices.usable().map(|d| d.index).collect()),
        DeviceMask::None => return Ok(vec![]),
        // Made by hand, it has not been through the parser.
        DeviceMask::Indices(indices) => match list(indices, "", ",").parse()? {
            DeviceMask::Indices(indices) => indices,
            _ => return Err(Error::invalid("devices", "no index is named")),
        },
    };
    for &index in &indices {
        let why = devices.broken.iter().find(|d| d.index == index).map(|d| d.reason.as_str());
        match (devices.get(index).map(DeviceInfo::unusable), why) {
            (Some(None), _) => {}
            (Some(Some(why)), _) | (None, Some(why)) => {
                return Err(Error::device(format!("GPU{index} is there but cannot be used: {why}")));
            }
            (None, None) => {
                let there: Vec<_> = devices.devices.iter().map(|d| d.index).collect();
                let there = match there.is_empty() {
                    true => "this machine has no GPU that this process sees".into(),
                    false => format!("this process sees {}", list(&there, "GPU", ", ")),
                };
                return Err(Error::invalid("devices", format!("there is no GPU{index}: {there}")));
            }
        }
    }
    Ok(indices)
}

fn list(indices: &[u32], prefix: &str, separator: &str) -> String {
    indices.iter().map(|index| format!("{prefix}{index}")).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::{mask, two};
    use crate::device::{BrokenDevice, ComputeMode};
    use crate::status::Status;
    use proptest::prelude::*;

    #[test]
    fn every_way_of_writing_has_one_form() {
        for (text, form) in [
            ("0,1", "0,1"),
            ("GPU0,GPU1", "0,1"),
            (" gpu1 , cuda:0 ", "1,0"),
            ("CUDA0,2", "0,2"),
            ("007", "7"),
            ("None", "none"),
            ("cpu", "none"),
            ("ALL", "auto"),
            (" auto ", "auto"),
        ] {
            assert_eq!(mask(text).to_string(), form, "{text:?}");
            assert_eq!(mask(form).to_string(), form);
        }
    }

    #[test]
    fn what_is_no_mask_is_refused_with_a_reason() {
        for (text, part) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("0,,1", "\"\" is no device"),
            ("0,", "\"\" is no device"),
            ("-1", "\"-1\" is no device"),
            ("+1", "\"+1\" is no device"),
            ("GPU", "\"GPU\" is no device"),
            ("0,none", "\"none\" is no device"),
            ("vulkan0", "is no device"),
            ("99999999999", "is no device"),
            ("0,GPU0", "device 0 is named twice"),
        ] {
            let error = text.parse::<DeviceMask>().unwrap_err();
            assert_eq!(error.status(), Status::InvalidParams);
            assert!(error.to_string().contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn is_a_string_in_json() {
        assert_eq!(serde_json::to_string(&mask("GPU1,GPU0")).unwrap(), r#""1,0""#);
        assert_eq!(serde_json::from_str::<DeviceMask>(r#""cuda:3""#).unwrap(), mask("3"));
        let error = serde_json::from_str::<DeviceMask>(r#""0,0""#).unwrap_err();
        assert!(error.to_string().contains("named twice"), "{error}");
    }

    #[test]
    fn only_what_is_there_is_selected() {
        assert_eq!(select(&mask("auto"), &two()).unwrap(), [0, 1]);
        assert_eq!(select(&mask("1,0"), &two()).unwrap(), [1, 0]);
        assert!(select(&mask("none"), &two()).unwrap().is_empty());
        let error = select(&mask("0,2"), &two()).unwrap_err();
        assert_eq!(error.status(), Status::InvalidParams);
        assert_eq!(error.to_string(), "devices: there is no GPU2: this process sees GPU0, GPU1");
        let error = select(&mask("0"), &Devices::absent("x")).unwrap_err();
        assert!(error.to_string().contains("no GPU that this process sees"), "{error}");
        for by_hand in [vec![], vec![1, 1]] {
            assert!(select(&DeviceMask::Indices(by_hand), &two()).is_err());
        }
    }

    #[test]
    fn what_is_there_but_unusable_is_refused_by_its_reason_and_left_out_of_auto() {
        let mut devices = two();
        devices.devices[0].compute_mode = ComputeMode::Prohibited;
        devices.broken = vec![BrokenDevice::new(2, 46, "gone".into())];
        assert_eq!(select(&mask("auto"), &devices).unwrap(), [1]);
        for (text, part) in [("0", "prohibits"), ("2", "gone")] {
            let error = select(&mask(text), &devices).unwrap_err();
            assert_eq!(error.status(), Status::DeviceError);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_back_the_same(text in "[ ,:0-9a-zA-Z+é-]{0,20}") {
            if let Ok(mask) = text.parse::<DeviceMask>() {
                prop_assert_eq!(mask.to_string().parse::<DeviceMask>().unwrap(), mask);
            }
        }

        #[test]
        fn any_distinct_indices_round_trip(set in prop::collection::hash_set(any::<u32>(), 1..9)) {
            let mask = DeviceMask::Indices(set.into_iter().collect());
            prop_assert_eq!(mask.to_string().parse::<DeviceMask>().unwrap(), mask);
        }
    }
}
