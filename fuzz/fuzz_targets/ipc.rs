//! The frames between a host and its worker child: whatever arrives, the decoder neither panics nor takes more memory than a
//! small multiple of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llamapen::fuzzing;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes of memory for each byte that arrives: an empty text is one byte of a message, and in memory 64 bytes in a list of
/// messages, twice while the list grows, and then once more when it is checked.
const PER_BYTE: usize = 256;
/// The decoder's buffer, a large message and a large blob that come as files, and their copies; and serde believes a list
/// that it is long, up to 1 MiB, in each of the 42 lists that can lie one within the other.
const FIXED: usize = 43 << 20;

fuzz_target!(|script: &[u8]| {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    fuzzing::ipc(script);
    let taken = MEMORY.peak_usage() - before;
    assert!(taken <= FIXED + PER_BYTE * script.len(), "{taken} bytes for {}", script.len());
});
