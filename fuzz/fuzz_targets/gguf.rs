//! The GGUF reader: whatever the bytes, it neither panics nor takes more memory than a small multiple of them.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use llamapen::model::{Gguf, ModelInfo};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes of memory for each byte of a file. Small tokens cost the most: eight bytes of length in the file, and in
/// memory a place in the sorted list that finds equal ones.
const PER_BYTE: usize = 16;
/// The buffer that files are read through, and messages.
const FIXED: usize = 96 << 10;

fuzz_target!(|bytes: &[u8]| {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = Gguf::read(Cursor::new(bytes)).and_then(|gguf| ModelInfo::from_gguf(&gguf));
    let taken = MEMORY.peak_usage() - before;
    assert!(taken <= FIXED + PER_BYTE * bytes.len(), "{taken} bytes for a file of {}", bytes.len());
    if let Err(error) = result {
        assert!(error.to_string().len() < 1000);
    }
});
