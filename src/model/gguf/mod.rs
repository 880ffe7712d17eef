//! The GGUF header: reading it, and looking things up in it.
//!
//! Layout of a file, all numbers little-endian: magic, version, tensor count, metadata count; the metadata as (key,
//! type, value); the tensor list as (name, rank, dimensions, type, offset); padding; the tensor data.

mod error;
mod source;
mod split;
mod tensor;
mod value;

#[cfg(test)]
pub(in crate::model) mod builder;
#[cfg(test)]
mod tests;

pub use error::GgufError;
pub(in crate::model) use error::quoted;
pub use split::Split;
pub use tensor::TensorInfo;
pub use value::{Array, StringArray, Value};

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use source::Source;

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u32 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
/// Real files have a few dozen metadata entries; the limit bounds what the map of them costs.
const MAX_ENTRIES: u64 = 1 << 16;
/// The largest real models have some tens of thousands of tensors.
const MAX_TENSORS: u64 = 1 << 18;
/// The longest key the format allows.
const MAX_KEY_BYTES: usize = 65_535;
/// The least one metadata entry takes: key length, a one-byte key, type, a one-byte value.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;

/// A GGUF header that was read whole and is free of syntax errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    version: u32,
    alignment: u32,
    metadata: BTreeMap<String, Entry>,
    metadata_end: u64,
    tensors: Vec<TensorInfo>,
    data_offset: u64,
    file_bytes: u64,
    split: Option<Split>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// Where the value's type number stands in the file.
    offset: u64,
    value: Value,
}

impl Gguf {
    /// Reads the header of the file at `path`, which must be a regular file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { offset: 0, source };
        // Opening a named pipe would wait for a writer, so look first.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        Self::read(File::open(path).map_err(io)?)
    }

    /// Reads the header from the start of `reader`, whose end is taken for the end of the file.
    pub fn read(reader: impl Read + Seek) -> Result<Self, GgufError> {
        let mut source = Source::new(reader)?;
        let version = read_magic_and_version(&mut source)?;

        let count_offset = source.position();
        let tensor_count = source.u64(format_args!("the tensor count"))?;
        limit(count_offset, "the tensor count", tensor_count, MAX_TENSORS)?;
        let count_offset = source.position();
        let entry_count = source.u64(format_args!("the metadata count"))?;
        limit(count_offset, "the metadata count", entry_count, MAX_ENTRIES)?;

        let metadata = read_metadata(&mut source, entry_count)?;
        let metadata_end = source.position();
        let alignment = alignment(&metadata)?;

        source.need(format_args!("the tensor list"), tensor_count, tensor::MIN_ENTRY_BYTES)?;
        let mut tensors = Vec::new();
        for index in 0..tensor_count {
            tensors.push(TensorInfo::read(&mut source, index)?);
        }
        tensor::refuse_duplicates(&tensors)?;

        let header_bytes = source.position();
        let file_bytes = source.length();
        // The header limit keeps this far from overflow.
        let data_offset = header_bytes.next_multiple_of(u64::from(alignment));
        tensor::place(&mut tensors, u64::from(alignment), data_offset, file_bytes)?;

        let mut gguf =
            Self { version, alignment, metadata, metadata_end, tensors, data_offset, file_bytes, split: None };
        gguf.split = Split::find(&gguf)?;
        Ok(gguf)
    }

    /// Format version, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of the tensor data in bytes, a power of two (`general.alignment`, else 32).
    #[must_use]
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Size of the file in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Where the tensor data starts, in bytes from the start of the file.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// The tensors in file order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Bytes of all tensors of this file, without padding.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        // The tensors lie one after the other within the file, so their sum cannot overflow.
        self.tensors.iter().fold(0, |sum: u64, t| sum.saturating_add(t.bytes))
    }

    /// The part this file is of a model split over several files; `None` for a model in one file.
    #[must_use]
    pub fn split(&self) -> Option<Split> {
        self.split
    }

    /// The metadata keys in alphabetical order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// The value of a metadata key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key).map(|entry| &entry.value)
    }

    /// Where the value of a metadata key stands in the file, in bytes.
    #[must_use]
    pub fn offset_of(&self, key: &str) -> Option<u64> {
        self.metadata.get(key).map(|entry| entry.offset)
    }

    /// An error about a metadata key: at its value or, if it is missing, at the end of the metadata.
    pub(in crate::model) fn fault(&self, key: &str, expected: impl ToString, found: impl ToString) -> GgufError {
        let offset = self.offset_of(key).unwrap_or(self.metadata_end);
        GgufError::malformed(offset, quoted(key), expected, found)
    }

    /// The value of a key if it is there; an error if it has another type. llama.cpp converts no types either.
    pub(in crate::model) fn typed<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.fault(key, T::TYPE_NAME, value.type_name())),
        }
    }
}

/// Rust types that a metadata value can be taken as.
pub(in crate::model) trait FromValue<'a>: Sized {
    const TYPE_NAME: &'static str;
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty, $name:literal, $pattern:pat => $result:expr;)*) => {$(
        impl<'a> FromValue<'a> for $type {
            const TYPE_NAME: &'static str = $name;
            fn from_value(value: &'a Value) -> Option<Self> {
                match value {
                    $pattern => Some($result),
                    _ => None,
                }
            }
        }
    )*};
}

from_value! {
    u16, "u16", Value::U16(v) => *v;
    u32, "u32", Value::U32(v) => *v;
    i32, "i32", Value::I32(v) => *v;
    f32, "f32", Value::F32(v) => *v;
    bool, "bool", Value::Bool(v) => *v;
    &'a str, "str", Value::String(v) => v;
    &'a StringArray, "arr[str]", Value::Array(Array::String(v)) => v;
    &'a [i32], "arr[i32]", Value::Array(Array::I32(v)) => v;
}

fn limit(offset: u64, what: &str, found: u64, most: u64) -> Result<(), GgufError> {
    if found > most {
        return Err(GgufError::malformed(offset, what, format_args!("at most {most}"), found));
    }
    Ok(())
}

fn read_magic_and_version<R: Read + Seek>(source: &mut Source<R>) -> Result<u32, GgufError> {
    // A file shorter than the magic is truncated only if it could have become a GGUF file.
    let there = source.remaining().min(MAGIC.len() as u64) as usize;
    let mut found = vec![0; there];
    source.fill(format_args!("the magic"), &mut found)?;
    if !MAGIC.starts_with(&found) {
        return Err(GgufError::NotGguf { offset: 0, found });
    }
    if found.len() < MAGIC.len() {
        return Err(GgufError::Truncated {
            offset: 0,
            what: "the magic".to_owned(),
            required: MAGIC.len() as u64,
            available: found.len() as u64,
        });
    }
    let offset = source.position();
    match source.u32(format_args!("the version"))? {
        version @ (2 | 3) => Ok(version),
        found => {
            Err(GgufError::UnsupportedVersion { offset, found, big_endian: matches!(found.swap_bytes(), 1..=0xffff) })
        }
    }
}

fn read_metadata<R: Read + Seek>(source: &mut Source<R>, count: u64) -> Result<BTreeMap<String, Entry>, GgufError> {
    source.need(format_args!("the metadata"), count, MIN_ENTRY_BYTES)?;
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key_offset = source.position();
        let key = source.string(format_args!("metadata key {index}"))?;
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(GgufError::malformed(
                key_offset,
                format_args!("metadata key {index}"),
                format_args!("1 to {MAX_KEY_BYTES} bytes"),
                format_args!("{} bytes", key.len()),
            ));
        }
        let MapEntry::Vacant(slot) = metadata.entry(key) else {
            return Err(GgufError::malformed(
                key_offset,
                format_args!("metadata key {index}"),
                "a key not used before",
                "a duplicate",
            ));
        };
        let offset = source.position();
        let name = quoted(slot.key());
        let value = Value::read(source, format_args!("{name}"))?;
        slot.insert(Entry { offset, value });
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, Entry>) -> Result<u32, GgufError> {
    let Some(entry) = metadata.get(ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match entry.value {
        Value::U32(alignment) if alignment.is_power_of_two() => Ok(alignment),
        Value::U32(other) => Err(GgufError::malformed(entry.offset, quoted(ALIGNMENT_KEY), "a power of two", other)),
        ref other => {
            let found = other.type_name();
            Err(GgufError::malformed(entry.offset, quoted(ALIGNMENT_KEY), "u32", found))
        }
    }
}
