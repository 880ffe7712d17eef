//! Element types of the KV cache.

use crate::error::{Error, Result};
use crate::model::GgmlType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Element type of the keys or the values in the KV cache, by llama.cpp's names.
///
/// They are ordered from the widest to the narrowest. Smaller types save memory and cost accuracy; values (not keys) of other types than F32, F16 and BF16 need flash
/// attention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "these are the names everyone knows the types by")]
pub enum KvType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point. The default.
    #[default]
    F16,
    /// 16-bit floating point with the range of F32.
    BF16,
    /// 8 bits in blocks of 32.
    Q8_0,
    /// 5 bits in blocks of 32, scale and minimum.
    Q5_1,
    /// 5 bits in blocks of 32.
    Q5_0,
    /// 4 bits in blocks of 32, scale and minimum.
    Q4_1,
    /// 4 bits in blocks of 32.
    Q4_0,
    /// 4 bits in blocks of 32, on a non-linear scale.
    IQ4_NL,
}

impl KvType {
    /// All of them, the widest first.
    pub const ALL: [Self; 9] =
        [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q5_1, Self::Q5_0, Self::Q4_1, Self::Q4_0, Self::IQ4_NL];

    /// The name, such as `q8_0`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
            Self::IQ4_NL => "iq4_nl",
        }
    }

    /// The same as a tensor type.
    #[must_use]
    pub const fn ggml(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::BF16 => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q5_1 => GgmlType::Q5_1,
            Self::Q5_0 => GgmlType::Q5_0,
            Self::Q4_1 => GgmlType::Q4_1,
            Self::Q4_0 => GgmlType::Q4_0,
            Self::IQ4_NL => GgmlType::IQ4_NL,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            Error::invalid("kv type", format!("{text:?} is none of {}", names.join(", ")))
        })
    }
}

impl TryFrom<String> for KvType {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<KvType> for &'static str {
    fn from(kind: KvType) -> Self {
        kind.name()
    }
}
