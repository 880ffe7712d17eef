//! What lives on the heap, of Rust, C and C++ alike: a program with this module has `malloc` and its like from here,
//! which count and hand on to those of glibc. Not part of `support`, so that only a program that counts does.

use libc::{c_int, c_void, size_t};
use std::sync::atomic::{AtomicI64, Ordering};

/// What was allocated and not freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    pub bytes: i64,
    pub blocks: i64,
}

static BYTES: AtomicI64 = AtomicI64::new(0);
static BLOCKS: AtomicI64 = AtomicI64::new(0);

pub fn live() -> Live {
    Live { bytes: BYTES.load(Ordering::Relaxed), blocks: BLOCKS.load(Ordering::Relaxed) }
}

unsafe extern "C" {
    fn __libc_malloc(size: size_t) -> *mut c_void;
    fn __libc_calloc(count: size_t, size: size_t) -> *mut c_void;
    fn __libc_realloc(place: *mut c_void, size: size_t) -> *mut c_void;
    fn __libc_memalign(alignment: size_t, size: size_t) -> *mut c_void;
    fn __libc_free(place: *mut c_void);
    fn malloc_usable_size(place: *mut c_void) -> size_t;
}

/// Counts a block by `sign`. What glibc says of its size is the same from its birth to its end.
fn count(place: *mut c_void, sign: i64) {
    if !place.is_null() {
        // SAFETY: a live block of glibc.
        let bytes = unsafe { malloc_usable_size(place) };
        BYTES.fetch_add(sign * bytes as i64, Ordering::Relaxed);
        BLOCKS.fetch_add(sign, Ordering::Relaxed);
    }
}

fn counted(place: *mut c_void) -> *mut c_void {
    count(place, 1);
    place
}

#[unsafe(no_mangle)]
extern "C" fn malloc(size: size_t) -> *mut c_void {
    // SAFETY: takes any size.
    counted(unsafe { __libc_malloc(size) })
}

#[unsafe(no_mangle)]
extern "C" fn calloc(number: size_t, size: size_t) -> *mut c_void {
    // SAFETY: takes any size.
    counted(unsafe { __libc_calloc(number, size) })
}

/// # Safety
/// `place` is NULL or a live block.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(place: *mut c_void, size: size_t) -> *mut c_void {
    count(place, -1);
    // SAFETY: as the caller promises.
    let moved = counted(unsafe { __libc_realloc(place, size) });
    if moved.is_null() && size > 0 {
        count(place, 1);
    }
    moved
}

/// # Safety
/// `place` is NULL or a live block, which nobody uses again.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(place: *mut c_void) {
    count(place, -1);
    // SAFETY: as the caller promises.
    unsafe { __libc_free(place) }
}

#[unsafe(no_mangle)]
extern "C" fn memalign(alignment: size_t, size: size_t) -> *mut c_void {
    // SAFETY: takes any alignment and size.
    counted(unsafe { __libc_memalign(alignment, size) })
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(alignment: size_t, size: size_t) -> *mut c_void {
    memalign(alignment, size)
}

/// # Safety
/// `place` may be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, alignment: size_t, size: size_t) -> c_int {
    if !alignment.is_power_of_two() || !alignment.is_multiple_of(size_of::<usize>()) {
        return libc::EINVAL;
    }
    let block = memalign(alignment, size);
    if block.is_null() && size > 0 {
        return libc::ENOMEM;
    }
    // SAFETY: as the caller promises.
    unsafe { place.write(block) };
    0
}
