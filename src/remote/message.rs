//! What host and child say to each other. Both are of the same build: the first thing that is said shows it.

use crate::build_info::build_info;
use crate::crash::CrashReason;
use crate::event::{Failed, Finished, Started, Token};
use crate::isolation::confine::{Confinement, ConfinementReport};
use crate::native::cpu_level;
use crate::request::Request;
use crate::status::Status;
use crate::supervisor::Measure;
use crate::worker::{Measured, PlaceMemory, SnapshotHead, StartPhases};
use serde::{Deserialize, Serialize};

/// What the host tells a child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToChild {
    /// The first message: load, and become ready.
    Start(Box<Start>),
    /// A request; the state of its snapshot goes along.
    Run(Box<Run>),
    /// The request has ended: its slot is to be freed.
    Cancel {
        id: u64,
    },
    /// It has nothing to do: to be measured, unless that is not wanted any more.
    Measure(Measure),
    StopMeasuring,
    /// It computes with so many threads from now on.
    Threads(u32),
    /// Ends a running decode, frees everything, and ends.
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// A `PreparedEngine` as JSON.
    pub engine: String,
    pub max_stall_ms: u64,
    pub snapshot_tokens: u32,
    pub snapshot_bytes: u64,
    /// Most detailed level of lines that somebody wants, as `tracing` names it.
    pub log_level: String,
    /// What an earlier life of the worker has measured.
    pub measured: Option<Measured>,
    pub confinement: Confinement,
    /// A fault of the load or of the start, by name, and which life this is.
    pub fault: Option<crate::config::StartFault>,
    pub restarts: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub id: u64,
    pub run: u32,
    pub request: Request,
    /// The request's own, or the one that was drawn.
    pub seed: u64,
    /// Tokens that earlier runs gave.
    pub given: Vec<i32>,
    pub snapshot: Option<SnapshotHead>,
}

/// What a child tells its host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHost {
    Hello(Build),
    /// How much of the model is loaded, 0 to 1.
    Loading(f32),
    Loaded(ConfinementReport),
    /// It has decoded a token.
    Ready,
    /// Its loop turned.
    Beat,
    /// Positions that the slots hold, and bytes of saved states.
    Kept(u64, u64),
    /// What the engine allocated.
    Memory(Vec<PlaceMemory>),
    /// How long its start took.
    Started(StartPhases),
    Measured(Measured),
    /// Microseconds of what was to be measured; `None`: it was not.
    Step(Option<u64>),
    /// The engine was called once.
    Decoded {
        tokens: u32,
        micros: u64,
    },
    DecodeFailed,
    /// Logits of a token go along.
    Event {
        id: u64,
        run: u32,
        event: Said,
    },
    Drafted {
        id: u64,
        tokens: u32,
        accepted: u32,
    },
    CaughtUp {
        id: u64,
        tokens: u32,
        micros: u64,
    },
    /// A snapshot; its state goes along.
    Saved {
        id: u64,
        run: u32,
        head: SnapshotHead,
    },
    /// The request went on from its snapshot, which is as good as before.
    Resumed {
        id: u64,
        run: u32,
    },
    /// A slot is free.
    Freed {
        id: u64,
    },
    Log {
        level: String,
        target: String,
        line: String,
    },
    /// The last message: it ends, because of this.
    Died {
        reason: CrashReason,
        status: Status,
        message: String,
    },
    /// The last message: it ends, as it was told to.
    Done,
}

/// The events that a worker gives.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    Started(Started),
    Token(Token),
    Finished(Finished),
    Failed(Failed),
}

/// What must be the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Build {
    llamapen: String,
    engine_digest: String,
    features: Vec<String>,
    cpu_level: Option<String>,
}

impl Build {
    pub(super) fn of_this() -> Self {
        let build = build_info();
        Self {
            llamapen: build.llamapen_version.into(),
            engine_digest: build.engine_digest.into(),
            features: build.features.iter().map(|&feature| feature.into()).collect(),
            cpu_level: cpu_level(),
        }
    }

    /// How the other side differs; `None`: it does not.
    pub(super) fn differs(&self, other: &Self) -> Option<String> {
        let level = |build: &Self| build.cpu_level.clone().unwrap_or_default();
        let pairs = [
            ("version", self.llamapen.clone(), other.llamapen.clone()),
            ("engine digest", self.engine_digest.clone(), other.engine_digest.clone()),
            ("features", self.features.join(" "), other.features.join(" ")),
            ("level of CPU kernels", level(self), level(other)),
        ];
        let (what, ours, theirs) = pairs.into_iter().find(|(_, ours, theirs)| ours != theirs)?;
        Some(format!("the worker program is of another build: its {what} is \"{theirs}\", the host's \"{ours}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_build_is_told_by_what_differs() {
        let ours = Build::of_this();
        assert_eq!(ours.differs(&ours.clone()), None);
        for (other, what) in [
            (Build { llamapen: "0.0.1".into(), ..ours.clone() }, "version"),
            (Build { engine_digest: "sha256:0".into(), ..ours.clone() }, "engine digest"),
            (Build { features: vec!["other".into()], ..ours.clone() }, "features"),
            (Build { cpu_level: Some("other".into()), ..ours.clone() }, "level of CPU kernels"),
        ] {
            let text = ours.differs(&other).unwrap();
            assert!(text.contains(&format!("its {what} is")), "{text}");
        }
    }
}
