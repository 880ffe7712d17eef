//! Choosing a token from logits: llama.cpp's filters, our randomness.

use super::dry::Dry;
use super::{Model, NativeError, error, sys};
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

/// The filters of one request, with what they remember: of the penalties and DRY the last tokens, of mirostat a number
/// that follows from the logits and choices so far. So accepting the tokens of a text again, and for mirostat picking
/// them again from their logits, gives the same sampler.
pub(crate) struct Sampler {
    raw: NonNull<sys::lp_sampler>,
    n_vocab: usize,
    // It is kept alive, and told.
    model: Arc<Model>,
}

// SAFETY: a sampler has no thread of its own; `&mut self` keeps it to one at a time.
unsafe impl Send for Sampler {}

pub(crate) type SamplingParams = sys::lp_sampling;
pub(crate) type LogitBias = sys::lp_logit_bias;

pub(crate) struct Sampling {
    pub params: SamplingParams,
    /// Of tokens in the vocabulary.
    pub biases: Vec<LogitBias>,
    pub dry_breakers: Vec<CString>,
}

/// The randomness of one choice: numbers in [0, 1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    /// Picks among the candidates that are left.
    pub choice: f64,
    /// Decides whether XTC does anything.
    pub xtc: f64,
}

impl Sampler {
    pub(crate) fn new(model: Arc<Model>, sampling: &Sampling) -> Result<Self, NativeError> {
        let (biases, dry) = (&sampling.biases, model.dry().get(&model, sampling)?);
        let dry = dry.as_deref().map_or(std::ptr::null(), Dry::as_ptr);
        // SAFETY: the model is kept alive beside the sampler; the array and `dry` live until the call returns, which
        // keeps nothing of them.
        let new =
            |e| unsafe { sys::lp_sampler_new(model.as_ptr(), &sampling.params, biases.as_ptr(), biases.len(), dry, e) };
        let raw = error::value(new, |s| s.is_null())?;
        let raw = NonNull::new(raw).expect("checked by value()");
        model.has_sampler(raw);
        Ok(Self { raw, n_vocab: model.n_vocab(), model })
    }

    /// Makes its chain of filters a place for faults.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn add_fault(&mut self) {
        // SAFETY: the sampler is alive.
        unsafe { sys::lp_fault_sampler(self.raw.as_ptr()) }
    }

    /// Tells the penalties of a token that is part of the text.
    pub(crate) fn accept(&mut self, token: i32) -> Result<(), NativeError> {
        // SAFETY: the sampler is alive; the token is in the vocabulary, as the caller checked or the sampler itself chose.
        error::status(|e| unsafe { sys::lp_sampler_accept(self.raw.as_ptr(), token, e) })
    }

    /// Picks a token, once per position; `draw` is all the randomness there is.
    pub(crate) fn pick(&mut self, logits: &[f32], draw: Draw) -> Result<i32, NativeError> {
        assert_eq!(logits.len(), self.n_vocab, "logits of another model");
        // SAFETY: logits has n_vocab values, as asserted.
        let pick = |e| unsafe { sys::lp_sampler_pick(self.raw.as_ptr(), logits.as_ptr(), draw.choice, draw.xtc, e) };
        error::value(pick, |t| *t < 0)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // First, as for contexts.
        self.model.lost_sampler(self.raw);
        // SAFETY: made by lp_sampler_new, freed once.
        unsafe { sys::lp_sampler_free(self.raw.as_ptr()) }
    }
}

#[cfg(test)]
mod tests;
