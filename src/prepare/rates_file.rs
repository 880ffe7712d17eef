//! Measurements kept in a file, so that the next start need not measure: read by `prepare`, written by a supervisor, and only in the
//! folder that [`EngineConfig::tuning_cache`](crate::EngineConfig::tuning_cache) names.

use super::PreparedEngine;
use super::rates::Rates;
use crate::config::Isolation;
use crate::model::{Digest, open_regular};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Larger than any.
const MAX_BYTES: u64 = 64 << 10;

/// What measurements are of. Of other things they say nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    llamapen_version: String,
    engine_digest: String,
    /// Size and digest of the header of each file.
    model: Vec<(u64, Digest)>,
    cpu: Option<String>,
    cores: u32,
    threads: u32,
    workers: u32,
    slots: u32,
    isolation: Isolation,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: Key,
    rates: Rates,
}

impl Key {
    fn of(engine: &PreparedEngine) -> Self {
        Self {
            llamapen_version: engine.llamapen_version().into(),
            engine_digest: engine.engine_digest().into(),
            model: engine.files().iter().map(|file| (file.bytes, file.header_digest)).collect(),
            cpu: engine.machine().cpu_model.clone(),
            cores: engine.machine().cores(),
            threads: engine.threads(),
            workers: engine.workers(),
            slots: engine.slots(),
            isolation: engine.isolation(),
        }
    }

    fn file(&self, folder: &Path) -> PathBuf {
        let name: [u8; 32] = Sha256::digest(serde_json::to_vec(self).expect("plain data")).into();
        let name = Digest::Sha256(name).to_string();
        folder.join(format!("tuning-{}.json", name.trim_start_matches("sha256:")))
    }
}

/// What was measured of this engine before. What is damaged, or of something else, counts as none.
pub(super) fn find(engine: &PreparedEngine) -> Option<Rates> {
    let key = Key::of(engine);
    let (file, _) = open_regular(&key.file(engine.tuning_cache()?)).ok()?;
    let mut json = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut json).ok()?;
    let entry: Entry = serde_json::from_slice(&json).ok()?;
    (entry.key == key && entry.rates.tell()).then_some(entry.rates)
}

/// Keeps what was measured, if the engine names a folder for it.
pub(crate) fn store(engine: &PreparedEngine, rates: &Rates) -> io::Result<()> {
    let Some(folder) = engine.tuning_cache() else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let entry = Entry { key: Key::of(engine), rates: rates.clone() };
    // Whole or not at all: it gets its name when it is written.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(&entry)?)?;
    file.persist(entry.key.file(folder))?;
    Ok(())
}
