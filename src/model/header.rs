//! A model's header as a whole: the parts it was read from, and what they mean together.

use super::gguf::{Array, Gguf, GgufError, TensorInfo, Value};
use super::info::ModelInfo;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The header of one model: of its file, or of all files that it is split over.
#[derive(Debug, Clone)]
pub struct Header {
    parts: Vec<Gguf>,
    info: ModelInfo,
    /// Part and place in that part's list, by name.
    tensors: HashMap<String, (usize, usize)>,
}

impl Header {
    /// Reads and checks the headers of the files of one model, in order.
    ///
    /// # Errors
    /// With the path of the file that is at fault.
    pub fn open<P: AsRef<Path>>(files: &[P]) -> Result<Self, (PathBuf, GgufError)> {
        let path = |file: &P| file.as_ref().to_owned();
        let read = |file: &P| Gguf::open(file.as_ref()).map_err(|e| (path(file), e));
        let parts = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Self::from_parts(parts).map_err(|e| (files.first().map(path).unwrap_or_default(), e))
    }

    /// The same for headers that were read already.
    pub fn from_parts(parts: Vec<Gguf>) -> Result<Self, GgufError> {
        let info = ModelInfo::from_parts(&parts)?;
        let places = parts.iter().enumerate().flat_map(|(part, gguf)| {
            gguf.tensors().iter().enumerate().map(move |(place, tensor)| (tensor.name.clone(), (part, place)))
        });
        let tensors = places.collect();
        Ok(Self { parts, info, tensors })
    }

    /// What it says.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The headers of its files, in order.
    #[must_use]
    pub fn parts(&self) -> &[Gguf] {
        &self.parts
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.parts.iter().flat_map(Gguf::tensors)
    }

    /// The tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let &(part, place) = self.tensors.get(name)?;
        self.parts.get(part)?.tensors().get(place)
    }

    /// A number among the architecture's own keys, such as `attention.key_length`.
    #[must_use]
    pub fn u32(&self, suffix: &str) -> Option<u32> {
        match self.own(suffix)? {
            &Value::U32(number) => Some(number),
            _ => None,
        }
    }

    /// Attention heads of a layer; 0 where there are none.
    #[must_use]
    pub fn heads(&self, layer: u32) -> u32 {
        let index = layer as usize;
        match self.own("attention.head_count") {
            Some(&Value::U32(heads)) => heads,
            Some(Value::Array(Array::U32(heads))) => heads.get(index).copied().unwrap_or(0),
            Some(Value::Array(Array::I32(heads))) => heads.get(index).and_then(|&n| u32::try_from(n).ok()).unwrap_or(0),
            _ => 0,
        }
    }

    /// A truth value per layer among the architecture's own keys.
    #[must_use]
    pub fn flags(&self, suffix: &str) -> Option<Vec<bool>> {
        match self.own(suffix)? {
            Value::Array(Array::Bool(flags)) => Some(flags.clone()),
            Value::Array(Array::U32(numbers)) => Some(numbers.iter().map(|&n| n != 0).collect()),
            Value::Array(Array::I32(numbers)) => Some(numbers.iter().map(|&n| n != 0).collect()),
            _ => None,
        }
    }

    fn own(&self, suffix: &str) -> Option<&Value> {
        self.parts.first()?.get(&format!("{}.{suffix}", self.info.architecture))
    }
}
