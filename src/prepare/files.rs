//! The files of a model as they were found, so that a change is noticed.

use crate::error::{Error, Result};
use crate::model::{Digest, Header, ModelFiles, header_digest};
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which file was looked at: enough to notice that another one is in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileIdentity {
    /// Absolute path.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system.
    pub device: u64,
    /// SHA-256 of its header: everything before the weights.
    pub header_digest: Digest,
}

impl FileIdentity {
    /// Whether what lies at its path now is this file, as far as can be told without reading it.
    pub(super) fn is_there(&self) -> Result<bool> {
        let now = stat(&self.path)?;
        Ok((now.len(), mtime_ns(&now), now.ino(), now.dev()) == (self.bytes, self.mtime_ns, self.inode, self.device))
    }
}

/// A model's files, with their headers read.
#[derive(Debug)]
pub(super) struct Found {
    pub id: String,
    pub files: Vec<FileIdentity>,
    pub header: Header,
}

impl Found {
    pub(super) fn new(files: ModelFiles) -> Result<Self> {
        Self::at(files.id, &files.parts)
    }

    pub(super) fn at<P: AsRef<Path>>(id: String, paths: &[P]) -> Result<Self> {
        let before = paths.iter().map(|path| stat(path.as_ref())).collect::<Result<Vec<_>>>()?;
        let header = Header::open(paths).map_err(|(path, source)| Error::model(path, source))?;
        let digest = |(path, part): (&P, _)| {
            header_digest(path.as_ref(), part).map_err(|source| Error::model(path.as_ref().to_owned(), source))
        };
        let digests = paths.iter().zip(header.parts()).map(digest).collect::<Result<Vec<_>>>()?;
        let files = paths.iter().zip(before).zip(digests).map(|((path, found), header_digest)| FileIdentity {
            path: path.as_ref().to_owned(),
            bytes: found.len(),
            mtime_ns: mtime_ns(&found),
            inode: found.ino(),
            device: found.dev(),
            header_digest,
        });
        let found = Self { id, files: files.collect(), header };
        found.unchanged("its header was read")?;
        Ok(found)
    }

    /// Looks again: what was read since must be of these files.
    pub(super) fn unchanged(&self, meanwhile: &str) -> Result<()> {
        for file in &self.files {
            if !file.is_there()? {
                let problem = format!("changed while {meanwhile}; try again when it is complete");
                return Err(Error::ModelNotFound { path: file.path.clone(), problem });
            }
        }
        Ok(())
    }
}

fn mtime_ns(found: &Metadata) -> i64 {
    found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec())
}

fn stat(path: &Path) -> Result<Metadata> {
    path.metadata().map_err(|e| Error::ModelNotFound { path: path.to_owned(), problem: e.to_string() })
}
