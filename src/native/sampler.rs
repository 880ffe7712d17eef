//! Choosing a token from logits: llama.cpp's filters, our randomness.

use super::{Model, NativeError, error, sys};
use std::ptr::NonNull;
use std::sync::Arc;

/// The filters of one request, with what its penalties remember.
pub(crate) struct Sampler {
    raw: NonNull<sys::lp_sampler>,
    n_vocab: usize,
    _model: Arc<Model>,
}

// SAFETY: a sampler has no thread of its own; `&mut self` keeps it to one at a time.
unsafe impl Send for Sampler {}

pub(crate) type Sampling = sys::lp_sampling;

impl Sampler {
    pub(crate) fn new(model: Arc<Model>, sampling: &Sampling) -> Result<Self, NativeError> {
        // SAFETY: the model is kept alive beside the sampler.
        let raw = error::value(|e| unsafe { sys::lp_sampler_new(model.as_ptr(), sampling, e) }, |s| s.is_null())?;
        Ok(Self { raw: NonNull::new(raw).expect("checked by value()"), n_vocab: model.n_vocab(), _model: model })
    }

    /// Tells the penalties of a token that is part of the text.
    pub(crate) fn accept(&mut self, token: i32) -> Result<(), NativeError> {
        // SAFETY: the sampler is alive; the token is in the vocabulary, as the caller checked or the sampler itself chose.
        error::status(|e| unsafe { sys::lp_sampler_accept(self.raw.as_ptr(), token, e) })
    }

    /// Picks a token; `uniform` in [0, 1) is all the randomness there is.
    pub(crate) fn pick(&mut self, logits: &[f32], uniform: f64) -> Result<i32, NativeError> {
        assert_eq!(logits.len(), self.n_vocab, "logits of another model");
        // SAFETY: logits has n_vocab values, as asserted.
        error::value(|e| unsafe { sys::lp_sampler_pick(self.raw.as_ptr(), logits.as_ptr(), uniform, e) }, |t| *t < 0)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: made by lp_sampler_new, freed once.
        unsafe { sys::lp_sampler_free(self.raw.as_ptr()) }
    }
}
