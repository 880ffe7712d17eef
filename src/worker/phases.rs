//! Where the time of a load and of a worker's start goes.

use crate::native::LoadTimes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the phases of loading a model took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LoadPhases {
    /// Its header was read, and its vocabulary made.
    pub header_ms: f64,
    /// Its files were mapped and read ahead, and buffers allocated for weights that are copied. With
    /// [`use_mmap`](crate::EngineConfig::use_mmap), a file that is not in the page cache is read here.
    pub mapping_ms: f64,
    /// Weights were copied, repacked for the kernels of this CPU, or brought to GPUs. Without `use_mmap`, files are read here.
    pub weights_ms: f64,
}

/// How long the phases of a worker's start took, in milliseconds: of its present life, once it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StartPhases {
    /// Of a worker that is a process, and loads the model itself. Threads share what was loaded once, see
    /// [`Health::load_phases`](crate::Health::load_phases).
    pub load: Option<LoadPhases>,
    /// KV cache and compute buffers were allocated, and compute threads started.
    pub context_ms: f64,
    /// The first token was decoded, and what a first life measures was: how large pieces of prompts may be, whether guesses
    /// are exact.
    pub warm_up_ms: f64,
}

impl From<LoadTimes> for LoadPhases {
    fn from(times: LoadTimes) -> Self {
        Self { header_ms: ms(times.header), mapping_ms: ms(times.mapping), weights_ms: ms(times.weights) }
    }
}

impl LoadPhases {
    /// Names and milliseconds, in the order in which they pass.
    pub(crate) fn named(&self) -> [(&'static str, f64); 3] {
        [("header", self.header_ms), ("mapping", self.mapping_ms), ("weights", self.weights_ms)]
    }
}

impl StartPhases {
    pub(super) fn new(load: Option<LoadPhases>, context: Duration, warm_up: Duration) -> Self {
        Self { load, context_ms: ms(context), warm_up_ms: ms(warm_up) }
    }

    /// The same, those of a load of its own first.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let own = [("context", self.context_ms), ("warm_up", self.warm_up_ms)];
        self.load.iter().flat_map(LoadPhases::named).chain(own)
    }

    /// Whether these are times.
    pub(crate) fn are_times(&self) -> bool {
        self.named().all(|(_, ms)| ms.is_finite() && ms >= 0.0)
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
