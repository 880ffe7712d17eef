//! What accompanies a configuration: the JSON of `options`.

use super::border::text;
use crate::config::from_json;
use crate::error::Result;
use crate::machine::MachineSnapshot;
use crate::model::{DigestCache, HubCache};
use crate::prepare::PrepareOptions;
use serde::Deserialize;
use serde_json::Value;
use std::ffi::c_char;
use std::path::PathBuf;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    /// As a value, because a snapshot checks its own form.
    machine: Option<Value>,
    hub: Option<PathBuf>,
    digest_cache: Option<PathBuf>,
}

impl Options {
    /// # Safety
    /// As for [`text`].
    pub(super) unsafe fn read(json: *const c_char, length: usize) -> Result<Self> {
        // SAFETY: the caller vouches for it.
        match unsafe { text("options", json, length) }? {
            "" => Ok(Self::default()),
            json => from_json("options", json),
        }
    }

    /// The machine that is given; without one, this one is observed.
    pub(super) fn machine(&self) -> Result<MachineSnapshot> {
        match &self.machine {
            Some(given) => MachineSnapshot::from_json(&given.to_string()),
            None => Ok(MachineSnapshot::observe()),
        }
    }

    pub(super) fn hub(&self) -> HubCache {
        self.hub.as_ref().map_or_else(HubCache::from_env, HubCache::at)
    }

    pub(super) fn prepare<'a>(&self) -> PrepareOptions<'a> {
        let options = PrepareOptions::default().with_hub(self.hub());
        match &self.digest_cache {
            Some(folder) => options.with_digest_cache(DigestCache::at(folder)),
            None => options,
        }
    }
}
