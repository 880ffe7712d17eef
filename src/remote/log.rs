//! What a child logs, told to its host, where it goes to the host's subscriber.

use super::host::Host;
use super::message::ToHost;
use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Longest line that is told.
const LONGEST: usize = 4096;
const LLAMA: &str = "llama.cpp";

/// Sends lines up to a level. Spans say which request a line is about; a worker's lines name it themselves.
struct Teller {
    host: Arc<Host>,
    most: LevelFilter,
}

/// The process's lines go to `host` from now on. Without effect where it has a subscriber already.
pub(super) fn tell(host: Arc<Host>, level: &str) {
    let most = LevelFilter::from_str(level).unwrap_or(LevelFilter::OFF);
    let _ = tracing::subscriber::set_global_default(Teller { host, most });
}

impl Subscriber for Teller {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What happens to requests is logged by the host.
        metadata.is_event() && *metadata.level() <= self.most && !metadata.target().starts_with("llamapen::telemetry")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.most)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let mut text = line.message + &line.fields;
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
        }
        let (level, target) = (event.metadata().level().to_string(), event.metadata().target().to_owned());
        self.host.say(&ToHost::Log { level, target, line: text });
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// In the host: what a child has told. Lines of llama.cpp have its target, others ours.
pub(super) fn told(worker: Option<u32>, level: &str, target: &str, line: &str) {
    // No more than a sound child tells.
    let line = &line[..line.floor_char_boundary(2 * LONGEST)];
    macro_rules! emit {
        ($level:ident) => {
            match target == LLAMA {
                true => tracing::$level!(target: LLAMA, worker, "{line}"),
                false => tracing::$level!(worker, "{line}"),
            }
        };
    }
    match Level::from_str(level) {
        Ok(Level::ERROR) => emit!(error),
        Ok(Level::WARN) => emit!(warn),
        Ok(Level::INFO) => emit!(info),
        Ok(Level::DEBUG) => emit!(debug),
        _ => emit!(trace),
    }
}
