//! Where the weights lie: mapped from the file, or in buffers of their own because they are read or repacked.
//!
//! Weights of some types are rearranged for faster kernels (`native/kernels`, ggml's `ggml-cpu/repack.cpp`, `ggml-cpu/amx`); those
//! leave the mapping for a buffer. Which types it does that for depends on the instruction sets of the kernels.

use super::Demand;
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
pub(super) fn on_host(model: &Header, demand: &Demand, stays: impl Fn(&TensorInfo) -> bool, output: bool) -> Weights {
    let kernels = Kernels::of(demand.use_repack, demand.cpu_features);
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
        match demand.use_mmap {
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

/// Whether it is a matrix of a layer's, or the output's; others are looked up, or are no matrices.
fn is_multiplied_with(tensor: &TensorInfo) -> bool {
    let looked_up = ["token_embd.", "position_embd.", "token_types.", "per_layer_token_embd."];
    if !tensor.name.ends_with(".weight") || looked_up.iter().any(|start| tensor.name.starts_with(start)) {
        return false;
    }
    let rank = tensor.dims.iter().rposition(|&n| n > 1).map_or(1, |last| last + 1);
    rank == if tensor.name.contains("_exps.") { 3 } else { 2 }
}

/// Of the matrices on the CPU: the share that has no kernel for several tokens at a time with these instruction sets, and of which type
/// most of that is. `None`: all have one.
pub(crate) fn without_fast_kernels(model: &Header, use_repack: bool, cpu_features: &[&str]) -> Option<(f64, GgmlType)> {
    let kernels = Kernels::of(use_repack, cpu_features);
    let matrices: Vec<_> = model.tensors().filter(|tensor| is_multiplied_with(tensor)).collect();
    let bytes = |of: &dyn Fn(&TensorInfo) -> bool| -> u64 {
        matrices.iter().filter(|matrix| of(matrix)).map(|matrix| matrix.bytes).sum()
    };
    let slow = |matrix: &TensorInfo| !kernels.is_fast(matrix);
    let of_type = |kind: GgmlType| bytes(&|matrix| matrix.ggml_type == kind && slow(matrix));
    let most = GgmlType::ALL.iter().copied().max_by_key(|kind| of_type(*kind))?;
    (of_type(most) > 0).then(|| (bytes(&slow) as f64 / bytes(&|_| true) as f64, most))
}

/// Whether nearly all of the matrices' bytes are multiplied by our own kernels, which read them once for all columns of a batch.
pub(crate) fn batches_are_cheap(model: &Header, use_repack: bool, cpu_features: &[&str]) -> bool {
    let kernels = Kernels::of(use_repack, cpu_features);
    let matrices = || model.tensors().filter(|tensor| is_multiplied_with(tensor));
    let all: u64 = matrices().map(|matrix| matrix.bytes).sum();
    let ours: u64 = matrices().filter(|matrix| kernels.in_lanes(matrix)).map(|matrix| matrix.bytes).sum();
    ours as f64 > 0.9 * all as f64
}

/// What decides which weights are repacked: whether that is wanted, and the instruction sets.
struct Kernels {
    repack: bool,
    avx2: bool,
    avx512: bool,
    amx: bool,
    dotprod: bool,
    matmul_int8: bool,
}

impl Kernels {
    fn of(repack: bool, cpu_features: &[&str]) -> Self {
        let has = |name: &str| cpu_features.contains(&name);
        Self {
            repack,
            avx2: has("AVX2"),
            avx512: has("AVX512F"),
            amx: has("AMX_INT8") && has("AVX512VNNI"),
            dotprod: has("ARM_FEATURE_DOTPROD"),
            matmul_int8: has("ARM_FEATURE_MATMUL_INT8"),
        }
    }

    /// Bytes of a weight in its repacked form; `None` for one that is used as it is in the file.
    fn repacked(&self, tensor: &TensorInfo) -> Option<u64> {
        is_multiplied_with(tensor).then(|| self.repacked_matrix(tensor)).flatten()
    }

    /// Whether a matrix meets several tokens at a time in a kernel made for that: as it is repacked, or as `llamafile/sgemm.cpp`
    /// has it.
    fn is_fast(&self, matrix: &TensorInfo) -> bool {
        use GgmlType::{BF16, F16, F32, IQ4_NL, Q4_0, Q5_0, Q8_0};
        let by_sgemm = match matrix.ggml_type {
            F32 | F16 | BF16 => true,
            Q8_0 | Q4_0 => self.avx2 || self.dotprod,
            Q5_0 | IQ4_NL => self.avx2,
            _ => false,
        };
        by_sgemm || self.repacked_matrix(matrix).is_some()
    }

    /// Whether it is one for our own kernels: `native/kernels/lanes.h`.
    fn in_lanes(&self, matrix: &TensorInfo) -> bool {
        use GgmlType::{Q4_0, Q4_1, Q8_0};
        let rows = matrix.dims.get(1).copied().unwrap_or(1);
        let formats = matches!(matrix.ggml_type, Q4_0 | Q4_1 | Q8_0);
        self.repack && self.avx2 && formats && rows.is_multiple_of(16) && matrix.dims.get(2).is_none_or(|&n| n == 1)
    }

    fn repacked_matrix(&self, tensor: &TensorInfo) -> Option<u64> {
        use GgmlType::{IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0};
        if !self.repack {
            return None;
        }
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
        if self.in_lanes(tensor) {
            return Some(tensor.bytes);
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
