//! [`inspect`]: what the model is that a reference names, whether or not it could be run.

use super::header::Header;
use super::hub::HubCache;
use super::info::ModelInfo;
use super::locate::locate;
use super::reference::ModelReference;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A model as its files and their headers describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelDescription {
    /// What to call it, see [`ModelFiles::id`](super::ModelFiles::id).
    pub id: String,
    /// Its files, the parts of a split model in order. Never empty.
    pub files: Vec<ModelFile>,
    /// What the header says.
    pub info: ModelInfo,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelFile {
    /// Absolute path.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
}

impl ModelDescription {
    /// The whole of it as JSON: equal descriptions give equal bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data with string keys")
    }
}

/// Finds the model that `reference` names and reads its header: also of encoders, and of models too large for this machine,
/// which [`prepare`](crate::prepare()) refuses. No weights are read.
///
/// # Errors
/// As [`locate`], and `ModelInvalid` for what is no GGUF, is damaged, or describes a model that llama.cpp cannot load safely.
pub fn inspect(reference: &ModelReference, cache: &HubCache) -> Result<ModelDescription> {
    let found = locate(reference, cache)?;
    let header = Header::open(&found.parts).map_err(|(path, source)| Error::model(path, source))?;
    let files = found.parts.into_iter().zip(header.parts());
    let files = files.map(|(path, part)| ModelFile { path, bytes: part.file_bytes() }).collect();
    Ok(ModelDescription { id: found.id, files, info: header.info().clone() })
}
