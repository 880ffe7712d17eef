//! A door for fuzz targets to what is not public.

/// Runs a script of bytes and descriptors through the decoder of frames; panics where it is wrong.
pub fn ipc(script: &[u8]) {
    // Any end will do.
    let _ = crate::isolation::ipc::fuzz::explore(script);
}
