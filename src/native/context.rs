//! A context: KV cache, compute threads, decoding.

use super::{Model, NativeError, error, sys};
use crate::model::GgmlType;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// One llama.cpp context with its own compute threads. Belongs to the thread that uses it; may be moved between.
pub(crate) struct Context {
    raw: NonNull<sys::lp_context>,
    n_vocab: usize,
    /// How many compute.
    threads: u32,
    // Both are read by the context and must outlive it.
    _abort: Arc<AtomicI32>,
    model: Arc<Model>,
}

// SAFETY: llama.cpp binds a context to no thread; `&mut self` on every use keeps it to one at a time.
unsafe impl Send for Context {}

pub(crate) struct ContextParams {
    /// Positions per sequence.
    pub n_ctx: u32,
    pub n_seq: u32,
    /// Most tokens of a batch.
    pub n_ubatch: u32,
    /// Most tokens of a batch that have logits, at least `n_seq`.
    pub n_outputs: u32,
    pub n_threads: u32,
    pub flash_attention: bool,
    pub kv_type_k: GgmlType,
    pub kv_type_v: GgmlType,
    /// Layers with a sliding window remember every position.
    pub swa_full: bool,
}

/// Bytes that llama.cpp allocated for a context and its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryUse {
    pub weights: u64,
    pub cache: u64,
    pub compute: u64,
}

/// Tokens to decode together. Reused between decodes, so that none allocates.
#[derive(Default)]
pub(crate) struct Batch {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    outputs: Vec<i8>,
}

/// How a batch is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// The fastest for many tokens: how many there are changes the last bits.
    Fast,
    /// Each token with the bits that it would have alone in the batch: on the CPU, and but for quantisations whose
    /// repacked weights have kernels for several tokens that round differently (Q4_K and Q5_K, from 4 tokens on).
    PerToken,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    /// Adds a token; returns its index, by which [`Context::logits`] finds its logits if `output`.
    pub(crate) fn push(&mut self, token: i32, position: u32, sequence: u32, output: bool) -> usize {
        self.tokens.push(token);
        self.positions.push(index(position));
        self.sequences.push(index(sequence));
        self.outputs.push(i8::from(output));
        self.tokens.len() - 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }
}

impl Context {
    /// Allocates KV cache and compute buffers and starts the compute threads. A non-zero `abort` ends a running decode.
    pub(crate) fn new(model: Arc<Model>, params: &ContextParams, abort: Arc<AtomicI32>) -> Result<Self, NativeError> {
        let params = sys::lp_context_params {
            n_ctx: params.n_ctx,
            n_seq: params.n_seq,
            n_ubatch: params.n_ubatch,
            n_outputs: params.n_outputs,
            n_threads: params.n_threads,
            flash_attention: params.flash_attention,
            kv_type_k: params.kv_type_k.number().cast_signed(),
            kv_type_v: params.kv_type_v.number().cast_signed(),
            swa_full: params.swa_full,
            abort_flag: abort.as_ptr(),
        };
        // SAFETY: model and flag are kept alive beside the context.
        let raw = error::value(|e| unsafe { sys::lp_context_new(model.as_ptr(), &params, e) }, |c| c.is_null())?;
        let raw = NonNull::new(raw).expect("checked by value()");
        model.has_context(raw);
        Ok(Self { raw, n_vocab: model.n_vocab(), threads: params.n_threads, _abort: abort, model })
    }

    /// What llama.cpp allocated for it and its model, on a GPU or on the host.
    pub(crate) fn memory(&self, device: Option<u32>) -> Result<MemoryUse, NativeError> {
        let device = device.map_or(-1, u32::cast_signed);
        let mut used = sys::lp_memory_use { weights: 0, cache: 0, compute: 0 };
        // SAFETY: the context is alive, `used` may be written to.
        error::status(|e| unsafe { sys::lp_context_memory(self.raw.as_ptr(), device, &mut used, e) })?;
        Ok(MemoryUse { weights: used.weights, cache: used.cache, compute: used.compute })
    }

    /// How many threads compute from now on. Others wait without a core.
    pub(crate) fn compute_with(&mut self, threads: u32) {
        if std::mem::replace(&mut self.threads, threads) != threads {
            // SAFETY: the context is alive and decodes nothing.
            unsafe { sys::lp_context_compute_with(self.raw.as_ptr(), threads) };
        }
    }

    /// Processes the batch. After an exception the context must not be used again.
    pub(crate) fn decode(&mut self, batch: &Batch, kernels: Kernels) -> Result<(), NativeError> {
        // SAFETY: the four arrays have the same length, by construction of Batch.
        error::status(|e| unsafe {
            sys::lp_decode(
                self.raw.as_ptr(),
                batch.tokens.as_ptr(),
                batch.positions.as_ptr(),
                batch.sequences.as_ptr(),
                batch.outputs.as_ptr(),
                batch.tokens.len(),
                kernels == Kernels::PerToken,
                e,
            )
        })
    }

    /// The next decode is reported as failed, whatever it did.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn fail_next_decode(&mut self) {
        // SAFETY: the context is alive.
        unsafe { sys::lp_fault_decode(self.raw.as_ptr()) }
    }

    /// Logits of the token with this index in the last batch.
    pub(crate) fn logits(&mut self, index: usize) -> Result<&[f32], NativeError> {
        let i = i32::try_from(index).expect("a batch is no larger than n_ubatch");
        // SAFETY: llama.cpp returns n_vocab values that live until the next decode, which needs `&mut self`.
        unsafe {
            let logits = error::value(|e| sys::lp_logits(self.raw.as_ptr(), i, e), |p| p.is_null())?;
            Ok(std::slice::from_raw_parts(logits, self.n_vocab))
        }
    }

    /// Forgets the positions of a sequence from `from` on; from 0 on always succeeds. False: its memory cannot go back
    /// there, and must be cleared.
    pub(crate) fn cut(&mut self, sequence: u32, from: u32) -> Result<bool, NativeError> {
        let (sequence, from) = (index(sequence), index(from));
        // SAFETY: the context is alive.
        let done =
            error::value(|e| unsafe { sys::lp_seq_cut(self.raw.as_ptr(), sequence, from, e) }, |done| *done < 0)?;
        Ok(done == 1)
    }

    /// Forgets a whole sequence.
    pub(crate) fn clear(&mut self, sequence: u32) -> Result<(), NativeError> {
        self.cut(sequence, 0).map(drop)
    }

    /// Whether [`shift`](Self::shift) can be used.
    pub(crate) fn can_shift(&self) -> bool {
        // SAFETY: the context is alive.
        unsafe { sys::lp_can_shift(self.raw.as_ptr()) }
    }

    /// Forgets `n` positions of a sequence from `from` on, and moves what is behind them there. False: its memory cannot.
    pub(crate) fn shift(&mut self, sequence: u32, from: u32, n: u32) -> Result<bool, NativeError> {
        let (sequence, from, n) = (index(sequence), index(from), index(n));
        // SAFETY: the context is alive.
        let done =
            error::value(|e| unsafe { sys::lp_seq_shift(self.raw.as_ptr(), sequence, from, n, e) }, |done| *done < 0)?;
        Ok(done == 1)
    }

    /// Whether the memory of a sequence has every position since the first, so that it can be cut anywhere. Windows
    /// forget what is behind them, and states keep the last position only.
    pub(crate) fn is_whole(&self, sequence: u32) -> Result<bool, NativeError> {
        let sequence = index(sequence);
        // SAFETY: the context is alive.
        let first =
            error::value(|e| unsafe { sys::lp_seq_first(self.raw.as_ptr(), sequence, e) }, |first| *first == -2)?;
        Ok(first <= 0)
    }

    /// Writes the state of a sequence into `bytes`, replacing what is there.
    pub(crate) fn save(&mut self, sequence: u32, bytes: &mut Vec<u8>) -> Result<(), NativeError> {
        let size = self.state_size(sequence)?;
        bytes.resize(size, 0);
        let sequence = index(sequence);
        // SAFETY: the context is alive, `bytes` holds `size`.
        let written = error::value(
            |e| unsafe { sys::lp_state_save(self.raw.as_ptr(), sequence, bytes.as_mut_ptr(), size, e) },
            |n| *n == 0,
        )?;
        bytes.truncate(written);
        Ok(())
    }

    /// Bytes that [`save`](Self::save) would write.
    pub(crate) fn state_size(&mut self, sequence: u32) -> Result<usize, NativeError> {
        let sequence = index(sequence);
        // SAFETY: the context is alive.
        error::value(|e| unsafe { sys::lp_state_size(self.raw.as_ptr(), sequence, e) }, |n| *n == 0)
    }

    /// Makes what [`save`](Self::save) wrote the state of a sequence. After an error the sequence is empty.
    pub(crate) fn load(&mut self, sequence: u32, bytes: &[u8]) -> Result<(), NativeError> {
        let sequence = index(sequence);
        let load = |e: *mut sys::lp_error| {
            // SAFETY: the context is alive, the bytes come from `save` of a context of the same model and parameters.
            unsafe { sys::lp_state_load(self.raw.as_ptr(), sequence, bytes.as_ptr(), bytes.len(), e) }
        };
        error::value(load, |done| !done).map(drop)
    }
}

/// A sequence or a position as llama.cpp counts them.
fn index(n: u32) -> i32 {
    i32::try_from(n).expect("prepare() bounds slots and n_ctx")
}

impl Drop for Context {
    fn drop(&mut self) {
        // First: if this dies of a fault, nobody tries again.
        self.model.lost_context(self.raw);
        // SAFETY: made by lp_context_new, freed once.
        unsafe { sys::lp_context_free(self.raw.as_ptr()) }
    }
}
