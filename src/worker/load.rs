//! Loading what was prepared: the one way, whichever process the weights are to be in.

use super::memory::check_placement;
use crate::error::{Error, Result};
use crate::native::{self, LoadParams, Model, NativeError, NativeStatus};
use crate::prepare::PreparedEngine;
use crate::status::Status;

/// Runs in a fault domain. `progress` gets 0.0 to 1.0 now and then, and ends the load by returning false.
pub(crate) fn load(engine: &PreparedEngine, progress: impl FnMut(f32) -> bool) -> Result<Model> {
    let not_loaded = |error: NativeError| {
        let status = match error.status {
            NativeStatus::Aborted => Status::Cancelled,
            NativeStatus::OutOfMemory | NativeStatus::GpuOutOfMemory => Status::OutOfMemory,
            _ => Status::LoadFailed,
        };
        Error::Load { status, message: format!("loading {}: {error}", engine.model().display()) }
    };
    native::init_backend().map_err(not_loaded)?;
    let shares = engine.split().map(|split| split.shares.as_slice()).unwrap_or_default();
    if !shares.is_empty() {
        native::start_cuda().map_err(not_loaded)?;
    }
    let devices = shares.iter().map(|share| (share.index, share.layers)).collect();
    let params = LoadParams {
        use_mmap: engine.use_mmap(),
        use_repack: engine.use_repack(),
        use_mlock: engine.use_mlock(),
        devices,
    };
    let model = Model::load(engine.model(), &params, progress).map_err(not_loaded)?;
    check_placement(engine, &model)?;
    Ok(model)
}
