//! Where the weights lie: mapped from the file, or in buffers of their own because they are read or repacked.
//!
//! ggml's CPU backend rearranges weights of some types for faster kernels (`ggml-cpu/repack.cpp`, `ggml-cpu/amx`); those
//! leave the mapping for a buffer. Which types it does that for depends on the instruction sets of the build.

use crate::build_info::build_info;
use crate::model::{GgmlType, Gguf, Header, TensorInfo};

/// ggml's `TENSOR_ALIGNMENT`.
const ALIGNMENT: u64 = 32;

/// Bytes of weights in host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weights {
    /// Of the file's pages: the system may drop them and read them again.
    pub mapped: u64,
    pub allocated: u64,
}

/// Of those that `stay`; the output layer has a copy of the embeddings where it has nothing else, if it stays.
pub(super) fn on_host(model: &Header, use_mmap: bool, stays: impl Fn(&TensorInfo) -> bool, output: bool) -> Weights {
    let kernels = Kernels::of_build();
    let mut weights = Weights::default();
    for part in model.parts() {
        let (mut first, mut end, mut copied) = (u64::MAX, 0, 0);
        for tensor in part.tensors().iter().filter(|tensor| stays(tensor)) {
            match kernels.repacked(tensor) {
                Some(bytes) => weights.allocated += bytes.next_multiple_of(ALIGNMENT),
                None => {
                    (first, end) = (first.min(tensor.offset), end.max(tensor.offset + tensor.bytes));
                    copied += tensor.bytes.next_multiple_of(ALIGNMENT);
                }
            }
        }
        match use_mmap {
            // One stretch of the file, from the first tensor that is used in place to the last.
            true => weights.mapped += end.saturating_sub(first),
            false => weights.allocated += copied,
        }
    }
    if output {
        weights.allocated += tied_output(model, &kernels);
    }
    weights
}

/// A repacked copy of the embeddings, where they serve as output layer too.
fn tied_output(model: &Header, kernels: &Kernels) -> u64 {
    match (model.tensor("output.weight"), model.tensor("token_embd.weight")) {
        (None, Some(embeddings)) if model.info().causal != Some(false) => {
            kernels.repacked_matrix(embeddings).unwrap_or(0).next_multiple_of(ALIGNMENT)
        }
        _ => 0,
    }
}

/// The instruction sets that decide which weights are repacked.
struct Kernels {
    avx2: bool,
    avx512: bool,
    amx: bool,
    dotprod: bool,
    matmul_int8: bool,
}

impl Kernels {
    fn of_build() -> Self {
        let has = |name: &str| build_info().cpu_features.contains(&name);
        Self {
            avx2: has("AVX2"),
            avx512: has("AVX512F"),
            amx: has("AMX_INT8") && has("AVX512VNNI"),
            dotprod: has("ARM_FEATURE_DOTPROD"),
            matmul_int8: has("ARM_FEATURE_MATMUL_INT8"),
        }
    }

    /// Bytes of a weight in its repacked form; `None` for one that is used as it is in the file.
    fn repacked(&self, tensor: &TensorInfo) -> Option<u64> {
        // These are looked up, not multiplied with.
        let looked_up = ["token_embd.", "position_embd.", "token_types.", "per_layer_token_embd."];
        if !tensor.name.ends_with(".weight") || looked_up.iter().any(|start| tensor.name.starts_with(start)) {
            return None;
        }
        let rank = tensor.dims.iter().rposition(|&n| n > 1).map_or(1, |last| last + 1);
        let experts = tensor.name.contains("_exps.");
        (rank == if experts { 3 } else { 2 }).then(|| self.repacked_matrix(tensor)).flatten()
    }

    fn repacked_matrix(&self, tensor: &TensorInfo) -> Option<u64> {
        use GgmlType::{IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0};
        let rows = tensor.dims.get(1).copied().unwrap_or(1);
        let kind = tensor.ggml_type;
        if self.amx && tensor.dims.get(2).is_none_or(|&n| n == 1) && rows.is_multiple_of(32) {
            // Compensation for signed arithmetic comes on top: four bytes per block and row, in the worst case.
            let amx = matches!(kind, Q4_0 | Q4_1 | Q8_0 | Q4_K | Q5_K | Q6_K | IQ4_XS);
            if amx {
                return Some(
                    tensor.bytes + tensor.elements() / kind.block_elements() * if kind == Q8_0 { 4 } else { 0 },
                );
            }
        }
        let arm = self.dotprod || self.matmul_int8;
        let (eight, four) = match kind {
            Q4_0 | IQ4_NL | MXFP4 => (self.avx2, arm),
            Q4_K => (self.avx2 || arm, false),
            Q2_K => (self.avx512, false),
            Q5_K | Q6_K => (arm, false),
            Q8_0 => (false, arm),
            _ => (false, false),
        };
        let fits = (eight && rows.is_multiple_of(8)) || (four && rows.is_multiple_of(4));
        fits.then_some(tensor.bytes)
    }
}

/// Bytes of the parts' headers: what reading them cost.
pub(super) fn header_bytes(parts: &[Gguf]) -> u64 {
    parts.iter().map(Gguf::data_offset).sum()
}
