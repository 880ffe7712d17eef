//! The human name of a model's quantization.

use super::gguf::{Gguf, GgufError};
use super::types::GgmlType;

const FILE_TYPE_KEY: &str = "general.file_type";
/// Marks a file type that a tool has guessed.
const GUESSED: u32 = 1024;

/// The name that llama.cpp gives `general.file_type`, else the name of the type that most of the weight bytes have.
pub(super) fn label(parts: &[Gguf]) -> Result<String, GgufError> {
    let stated = match parts.first() {
        Some(first) => first.typed::<u32>(FILE_TYPE_KEY)?,
        None => None,
    };
    let name = stated.and_then(|number| file_type_name(number & !GUESSED));
    Ok(name.unwrap_or_else(|| dominant_type(parts).map_or("unknown", GgmlType::name)).to_owned())
}

fn dominant_type(parts: &[Gguf]) -> Option<GgmlType> {
    let bytes_of = |wanted: &GgmlType| {
        let tensors = parts.iter().flat_map(|part| part.tensors());
        let of_type = tensors.filter(|t| t.ggml_type == *wanted);
        of_type.fold(0u64, |sum, t| sum.saturating_add(t.bytes))
    };
    GgmlType::ALL.iter().copied().max_by_key(bytes_of).filter(|t| bytes_of(t) > 0)
}

fn file_type_name(number: u32) -> Option<&'static str> {
    Some(match number {
        0 => "all F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K - Medium",
        11 => "Q3_K - Small",
        12 => "Q3_K - Medium",
        13 => "Q3_K - Large",
        14 => "Q4_K - Small",
        15 => "Q4_K - Medium",
        16 => "Q5_K - Small",
        17 => "Q5_K - Medium",
        18 => "Q6_K",
        19 => "IQ2_XXS - 2.0625 bpw",
        20 => "IQ2_XS - 2.3125 bpw",
        21 => "Q2_K - Small",
        22 => "IQ3_XS - 3.3 bpw",
        23 => "IQ3_XXS - 3.0625 bpw",
        24 => "IQ1_S - 1.5625 bpw",
        25 => "IQ4_NL - 4.5 bpw",
        26 => "IQ3_S - 3.4375 bpw",
        27 => "IQ3_S mix - 3.66 bpw",
        28 => "IQ2_S - 2.5 bpw",
        29 => "IQ2_M - 2.7 bpw",
        30 => "IQ4_XS - 4.25 bpw",
        31 => "IQ1_M - 1.75 bpw",
        32 => "BF16",
        36 => "TQ1_0 - 1.69 bpw ternary",
        37 => "TQ2_0 - 2.06 bpw ternary",
        38 => "MXFP4 MoE",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    })
}
