//! A loaded model: weights, vocabulary, chat template. What a worker holds of one, so that it can be given back when the worker
//! is dead.

use super::dry::DryCache;
use super::{NativeError, NativeStatus, error, sys};
use crate::isolation::Remains;
use crate::sync::Mutex;
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long the parts of a load took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadTimes {
    /// Header and vocabulary.
    pub header: Duration,
    /// Files are mapped and read ahead, buffers allocated.
    pub mapping: Duration,
    /// Copied, repacked, uploaded.
    pub weights: Duration,
}

/// Weights and vocabulary, shared read-only by all contexts of the process.
struct Loaded {
    raw: NonNull<sys::lp_model>,
    times: LoadTimes,
    dry: DryCache,
}

// SAFETY: llama.cpp only reads a loaded model. Its vocabulary functions take it as const; contexts of several threads
// share it, which is llama.cpp's own way of running parallel contexts.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: made by lp_model_load, freed once; contexts hold a share, so none is left.
        unsafe { sys::lp_model_free(self.raw.as_ptr()) }
    }
}

/// A share of a loaded model. Each worker has its own, with what it made of it: all can be given back from outside when the
/// worker is dead, and can drop nothing itself.
pub(crate) struct Model {
    /// Taken out only by [`Remains::give_back`].
    loaded: UnsafeCell<Option<Arc<Loaded>>>,
    /// The context, of several the last.
    context: AtomicPtr<sys::lp_context>,
    samplers: Mutex<Vec<NonNull<sys::lp_sampler>>>,
}

// SAFETY: `loaded` is only read while any other use is possible, and what it holds may be used by several threads.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

#[derive(Default)]
pub(crate) struct LoadParams {
    pub use_mmap: bool,
    pub use_repack: bool,
    pub use_mlock: bool,
    /// GPUs by their index, and how many of the last layers each has.
    pub devices: Vec<(u32, u32)>,
}

impl Model {
    /// Loads the file at `path`. `progress` gets 0.0 to 1.0 now and then, and ends the load by returning false.
    pub(crate) fn load(
        path: &Path,
        params: &LoadParams,
        mut progress: impl FnMut(f32) -> bool,
    ) -> Result<Self, NativeError> {
        let failed = |message: &str| NativeError { status: NativeStatus::Failed, message: message.into() };
        let path = path.to_str().ok_or_else(|| failed("the path is not UTF-8"))?;
        let path = CString::new(path).map_err(|_| failed("the path holds a NUL character"))?;

        unsafe extern "C" fn trampoline<F: FnMut(f32) -> bool>(done: f32, user: *mut c_void) -> bool {
            // SAFETY: `user` is the closure below, which outlives the load and is called by one thread at a time.
            let progress = unsafe { &mut *user.cast::<F>() };
            // Nothing may unwind into C++: a panic ends the load.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| progress(done))).unwrap_or(false)
        }
        fn callback<F: FnMut(f32) -> bool>(_: &F) -> unsafe extern "C" fn(f32, *mut c_void) -> bool {
            trampoline::<F>
        }

        let (devices, layers): (Vec<u32>, Vec<u32>) = params.devices.iter().copied().unzip();
        let params = sys::lp_model_params {
            use_mmap: params.use_mmap,
            use_repack: params.use_repack,
            use_mlock: params.use_mlock,
            n_gpu_layers: layers.iter().sum(),
            devices: devices.as_ptr(),
            layers: layers.as_ptr(),
            n_devices: devices.len(),
            progress: Some(callback(&progress)),
            user: (&raw mut progress).cast(),
        };
        let mut phases = sys::lp_load_phases { header: 0, mapping: 0, weights: 0 };
        let load = |e: *mut sys::lp_error| {
            // SAFETY: path ends with NUL; params, phases and the closure live until the call returns.
            unsafe { sys::lp_model_load(path.as_ptr(), &params, &mut phases, e) }
        };
        let raw = NonNull::new(error::value(load, |m| m.is_null())?).expect("checked by value()");
        let time = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        let times =
            LoadTimes { header: time(phases.header), mapping: time(phases.mapping), weights: time(phases.weights) };
        Ok(Self::of(Arc::new(Loaded { raw, times, dry: DryCache::default() })))
    }

    fn of(loaded: Arc<Loaded>) -> Self {
        let context = AtomicPtr::new(null_mut());
        Self { loaded: UnsafeCell::new(Some(loaded)), context, samplers: Mutex::default() }
    }

    /// Another share of the same model.
    pub(crate) fn share(&self) -> Self {
        Self::of(self.loaded().clone())
    }

    fn loaded(&self) -> &Arc<Loaded> {
        // SAFETY: written to only by give_back, whose caller knows that nobody is here any more.
        unsafe { &*self.loaded.get() }.as_ref().expect("given back only when nobody uses it")
    }

    pub(super) fn as_ptr(&self) -> *mut sys::lp_model {
        self.loaded().raw.as_ptr()
    }

    /// How long it took to load.
    pub(crate) fn times(&self) -> LoadTimes {
        self.loaded().times
    }

    /// DRY samplers that requests had, to be copied for the next.
    pub(super) fn dry(&self) -> &DryCache {
        &self.loaded().dry
    }

    /// A context was made of this share.
    pub(super) fn has_context(&self, context: NonNull<sys::lp_context>) {
        self.context.store(context.as_ptr(), Ordering::Release);
    }

    /// Its owner frees it.
    pub(super) fn lost_context(&self, context: NonNull<sys::lp_context>) {
        let _ = self.context.compare_exchange(context.as_ptr(), null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }

    pub(super) fn has_sampler(&self, sampler: NonNull<sys::lp_sampler>) {
        self.samplers.lock().push(sampler);
    }

    pub(super) fn lost_sampler(&self, sampler: NonNull<sys::lp_sampler>) {
        self.samplers.lock().retain(|other| *other != sampler);
    }

    /// Every tensor: its name, the GPU that it is on, its bytes.
    pub(crate) fn tensors(&self, tell: impl FnMut(&str, Option<u32>, u64)) -> Result<(), NativeError> {
        struct Telling<F> {
            tell: F,
            panicked: bool,
        }
        unsafe extern "C" fn tell_one<F: FnMut(&str, Option<u32>, u64)>(
            name: *const c_char,
            device: i32,
            bytes: u64,
            user: *mut c_void,
        ) {
            // SAFETY: `user` is the value below, which outlives the call and is used by one thread; the name ends with NUL.
            let (telling, name) = unsafe { (&mut *user.cast::<Telling<F>>(), CStr::from_ptr(name)) };
            let name = name.to_string_lossy();
            // Nothing may unwind into C++.
            let told = std::panic::AssertUnwindSafe(|| (telling.tell)(&name, u32::try_from(device).ok(), bytes));
            telling.panicked |= std::panic::catch_unwind(told).is_err();
        }
        fn callback<F: FnMut(&str, Option<u32>, u64)>(_: &Telling<F>) -> sys::lp_tensor_fn {
            Some(tell_one::<F>)
        }
        let mut telling = Telling { tell, panicked: false };
        let callback = callback(&telling);
        // SAFETY: the model is alive, and what is told to lives until the call returns.
        error::status(|e| unsafe { sys::lp_model_tensors(self.as_ptr(), callback, (&raw mut telling).cast(), e) })?;
        assert!(!telling.panicked, "whoever is told of a tensor panicked");
        Ok(())
    }

    pub(crate) fn n_vocab(&self) -> usize {
        // SAFETY: the model is alive.
        let n = unsafe { sys::lp_model_n_vocab(self.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// Tokens of `text`. `add_special` adds what the vocabulary puts before a text (BOS); special tokens written out in
    /// the text are recognised.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<i32>, NativeError> {
        // A token has one byte at least; two more for BOS and EOS.
        let mut tokens = vec![0; text.len() + 2];
        loop {
            // SAFETY: pointers and lengths belong together; text need not end with NUL.
            let needed = error::value(
                |e| unsafe {
                    sys::lp_tokenize(
                        self.as_ptr(),
                        text.as_ptr().cast(),
                        text.len(),
                        add_special,
                        true,
                        tokens.as_mut_ptr(),
                        tokens.len(),
                        e,
                    )
                },
                |n| *n < 0,
            )? as usize;
            let fits = needed <= tokens.len();
            tokens.resize(needed, 0);
            if fits {
                return Ok(tokens);
            }
        }
    }

    /// Appends the bytes of `token` to `out`. A token may be a part of a code point. Control tokens have no text.
    pub(crate) fn token_bytes(&self, token: i32, out: &mut Vec<u8>) -> Result<(), NativeError> {
        self.append(token, false, out)
    }

    /// The text of a prompt, with special tokens written out. U+FFFD stands for what is no UTF-8.
    pub(crate) fn render(&self, tokens: &[i32]) -> Result<String, NativeError> {
        let mut bytes = Vec::new();
        tokens.iter().try_for_each(|token| self.append(*token, true, &mut bytes))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn append(&self, token: i32, special: bool, out: &mut Vec<u8>) -> Result<(), NativeError> {
        let mut buffer = [0u8; 256];
        let needed = self.piece(token, special, &mut buffer)?;
        if let Some(bytes) = buffer.get(..needed) {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let mut buffer = vec![0; needed];
        self.piece(token, special, &mut buffer)?;
        out.append(&mut buffer);
        Ok(())
    }

    fn piece(&self, token: i32, special: bool, buffer: &mut [u8]) -> Result<usize, NativeError> {
        // SAFETY: pointer and length belong together.
        let needed = error::value(
            |e| unsafe {
                sys::lp_token_to_piece(self.as_ptr(), token, special, buffer.as_mut_ptr().cast(), buffer.len(), e)
            },
            |n| *n < 0,
        )?;
        Ok(needed as usize)
    }

    /// Whether this token ends a generation (end of text, end of turn).
    pub(crate) fn is_eog(&self, token: i32) -> bool {
        // SAFETY: the model is alive; the token came from its own vocabulary.
        unsafe { sys::lp_token_is_eog(self.as_ptr(), token) }
    }
}

/// What a dead worker leaves. It counts as one of the share's owners for ever; one that ended in order leaves none.
impl Remains for Weak<Model> {
    unsafe fn free(&self) {
        let Some(model) = self.upgrade() else { return };
        if let Some(context) = NonNull::new(model.context.swap(null_mut(), Ordering::AcqRel)) {
            // SAFETY: its owner is gone and did not free it, nobody uses it, and it is whole, as the caller knows.
            unsafe { sys::lp_context_free_dead(context.as_ptr()) };
        }
        // A thread that panicked may have had the lock; no other can.
        for sampler in model.samplers.try_lock().map(|mut samplers| std::mem::take(&mut *samplers)).unwrap_or_default()
        {
            // SAFETY: as above.
            unsafe { sys::lp_sampler_free(sampler.as_ptr()) };
        }
        // Threads that were ended never hand their heaps over, and no other may come to use them.
        super::return_free_memory();
    }

    unsafe fn give_back(&self) {
        let Some(model) = self.upgrade() else { return };
        // SAFETY: nobody else uses this share, as the caller knows.
        drop(unsafe { &mut *model.loaded.get() }.take());
    }
}

/// Renders (role, content) pairs by the text of a chat template, ending where the assistant is to speak.
pub(crate) fn apply_chat_template(template: &str, messages: &[(&str, &str)]) -> Result<String, NativeError> {
    let nul = |_| NativeError { status: NativeStatus::Failed, message: "a text holds a NUL character".into() };
    let template = CString::new(template).map_err(nul)?;
    let strings = |pick: fn(&(&str, &str)) -> Vec<u8>| {
        messages.iter().map(pick).map(CString::new).collect::<Result<Vec<_>, _>>().map_err(nul)
    };
    let roles = strings(|m| m.0.into())?;
    let contents = strings(|m| m.1.into())?;
    let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_c_str().as_ptr()).collect::<Vec<*const c_char>>();
    let (roles_ptr, contents_ptr) = (pointers(&roles), pointers(&contents));

    let bytes: usize = messages.iter().map(|m| m.0.len() + m.1.len() + 64).sum();
    let mut buffer = vec![0u8; 256 + 2 * bytes];
    loop {
        // One byte is kept back, so that the text always ends with NUL.
        let capacity = buffer.len() - 1;
        // SAFETY: the strings live until the end of the function, counts and capacity belong to their pointers.
        let needed = error::value(
            |e| unsafe {
                sys::lp_chat_apply(
                    template.as_ptr(),
                    roles_ptr.as_ptr(),
                    contents_ptr.as_ptr(),
                    messages.len(),
                    true,
                    buffer.as_mut_ptr().cast(),
                    capacity,
                    e,
                )
            },
            |n| *n < 0,
        )? as usize;
        if needed <= capacity {
            let text = CStr::from_bytes_until_nul(&buffer).expect("the last byte is NUL");
            return Ok(text.to_string_lossy().into_owned());
        }
        buffer = vec![0; needed + 1];
    }
}
