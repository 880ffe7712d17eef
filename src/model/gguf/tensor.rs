//! The tensor list: names, types, shapes, and where the data lies.

use std::io::{Read, Seek};

use super::error::{GgufError, quoted};
use super::source::Source;
use crate::model::types::GgmlType;

/// Names must be shorter than this, terminating NUL included (ggml's `GGML_MAX_NAME`).
const MAX_NAME: usize = 64;
/// Most dimensions a tensor has (ggml's `GGML_MAX_DIMS`).
const MAX_DIMS: u32 = 4;
/// ggml counts elements and bytes in signed 64-bit numbers.
const MAX_COUNT: u64 = i64::MAX as u64;
/// The least one tensor entry takes: name length, rank, type, offset.
pub(super) const MIN_ENTRY_BYTES: u64 = 8 + 4 + 4 + 8;

/// One tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Name, at most 63 bytes, unique in the file.
    pub name: String,
    /// Element type.
    pub ggml_type: GgmlType,
    /// Elements per dimension, the contiguous one first. None is zero; there are at most four.
    pub dims: Vec<u64>,
    /// Where the data starts, in bytes from the start of the file.
    pub offset: u64,
    /// Size of the data in bytes, without padding.
    pub bytes: u64,
    /// Where the entry itself stands in the header, for messages.
    pub(in crate::model) entry_offset: u64,
}

impl TensorInfo {
    /// Number of elements: the product of the dimensions, at most `i64::MAX`.
    #[must_use]
    pub fn elements(&self) -> u64 {
        // Reading has made sure that the product does not overflow.
        self.dims.iter().fold(1, |product: u64, &n| product.saturating_mul(n))
    }

    /// Reads one entry. `offset` is left relative to the data section, whose start is not known yet.
    pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, index: u64) -> Result<Self, GgufError> {
        let entry_offset = source.position();
        let name = source.string(format_args!("the name of tensor {index}"))?;
        if name.len() >= MAX_NAME {
            return Err(GgufError::malformed(
                entry_offset,
                format_args!("the name of tensor {index}"),
                format_args!("at most {} bytes", MAX_NAME - 1),
                format_args!("{} bytes", name.len()),
            ));
        }
        let what = quoted(&name);

        let rank_offset = source.position();
        let rank = source.u32(format_args!("the rank of tensor {what}"))?;
        if rank > MAX_DIMS {
            return Err(GgufError::malformed(
                rank_offset,
                format_args!("the rank of tensor {what}"),
                format_args!("at most {MAX_DIMS}"),
                rank,
            ));
        }

        let mut dims = Vec::with_capacity(rank as usize);
        let mut elements = 1u64;
        for axis in 0..rank {
            let offset = source.position();
            let n = source.u64(format_args!("dimension {axis} of tensor {what}"))?;
            let product = elements.checked_mul(n).filter(|&p| p != 0 && p <= MAX_COUNT);
            elements = product.ok_or_else(|| {
                GgufError::malformed(
                    offset,
                    format_args!("dimension {axis} of tensor {what}"),
                    "at least 1, and at most 2^63-1 elements in all",
                    n,
                )
            })?;
            dims.push(n);
        }

        let type_offset = source.position();
        let number = source.u32(format_args!("the type of tensor {what}"))?;
        let ggml_type = GgmlType::from_number(number).map_err(|found| {
            GgufError::malformed(type_offset, format_args!("the type of tensor {what}"), "a current ggml type", found)
        })?;

        let row = dims.first().copied().unwrap_or(1);
        let block = ggml_type.block_elements();
        if !row.is_multiple_of(block) {
            return Err(GgufError::malformed(
                type_offset,
                format_args!("the row length of tensor {what}"),
                format_args!("a multiple of {block}, the block length of {ggml_type}"),
                row,
            ));
        }
        let bytes = (elements / block)
            .checked_mul(ggml_type.block_bytes())
            .filter(|&bytes| bytes <= MAX_COUNT)
            .ok_or_else(|| {
                GgufError::malformed(
                    type_offset,
                    format_args!("the size of tensor {what}"),
                    "at most 2^63-1 bytes",
                    format_args!("{elements} elements of {ggml_type}"),
                )
            })?;

        let offset = source.u64(format_args!("the offset of tensor {what}"))?;
        Ok(Self { name, ggml_type, dims, offset, bytes, entry_offset })
    }
}

/// Checks that the tensors fill the data section one after the other, each padded to the alignment, exactly as
/// llama.cpp demands, and turns their offsets into offsets from the start of the file.
pub(super) fn place(
    tensors: &mut [TensorInfo],
    alignment: u64,
    data_offset: u64,
    file_bytes: u64,
) -> Result<(), GgufError> {
    let mut expected = 0u64;
    for tensor in tensors {
        let what = quoted(&tensor.name);
        if tensor.offset != expected {
            let problem = if !tensor.offset.is_multiple_of(alignment) {
                "not aligned"
            } else if tensor.offset < expected {
                "overlapping the tensor before"
            } else {
                "leaving a gap"
            };
            return Err(GgufError::malformed(
                tensor.entry_offset,
                format_args!("the data offset of tensor {what}"),
                expected,
                format_args!("{} ({problem})", tensor.offset),
            ));
        }
        let start = data_offset.checked_add(expected).filter(|&start| start <= MAX_COUNT);
        let next = tensor
            .bytes
            .checked_next_multiple_of(alignment)
            .and_then(|padded| expected.checked_add(padded))
            .filter(|&next| next <= MAX_COUNT);
        let (Some(start), Some(next)) = (start, next) else {
            return Err(GgufError::malformed(
                tensor.entry_offset,
                format_args!("the data of tensor {what}"),
                "an end within 2^63-1 bytes",
                format_args!("{} bytes at {expected}", tensor.bytes),
            ));
        };
        let available = file_bytes.saturating_sub(start);
        if tensor.bytes > available {
            return Err(GgufError::Truncated {
                offset: start,
                what: format!("the data of tensor {what}"),
                required: tensor.bytes,
                available,
            });
        }
        tensor.offset = start;
        expected = next;
    }
    Ok(())
}

/// Refuses two tensors of one name.
pub(super) fn refuse_duplicates(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut sorted: Vec<&TensorInfo> = tensors.iter().collect();
    sorted.sort_unstable_by_key(|t| (&t.name, t.entry_offset));
    let pairs = sorted.iter().zip(sorted.iter().skip(1));
    let second = pairs.filter(|(a, b)| a.name == b.name).map(|(_, b)| b);
    match second.min_by_key(|t| t.entry_offset) {
        None => Ok(()),
        Some(tensor) => Err(GgufError::malformed(
            tensor.entry_offset,
            format_args!("the name of tensor {}", quoted(&tensor.name)),
            "a name not used before",
            "a duplicate",
        )),
    }
}
