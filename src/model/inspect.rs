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

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(path: &std::path::Path) -> Result<ModelDescription> {
        inspect(&ModelReference::from_os(path)?, &HubCache::at("/nowhere"))
    }

    #[test]
    fn what_cannot_be_run_is_described_too() {
        let path = crate::test_model();
        let model = inspected(&path).unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert_eq!(model.files, [ModelFile { path: path.canonicalize().unwrap(), bytes }]);
        assert_eq!((model.id.as_str(), model.info.n_vocab), (path.file_stem().unwrap().to_str().unwrap(), 49152));
        assert_eq!(serde_json::from_str::<ModelDescription>(&model.to_json()).unwrap(), model);

        let synthetic = std::env::var_os("LLAMAPEN_SYNTHETIC_MODELS");
        let encoder = PathBuf::from(synthetic.expect("what scripts/synthetic.py prints")).join("bert.gguf");
        assert_eq!(inspected(&encoder).unwrap().info.causal, Some(false));
        assert_eq!(
            crate::prepare(&crate::EngineConfig::new(encoder)).unwrap_err().status(),
            crate::Status::Unsupported
        );
    }

    #[test]
    fn what_is_no_model_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text.gguf");
        std::fs::write(&text, "not a model at all, but long enough to hold a header").unwrap();
        let error = inspected(&text).unwrap_err();
        assert!(matches!(&error, Error::ModelInvalid { path, .. } if path.ends_with("text.gguf")), "{error}");
        let missing = inspected(&dir.path().join("missing.gguf")).unwrap_err();
        assert!(matches!(missing, Error::ModelNotFound { .. }), "{missing}");
    }
}
