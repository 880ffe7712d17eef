//! One fault domain: a thread of ours and the compute threads that ggml starts from it. They die together.
//!
//! Safe wrapper of `pen/pen.h`, where the work is done: what runs in signal handlers and in the middle of ggml is C.

use super::signal_name;
use crate::native::sys;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a domain died of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub kind: FaultKind,
    /// On one of ggml's compute threads, and not on the thread that decodes.
    pub on_compute_thread: bool,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// A memory fault, a division by zero, an illegal instruction. Memory that others use may have been written to before.
    Signal,
    /// `GGML_ASSERT` or `GGML_ABORT`.
    Abort,
    /// A C++ exception where nobody could catch it.
    Exception,
    /// The same of `std::bad_alloc`.
    OutOfMemory,
    /// It was told to die, because it did not go on.
    Stall,
    /// A Rust panic, in a build where panics abort.
    Panic,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        f.write_str(if self.on_compute_thread { ", on a compute thread" } else { "" })
    }
}

/// Freed only when none of its threads is left; leaked otherwise.
pub(super) struct Domain {
    raw: NonNull<sys::lp_domain>,
    is_empty: AtomicBool,
}

// SAFETY: all functions of pen.h may be called from any thread.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    pub(super) fn new() -> Option<Self> {
        // SAFETY: takes nothing.
        NonNull::new(unsafe { sys::lp_domain_new() }).map(|raw| Self { raw, is_empty: AtomicBool::new(true) })
    }

    /// Runs `body` on the domain's first thread. False: the system gives no thread.
    pub(super) fn start(&self, stack_bytes: usize, body: Box<dyn FnOnce() + Send>) -> bool {
        extern "C" fn run(data: *mut c_void) {
            // SAFETY: made by Box::into_raw below, given to one thread once.
            let body = unsafe { Box::from_raw(data.cast::<Box<dyn FnOnce() + Send>>()) };
            body();
        }
        let data = Box::into_raw(Box::new(body));
        self.is_empty.store(false, Ordering::Release);
        // SAFETY: `run` fits the signature, does not unwind (the body catches), and takes `data` over where it is called.
        let started = unsafe { sys::lp_domain_start(self.raw.as_ptr(), stack_bytes, Some(run), data.cast()) };
        if !started {
            self.is_empty.store(true, Ordering::Release);
            // SAFETY: no thread took it.
            drop(unsafe { Box::from_raw(data) });
        }
        started
    }

    /// Waits for its end: in order (`None`), or of a fault.
    pub(super) fn wait(&self) -> Option<Fault> {
        // SAFETY: the domain is alive.
        match unsafe { sys::lp_domain_wait(self.raw.as_ptr()) } {
            true => None,
            false => Some(self.fault()),
        }
    }

    /// Waits for either, for at most so long. True: it has ended.
    pub(super) fn is_over(&self, wait: Duration) -> bool {
        // SAFETY: the domain is alive.
        unsafe { sys::lp_domain_is_over(self.raw.as_ptr(), micros(wait)) }
    }

    fn fault(&self) -> Fault {
        // SAFETY: plain data, for which zero is a valid value.
        let mut raw: sys::lp_fault = unsafe { std::mem::zeroed() };
        // SAFETY: the domain is alive, `raw` may be written to.
        unsafe { sys::lp_domain_fault(self.raw.as_ptr(), &mut raw) };
        // SAFETY: lp_copy ends every message with NUL.
        let text = unsafe { CStr::from_ptr(raw.message.as_ptr()) }.to_string_lossy().into_owned();
        let (kind, message) = match raw.kind as sys::LP_FaultKind {
            sys::LP_FAULT_ABORT => (FaultKind::Abort, format!("abort: {text}")),
            sys::LP_FAULT_THROW => (FaultKind::Exception, format!("C++ exception: {text}")),
            sys::LP_FAULT_MEMORY => (FaultKind::OutOfMemory, format!("out of memory: {text}")),
            sys::LP_FAULT_STALL => (FaultKind::Stall, text),
            sys::LP_FAULT_PANIC => (FaultKind::Panic, text),
            _ => (FaultKind::Signal, signal_text(&raw)),
        };
        Fault { kind, on_compute_thread: raw.on_compute_thread, message }
    }

    /// Has it die, as if it had faulted.
    pub(super) fn condemn(&self, why: &CStr) {
        // SAFETY: the domain is alive; the text is copied.
        unsafe { sys::lp_domain_condemn(self.raw.as_ptr(), why.as_ptr()) }
    }

    /// Parks its threads, for at most so long. True: all of them.
    pub(super) fn park(&self, wait: Duration) -> bool {
        // SAFETY: the domain is alive.
        unsafe { sys::lp_domain_park(self.raw.as_ptr(), micros(wait)) == 0 }
    }

    /// Ends the threads, all of which are parked.
    pub(super) fn reap(&self) {
        // SAFETY: called once, by the warden.
        unsafe { sys::lp_domain_reap(self.raw.as_ptr()) }
        self.is_empty.store(true, Ordering::Release);
    }

    /// Whether its first thread stopped in a call of ours, where what it was working on is whole.
    pub(super) fn is_whole(&self) -> bool {
        // SAFETY: the domain is alive.
        unsafe { sys::lp_domain_is_whole(self.raw.as_ptr()) }
    }

    /// Gives its large blocks of memory back.
    pub(super) fn free_blocks(&self) {
        if self.is_empty.load(Ordering::Acquire) {
            // SAFETY: no thread of it is left.
            unsafe { sys::lp_domain_free_blocks(self.raw.as_ptr()) }
        }
    }

    /// After an end in order.
    pub(super) fn join(&self) {
        // SAFETY: its body has returned; called once, by the warden. ggml joined the compute threads when their pool was freed.
        unsafe { sys::lp_domain_join(self.raw.as_ptr()) }
        self.is_empty.store(true, Ordering::Release);
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        if self.is_empty.load(Ordering::Acquire) {
            // SAFETY: no thread of it is left.
            unsafe { sys::lp_domain_free(self.raw.as_ptr()) }
        }
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn signal_text(fault: &sys::lp_fault) -> String {
    let name = signal_name(fault.signal).unwrap_or("signal");
    let place = if fault.pc == 0 { String::new() } else { format!(", at {:#x} in the engine", fault.pc) };
    format!("{name} ({}), address {:#x}{place}", fault.signal, fault.address)
}

/// Installs the signal handlers, once per process; the reason where they cannot work.
pub(crate) fn install_handlers() -> Result<(), String> {
    let mut why = std::ptr::null();
    // SAFETY: `why` may be written to, and is set to a static text where false is returned.
    match unsafe { sys::lp_handlers_install(cfg!(panic = "abort"), &mut why) } {
        true => {
            #[cfg(panic = "abort")]
            super::panic::install_hook();
            Ok(())
        }
        // SAFETY: as above.
        false => Err(unsafe { CStr::from_ptr(why) }.to_string_lossy().into_owned()),
    }
}

/// Whether the system still calls ours: a host may have replaced them.
pub(crate) fn handlers_installed() -> bool {
    // SAFETY: reads what is installed.
    unsafe { sys::lp_handlers_installed() }
}

/// What an injected fault does.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Injected {
    NullWrite = sys::LP_INJECT_NULL_WRITE,
    WildWrite = sys::LP_INJECT_WILD_WRITE,
    ReadOnlyWrite = sys::LP_INJECT_READ_ONLY_WRITE,
    WeightWrite = sys::LP_INJECT_WEIGHT_WRITE,
    Together = sys::LP_INJECT_TOGETHER,
    Abort = sys::LP_INJECT_ABORT,
    StackOverflow = sys::LP_INJECT_STACK_OVERFLOW,
    Division = sys::LP_INJECT_DIVISION,
    Illegal = sys::LP_INJECT_ILLEGAL,
    Loop = sys::LP_INJECT_LOOP,
    Throw = sys::LP_INJECT_THROW,
    NoMemory = sys::LP_INJECT_NO_MEMORY,
    CriticalWrite = sys::LP_INJECT_CRITICAL_WRITE,
    CriticalAbort = sys::LP_INJECT_CRITICAL_ABORT,
    CriticalWait = sys::LP_INJECT_CRITICAL_WAIT,
    MallocWrite = sys::LP_INJECT_MALLOC_WRITE,
    Heap = sys::LP_INJECT_HEAP,
    Allocate = sys::LP_INJECT_ALLOCATE,
    AllocateAndAbort = sys::LP_INJECT_ALLOCATE_AND_ABORT,
    Copy = sys::LP_INJECT_COPY,
    GpuAddress = sys::LP_INJECT_GPU_ADDRESS,
    GpuMemory = sys::LP_INJECT_GPU_MEMORY,
}

/// Where it does that; see `LP_Place`.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Place {
    Graph = sys::LP_IN_GRAPH,
    Compute = sys::LP_IN_COMPUTE,
    Sampler = sys::LP_IN_SAMPLER,
    New = sys::LP_IN_NEW,
    Memalign = sys::LP_IN_MEMALIGN,
    Load = sys::LP_IN_LOAD,
}

/// Has it happen once, to the calling thread's domain.
#[cfg(feature = "fault-injection")]
pub(crate) fn arm(injected: Injected, place: Place) {
    // SAFETY: both set plain values that the domain's threads read.
    unsafe {
        sys::lp_pen_inject();
        sys::lp_pen_arm(injected as i32, place as i32);
    }
}
