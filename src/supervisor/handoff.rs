//! [`HandoffRecord`]: what is ready here, for those who are to bind to it. In memory always, in a file if asked for.

use super::shared::Shared;
use crate::build_info::build_info;
use crate::error::{Error, Result};
use crate::prepare::PreparedEngine;
use crate::status::Status;
use crate::sync::Mutex;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Number of the serialized form.
pub(super) const SCHEMA: u32 = 1;

/// What is ready: made when a worker has decoded its first token, and anew when one does so after a restart. It says what
/// was ready then; [`health`](super::Supervisor::health) says what is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HandoffRecord {
    /// Number of this form, 1.
    pub schema: u32,
    /// Name of the pool.
    pub pool_id: String,
    /// Which of several equal pools it is.
    pub replica_id: u32,
    /// The process that it runs in.
    pub pid: u32,
    /// Version of this crate.
    pub llamapen_version: String,
    /// Version of llama.cpp.
    pub engine_version: String,
    /// `sha256:` over the engine's sources, flags and compiler.
    pub engine_digest: String,
    /// What the model is called.
    pub model_id: String,
    /// Absolute paths of the model's files, in order.
    pub model_files: Vec<String>,
    /// Their digests that were given and verified; empty if none was given.
    pub model_digests: Vec<String>,
    /// Devices it may use.
    pub device_mask: String,
    /// Number of workers.
    pub workers: u32,
    /// Slots per worker.
    pub slots: u32,
    /// The configuration as llama.cpp's flags, in normal form.
    pub flags: Vec<String>,
    /// The worker that became ready.
    pub worker: u32,
    /// When it did, in milliseconds since 1970.
    pub ready_at_ms: u64,
}

impl HandoffRecord {
    fn new(engine: &PreparedEngine, worker: usize) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            schema: SCHEMA,
            pool_id: engine.pool_id().into(),
            replica_id: engine.replica_id(),
            pid: std::process::id(),
            llamapen_version: build_info().llamapen_version.into(),
            engine_version: engine.engine_version().into(),
            engine_digest: engine.engine_digest().into(),
            model_id: engine.model_id().into(),
            model_files: engine.files().iter().map(|file| file.path.display().to_string()).collect(),
            model_digests: engine.digest().iter().map(ToString::to_string).collect(),
            device_mask: engine.device_mask().to_string(),
            workers: engine.workers(),
            slots: engine.slots(),
            flags: engine.flags().to_vec(),
            worker: u32::try_from(worker).expect("few workers"),
            ready_at_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The whole of it as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    /// Name of its file.
    pub(super) fn file_name(&self) -> String {
        file_name(&self.pool_id, self.replica_id)
    }
}

/// The number is behind the last `-`, so no other pool and replica has the same.
fn file_name(pool_id: &str, replica_id: u32) -> String {
    format!("llamapen-{pool_id}-{replica_id}.json")
}

/// Keeps the record, and its file.
pub(super) struct Handoff {
    kept: Mutex<Kept>,
    file: Option<Mutex<File>>,
}

struct Kept {
    record: Option<HandoffRecord>,
    /// Whether there is a file of it.
    shown: bool,
    over: bool,
}

/// The place of the file, and what was written there by us.
struct File {
    path: PathBuf,
    written: Option<String>,
}

impl Handoff {
    /// `shown`: it is what others are to bind to from the beginning, not only once it has taken another one's place.
    pub(super) fn new(engine: &PreparedEngine, dir: Option<&Path>, shown: bool) -> Result<Self> {
        let place = |dir: &Path| {
            // Absolute: the host may change its working directory.
            let found = std::path::absolute(dir).and_then(|dir| Ok((std::fs::metadata(&dir)?.is_dir(), dir)));
            match found {
                Ok((true, dir)) => Ok(dir.join(file_name(engine.pool_id(), engine.replica_id()))),
                Ok((false, _)) => Err(Error::invalid("handoff_dir", format!("{} is no directory", dir.display()))),
                Err(e) => Err(Error::invalid("handoff_dir", format!("{}: {e}", dir.display()))),
            }
        };
        let path = dir.map(place).transpose()?;
        let file = path.map(|path| Mutex::new(File { path, written: None }));
        Ok(Self { kept: Mutex::new(Kept { record: None, shown, over: false }), file })
    }

    pub(super) fn record(&self) -> Option<HandoffRecord> {
        self.kept.lock().record.clone()
    }

    fn set(&self, record: HandoffRecord) -> std::io::Result<()> {
        self.change(|kept| kept.record = Some(record))
    }

    fn show(&self) -> std::io::Result<()> {
        self.change(|kept| kept.shown = true)
    }

    /// Changes what is kept, and writes the file if there is to be one.
    fn change(&self, change: impl FnOnce(&mut Kept)) -> std::io::Result<()> {
        // First, so that none is written after the end.
        let mut file = self.file.as_ref().map(Mutex::lock);
        let text = {
            let mut kept = self.kept.lock();
            if kept.over {
                return Ok(());
            }
            change(&mut kept);
            kept.record.as_ref().filter(|_| kept.shown).map(HandoffRecord::to_json)
        };
        let (Some(file), Some(text)) = (&mut file, text) else { return Ok(()) };
        write(&file.path, &text)?;
        file.written = Some(text);
        Ok(())
    }

    /// Nothing is ready, until `show`.
    pub(super) fn withdraw(&self) {
        self.remove(|kept| (kept.record, kept.shown) = (None, false));
    }

    /// Nothing is ready any more.
    pub(super) fn end(&self) {
        self.remove(|kept| (kept.record, kept.over) = (None, true));
    }

    /// Removes the file, unless somebody else has put another one in its place.
    fn remove(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.kept.lock());
        let Some(file) = &self.file else { return };
        let mut file = file.lock();
        if let Some(written) = file.written.take()
            && std::fs::read_to_string(&file.path).is_ok_and(|there| there == written)
            && let Err(error) = std::fs::remove_file(&file.path)
        {
            tracing::warn!(path = %file.path.display(), %error, "the handoff file could not be removed");
        }
    }
}

/// Whoever reads sees the old file or the whole new one. It is its owner's alone (mode 0600).
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".llamapen-").suffix(".tmp").tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

impl Shared {
    /// A worker became ready. A file that cannot be written is no reason not to run.
    pub(super) fn hand_off(&self, worker: usize) {
        self.written(self.handoff.set(HandoffRecord::new(&self.prepared, worker)));
    }

    /// It has taken its place: what is known to be ready is shown, or will be.
    pub(super) fn show_handoff(&self) {
        self.written(self.handoff.show());
    }

    fn written(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            let message = format!("handoff_dir: the record could not be written: {error}");
            tracing::warn!(pool_id = self.telemetry.identity.pool_id, last_error = message, "no handoff file");
            self.set_last_error(Status::InvalidParams, message);
        }
    }
}
