//! Tensors: types and places that llama.cpp takes without looking and then asserts on.

use super::Keys;
use crate::model::gguf::{GgufError, TensorInfo, quoted};
use crate::model::types::GgmlType;

/// ggml wraps the mapped file in buffers that must start at multiples of this (`TENSOR_ALIGNMENT`).
const MAPPED_ALIGNMENT: u64 = 32;

pub(super) fn check(keys: &Keys<'_>) -> Result<(), GgufError> {
    for tensor in keys.tensors() {
        if !tensor.offset.is_multiple_of(MAPPED_ALIGNMENT) {
            return Err(fault(
                tensor,
                "offset in the file",
                format_args!("a multiple of {MAPPED_ALIGNMENT}"),
                tensor.offset,
            ));
        }
        check_type(tensor)?;
    }
    tied_output(keys)
}

/// Tensors that are added, scaled by or convolved with, by the ends of their names. llama.cpp's kernels for that take
/// F32 alone and assert it at the first decode.
const ELEMENTWISE: &[&str] = &[
    "norm.weight",
    ".bias",
    ".ssm_a",
    ".ssm_d",
    ".ssm_conv1d.weight",
    ".ssm_conv1d_q.weight",
    ".ssm_conv1d_k.weight",
    ".ssm_conv1d_v.weight",
    ".shortconv.conv.weight",
    ".time_mix_first.weight",
    ".time_mix_decay.weight",
    ".time_mix_r_k.weight",
    ".channel_mix_lerp_k.weight",
    ".channel_mix_lerp_r.weight",
    ".attn_sinks.weight",
    "token_types.weight",
];

fn check_type(tensor: &TensorInfo) -> Result<(), GgufError> {
    use GgmlType::{F32, F64, I8, I16, I32, I64, Q8_1, Q8_K};
    let name = tensor.name.as_str();
    let ggml_type = tensor.ggml_type;
    // What maps tokens to other tokens or to experts.
    let maps = name == "d2t" || name.contains("tid2eid");
    let index = matches!(ggml_type, I32 | I64);
    let factor = name.ends_with(".weight");
    let rope_factors = name.starts_with("rope_f") || name.contains(".rope_f");
    // Converters and quantizers leave vectors, and all but the weights, in F32 unless they are indices.
    let elementwise = rope_factors
        || name.contains(".time_mix_lerp_")
        || ELEMENTWISE.iter().any(|end| name.ends_with(end))
        || (!(index && maps) && (!factor || tensor.dims.len() <= 1));
    if elementwise && ggml_type != F32 {
        return Err(fault(tensor, "type", F32, ggml_type));
    }
    // Multiplying by these calls a null function.
    let unfit = index || matches!(ggml_type, I8 | I16 | F64 | Q8_1 | Q8_K);
    if factor && unfit && !maps {
        return Err(fault(tensor, "type", "one that weights can have", ggml_type));
    }
    Ok(())
}

/// An output layer tied to the embeddings cannot have NVFP4 scales of its own.
fn tied_output(keys: &Keys<'_>) -> Result<(), GgufError> {
    let named = |name: &str| keys.tensors().find(|t| t.name == name);
    let scaled = named("output.scale").or_else(|| named("output.input_scale")).is_some();
    if !scaled || named("output.weight").is_some() || keys.incomplete() {
        return Ok(());
    }
    match named("token_embd.weight") {
        Some(tensor) if tensor.ggml_type == GgmlType::NVFP4 => {
            Err(fault(tensor, "use as output", "an output layer for the output scales", "none"))
        }
        _ => Ok(()),
    }
}

fn fault(tensor: &TensorInfo, property: &str, expected: impl ToString, found: impl ToString) -> GgufError {
    let what = format_args!("the {property} of tensor {}", quoted(&tensor.name)).to_string();
    GgufError::malformed(tensor.entry_offset, what, expected, found)
}
