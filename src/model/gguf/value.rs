//! Metadata values, kept as compact as they stand in the file.

use std::fmt::Arguments;
use std::io::{Read, Seek};

use super::error::GgufError;
use super::source::Source;

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// An unsigned 8-bit number.
    U8(u8),
    /// A signed 8-bit number.
    I8(i8),
    /// An unsigned 16-bit number.
    U16(u16),
    /// A signed 16-bit number.
    I16(i16),
    /// An unsigned 32-bit number.
    U32(u32),
    /// A signed 32-bit number.
    I32(i32),
    /// A 32-bit floating point number.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A text without NUL bytes.
    String(String),
    /// A list of values of one type.
    Array(Array),
    /// An unsigned 64-bit number.
    U64(u64),
    /// A signed 64-bit number.
    I64(i64),
    /// A 64-bit floating point number.
    F64(f64),
}

/// A list of metadata values of one type. Lists of lists are refused, as llama.cpp refuses them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Array {
    /// Unsigned 8-bit numbers.
    U8(Vec<u8>),
    /// Signed 8-bit numbers.
    I8(Vec<i8>),
    /// Unsigned 16-bit numbers.
    U16(Vec<u16>),
    /// Signed 16-bit numbers.
    I16(Vec<i16>),
    /// Unsigned 32-bit numbers.
    U32(Vec<u32>),
    /// Signed 32-bit numbers.
    I32(Vec<i32>),
    /// 32-bit floating point numbers.
    F32(Vec<f32>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts.
    String(StringArray),
    /// Unsigned 64-bit numbers.
    U64(Vec<u64>),
    /// Signed 64-bit numbers.
    I64(Vec<i64>),
    /// 64-bit floating point numbers.
    F64(Vec<f64>),
}

/// Many texts in one allocation. A vocabulary of a quarter million tokens takes less memory here than in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StringArray {
    text: String,
    /// Where each element ends in `text`. The header limit keeps this within 32 bits.
    ends: Vec<u32>,
    longest: usize,
}

impl StringArray {
    /// Number of texts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no texts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all texts together.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.text.len()
    }

    /// Bytes of the longest text; 0 if there is none.
    #[must_use]
    pub fn longest_bytes(&self) -> usize {
        self.longest
    }

    /// The texts in file order. They may hold NUL bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let end = end as usize;
            // Always in range and on a boundary; `get` only keeps that assumption from becoming a panic.
            let element = self.text.get(start..end).unwrap_or_default();
            start = end;
            element
        })
    }

    fn push(&mut self, element: &str) {
        self.text.push_str(element);
        self.ends.push(self.text.len() as u32);
        self.longest = self.longest.max(element.len());
    }
}

impl Array {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value {
    /// The type as text, in llama.cpp's words: `u32`, `str`, `arr[f32]`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "str",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
            Self::Array(Array::U8(_)) => "arr[u8]",
            Self::Array(Array::I8(_)) => "arr[i8]",
            Self::Array(Array::U16(_)) => "arr[u16]",
            Self::Array(Array::I16(_)) => "arr[i16]",
            Self::Array(Array::U32(_)) => "arr[u32]",
            Self::Array(Array::I32(_)) => "arr[i32]",
            Self::Array(Array::F32(_)) => "arr[f32]",
            Self::Array(Array::Bool(_)) => "arr[bool]",
            Self::Array(Array::String(_)) => "arr[str]",
            Self::Array(Array::U64(_)) => "arr[u64]",
            Self::Array(Array::I64(_)) => "arr[i64]",
            Self::Array(Array::F64(_)) => "arr[f64]",
        }
    }
}

/// The type numbers of the format.
#[derive(Clone, Copy)]
enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn read<R: Read + Seek>(source: &mut Source<R>, what: Arguments<'_>) -> Result<Self, GgufError> {
        let offset = source.position();
        let number = source.u32(what)?;
        Ok(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => {
                return Err(GgufError::malformed(offset, what, "a type from 0 to 12", number));
            }
        })
    }
}

impl Value {
    /// Reads a type number and the value that follows it. `key` is how messages name the value.
    pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, key: Arguments<'_>) -> Result<Self, GgufError> {
        Ok(match ValueType::read(source, format_args!("the type of {key}"))? {
            ValueType::U8 => Self::U8(u8::from_le_bytes(source.bytes(key)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(source.bytes(key)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(source.bytes(key)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(source.bytes(key)?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(source.bytes(key)?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(source.bytes(key)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(source.bytes(key)?)),
            ValueType::U64 => Self::U64(u64::from_le_bytes(source.bytes(key)?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(source.bytes(key)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(source.bytes(key)?)),
            ValueType::Bool => {
                let offset = source.position();
                let [byte] = source.bytes(key)?;
                Self::Bool(truth(byte, key, offset)?)
            }
            ValueType::String => Self::String(source.string(key)?),
            ValueType::Array => Self::Array(Array::read(source, key)?),
        })
    }
}

impl Array {
    fn read<R: Read + Seek>(source: &mut Source<R>, key: Arguments<'_>) -> Result<Self, GgufError> {
        let type_offset = source.position();
        let element = ValueType::read(source, format_args!("the element type of {key}"))?;
        let count = source.u64(format_args!("the element count of {key}"))?;
        Ok(match element {
            ValueType::U8 => Self::U8(numbers(source, key, count, u8::from_le_bytes)?),
            ValueType::I8 => Self::I8(numbers(source, key, count, i8::from_le_bytes)?),
            ValueType::U16 => Self::U16(numbers(source, key, count, u16::from_le_bytes)?),
            ValueType::I16 => Self::I16(numbers(source, key, count, i16::from_le_bytes)?),
            ValueType::U32 => Self::U32(numbers(source, key, count, u32::from_le_bytes)?),
            ValueType::I32 => Self::I32(numbers(source, key, count, i32::from_le_bytes)?),
            ValueType::F32 => Self::F32(numbers(source, key, count, f32::from_le_bytes)?),
            ValueType::U64 => Self::U64(numbers(source, key, count, u64::from_le_bytes)?),
            ValueType::I64 => Self::I64(numbers(source, key, count, i64::from_le_bytes)?),
            ValueType::F64 => Self::F64(numbers(source, key, count, f64::from_le_bytes)?),
            ValueType::Bool => {
                let start = source.position();
                let bytes = numbers(source, key, count, u8::from_le_bytes)?;
                let truths = bytes.iter().zip(start..).map(|(&byte, at)| truth(byte, key, at));
                Self::Bool(truths.collect::<Result<_, _>>()?)
            }
            ValueType::String => Self::String(strings(source, key, count)?),
            ValueType::Array => {
                return Err(GgufError::malformed(
                    type_offset,
                    format_args!("the element type of {key}"),
                    "a scalar type",
                    "an array of arrays",
                ));
            }
        })
    }
}

fn truth(byte: u8, key: Arguments<'_>, offset: u64) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(GgufError::malformed(offset, key, "a truth value, 0 or 1", byte)),
    }
}

/// Reads `count` numbers of `N` bytes. They are known to be in the file before room is made for them.
fn numbers<R: Read + Seek, T, const N: usize>(
    source: &mut Source<R>,
    key: Arguments<'_>,
    count: u64,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, GgufError> {
    source.need(key, count, N as u64)?;
    let count = count as usize;
    let mut values = Vec::with_capacity(count);
    let mut buffer = [0; 4096];
    while values.len() < count {
        let chunk = ((count - values.len()) * N).min(buffer.len());
        let Some(bytes) = buffer.get_mut(..chunk) else {
            break;
        };
        source.fill(key, bytes)?;
        values.extend(bytes.as_chunks::<N>().0.iter().copied().map(decode));
    }
    Ok(values)
}

fn strings<R: Read + Seek>(source: &mut Source<R>, key: Arguments<'_>, count: u64) -> Result<StringArray, GgufError> {
    // Each text takes at least the eight bytes of its length.
    source.need(key, count, 8)?;
    let mut array = StringArray::default();
    array.ends.reserve_exact(count as usize);
    let mut raw = Vec::new();
    for index in 0..count {
        array.push(source.text(format_args!("element {index} of {key}"), &mut raw)?);
    }
    Ok(array)
}
