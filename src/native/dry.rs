//! DRY samplers that are made once and copied for each request. llama.cpp looks through the whole vocabulary for each
//! sequence breaker, milliseconds in which a worker would decode nothing; a copy costs what the tokens that were found do.

use super::{Model, NativeError, Sampling, error, sys};
use crate::sync::Mutex;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

/// How many a model keeps. Most applications have one set of parameters. One takes a few dozen bytes for each token that
/// has to do with a breaker: 26 KB with the default breakers and 49,152 tokens, 13 MB if a caller sets out to make it
/// large (16 breakers, all of them frequent letters).
const KEPT: usize = 4;

/// A DRY sampler that has seen no token. Only read: copied into samplers.
pub(super) struct Dry(NonNull<sys::lp_dry>);

// SAFETY: nothing but copying reads it, which takes it as const and changes nothing; it is bound to no thread.
unsafe impl Send for Dry {}
// SAFETY: as above.
unsafe impl Sync for Dry {}

impl Dry {
    fn new(model: &Model, sampling: &Sampling) -> Result<Self, NativeError> {
        let texts: Vec<_> = sampling.dry_breakers.iter().map(|text| text.as_ptr()).collect();
        // SAFETY: the model and the array live until the call returns, which keeps nothing of them.
        let new = |e| unsafe { sys::lp_dry_new(model.as_ptr(), &sampling.params, texts.as_ptr(), texts.len(), e) };
        let raw = error::value(new, |dry| dry.is_null())?;
        Ok(Self(NonNull::new(raw).expect("checked by value()")))
    }

    pub(super) fn as_ptr(&self) -> *const sys::lp_dry {
        self.0.as_ptr()
    }
}

impl Drop for Dry {
    fn drop(&mut self) {
        // SAFETY: made by lp_dry_new, freed once.
        unsafe { sys::lp_dry_free(self.0.as_ptr()) }
    }
}

/// What a DRY sampler is made of. All parameters: llama.cpp copies it only with those that it has.
#[derive(PartialEq)]
struct Key {
    multiplier: u32,
    base: u32,
    allowed_length: i32,
    penalty_last_n: i32,
    breakers: Vec<CString>,
}

impl Key {
    fn of(sampling: &Sampling) -> Self {
        let params = &sampling.params;
        Self {
            multiplier: params.dry_multiplier.to_bits(),
            base: params.dry_base.to_bits(),
            allowed_length: params.dry_allowed_length,
            penalty_last_n: params.dry_penalty_last_n,
            breakers: sampling.dry_breakers.clone(),
        }
    }
}

/// A place that the first who needs it fills, while the others who need it wait and nobody else does.
type Place = Arc<OnceLock<Result<Arc<Dry>, NativeError>>>;

/// Those that were used last, the very last one at the end.
#[derive(Default)]
pub(super) struct DryCache {
    places: Mutex<Vec<(Key, Place)>>,
    #[cfg(test)]
    made: std::sync::atomic::AtomicUsize,
}

impl DryCache {
    /// The sampler for these parameters of `model`, whose cache this is. `None` where DRY is off.
    pub(super) fn get(&self, model: &Model, sampling: &Sampling) -> Result<Option<Arc<Dry>>, NativeError> {
        let params = &sampling.params;
        if params.mirostat != 0 || params.dry_multiplier == 0.0 || params.dry_penalty_last_n <= 0 {
            return Ok(None);
        }
        let key = Key::of(sampling);
        let place = self.place(key);
        let make = || {
            #[cfg(test)]
            self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Dry::new(model, sampling).map(Arc::new)
        };
        let made = place.get_or_init(make).clone();
        if made.is_err() {
            // Memory ran out, perhaps: the next one tries again.
            self.places.lock().retain(|(_, other)| !Arc::ptr_eq(other, &place));
        }
        made.map(Some)
    }

    fn place(&self, key: Key) -> Place {
        let mut places = self.places.lock();
        let entry = match places.iter().position(|(other, _)| *other == key) {
            Some(found) => places.remove(found),
            None => {
                if places.len() == KEPT {
                    places.remove(0);
                }
                (key, Place::default())
            }
        };
        let place = entry.1.clone();
        places.push(entry);
        place
    }

    #[cfg(test)]
    pub(super) fn made_and_kept(&self) -> (usize, usize) {
        (self.made.load(std::sync::atomic::Ordering::Relaxed), self.places.lock().len())
    }
}
