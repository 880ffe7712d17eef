//! Models split over several files.

use serde::{Deserialize, Serialize};

use super::{Gguf, GgufError};

const NUMBER_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";

/// Which part of a split model a file is. Only part 0 carries the model's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Split {
    /// Number of this part, from 0 to `count - 1` (`split.no`). File names count from 1.
    pub number: u16,
    /// Number of parts, at least 2 (`split.count`).
    pub count: u16,
    /// Number of tensors in all parts together (`split.tensors.count`).
    pub tensors: u32,
}

impl Split {
    /// Reads the split keys. Their types are checked even where they don't matter, because llama.cpp asserts the type
    /// of `split.no`.
    pub(super) fn find(gguf: &Gguf) -> Result<Option<Self>, GgufError> {
        let number = gguf.typed::<u16>(NUMBER_KEY)?;
        let count = gguf.typed::<u16>(COUNT_KEY)?;
        let tensors = gguf.typed::<i32>(TENSORS_KEY)?;
        let count = match count {
            // Merging the parts of a split model leaves a count of 0.
            None | Some(0 | 1) => return Ok(None),
            Some(count) => count,
        };
        let number = number.ok_or_else(|| gguf.fault(NUMBER_KEY, "a part number", "no such key"))?;
        if number >= count {
            return Err(gguf.fault(NUMBER_KEY, format_args!("less than {count} parts"), number));
        }
        let tensors = tensors.ok_or_else(|| gguf.fault(TENSORS_KEY, "a count", "no such key"))?;
        let here = gguf.tensors().len();
        let tensors = u32::try_from(tensors)
            .ok()
            .filter(|&all| all as usize >= here)
            .ok_or_else(|| gguf.fault(TENSORS_KEY, format_args!("at least the {here} of this part"), tensors))?;
        Ok(Some(Self { number, count, tensors }))
    }
}
