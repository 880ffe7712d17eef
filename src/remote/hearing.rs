//! What a child says, done to requests and to the worker's state.
//!
//! A child may be damaged before it dies, and one that is taken over by a model's file is an enemy. So nothing that it says is
//! taken for more than it can do: it speaks of requests that were handed to it only, its tokens come in order, and all
//! that it sends is bounded. Whatever else it says ends it.

use super::ending::Ending;
use super::host::from_bytes;
use super::link::{Link, Phase};
use super::message::{Build, Said, Start, ToChild, ToHost};
use super::stand_in::{Heard, Remote, Seat};
use crate::crash::CrashReason;
use crate::event::{Event, Started, Token};
use crate::isolation::ipc::{Blob, Reader};
use crate::job::Job;
use crate::status::Status;
use crate::worker::{Snapshot, WorkerFault, WorkerProcess};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct Hearing {
    remote: Arc<Remote>,
    link: Arc<Link>,
    seat: Arc<Mutex<Seat>>,
    reader: Reader,
    pid: u32,
    /// Sent once it has said who it is.
    start: Option<Start>,
    ending: Arc<Ending>,
}

impl Hearing {
    pub(super) fn new(reader: Reader, start: Start, ending: Arc<Ending>) -> Self {
        let (remote, link, seat, pid) = (ending.remote.clone(), ending.link.clone(), ending.seat.clone(), ending.pid());
        Self { remote, link, seat, reader, pid, start: Some(start), ending }
    }

    /// Until it is gone.
    pub(super) fn run(mut self) {
        let end = loop {
            let message = match self.reader.next() {
                Ok(Some((message, blob))) => (message, blob),
                Ok(None) => break None,
                Err(e) => {
                    break Some(WorkerFault::new(CrashReason::Protocol, format!("what it says makes no sense: {e}")));
                }
            };
            // Wakers and log subscribers run the host's code.
            match catch_unwind(AssertUnwindSafe(|| self.hear(message))) {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => break Some(fault),
                Err(_) => {
                    break Some(WorkerFault::new(
                        CrashReason::Panic,
                        "the host's code panicked, called for its events",
                    ));
                }
            }
        };
        if let Some(fault) = end {
            self.link.condemn(fault);
        }
        self.ending.tell();
        self.link.standing().heard_out = true;
        self.link.tell_change();
    }

    fn hear(&mut self, (message, blob): (ToHost, Option<Blob>)) -> Result<(), WorkerFault> {
        let seat = self.seat.lock().clone();
        let state = &seat.state;
        match message {
            ToHost::Hello(theirs) => return self.greet(&theirs),
            ToHost::Beat => state.beat(),
            ToHost::Loading(progress) => {
                state.beat();
                (self.remote.loading)(Some(progress.clamp(0.0, 1.0)));
            }
            ToHost::Loaded(confinement) => {
                state.beat();
                state.set_loading(false);
                state.set_process(Some(WorkerProcess { pid: self.pid, confinement }));
                self.link.set_phase(Phase::Loaded);
                (self.remote.tell)(seat.index, Heard::Loaded);
            }
            ToHost::Ready => {
                state.beat();
                self.link.set_phase(Phase::Ready);
                (self.remote.tell)(seat.index, Heard::Ready);
            }
            ToHost::Kept(positions, stored) => state.set_kept(positions, stored),
            ToHost::Memory(bytes) => state.set_memory(bytes),
            ToHost::Measured(measured) => state.set_measured(measured),
            ToHost::Decoded { tokens, micros } => {
                state.counters.decoded(tokens as usize, Duration::from_micros(micros));
            }
            ToHost::DecodeFailed => state.counters.decode_failures.add(1),
            ToHost::Event { id, run, event } => {
                if let Some(job) = state.job(seat.life, id) {
                    self.event(&seat, &job, run, event, blob)?;
                }
            }
            ToHost::Drafted { id, tokens, accepted } => {
                if let Some(job) = state.job(seat.life, id) {
                    job.events.drafted(tokens, accepted);
                }
            }
            ToHost::CaughtUp { id, tokens, micros } => {
                if let Some(job) = state.job(seat.life, id) {
                    let took = Duration::from_micros(micros);
                    tracing::debug!(request = id, tokens, ?took, "request has caught up");
                    job.events.caught_up(tokens, took);
                }
            }
            ToHost::Saved { id, run, head } => {
                let state = blob.ok_or_else(|| nonsense("a snapshot without a state"))?;
                if let Some(job) = seat.state.job(seat.life, id).filter(|job| job.events.run() == run) {
                    let mut last = job.snapshot();
                    if let Some(new) = Snapshot::of_parts(&self.remote.snapshots, head, state, last.as_ref()) {
                        *last = Some(new);
                    }
                    drop(last);
                    forget_if_ended(&job);
                }
            }
            ToHost::Resumed { id, run } => {
                let lent = self.link.standing().handed.get_mut(&id).and_then(|handed| handed.lent.take());
                if let Some(job) = seat.state.job(seat.life, id).filter(|job| job.events.run() == run) {
                    *job.snapshot() = lent;
                    forget_if_ended(&job);
                }
            }
            ToHost::Freed { id } => {
                if let Some(job) = seat.state.job(seat.life, id) {
                    job.runs_in(None);
                    seat.state.remove(seat.life, id);
                    forget_if_ended(&job);
                }
                self.link.standing().handed.remove(&id);
                self.link.tell_change();
            }
            ToHost::Log { level, target, line } => super::log::told(seat.index, &level, &target, &line),
            ToHost::Died { reason, status, message } => {
                let fault = WorkerFault::new(reason, message).with_status(status);
                self.link.standing().said = Some(Err(fault));
            }
            ToHost::Done => self.link.standing().said = Some(Ok(())),
        }
        Ok(())
    }

    fn greet(&mut self, theirs: &Build) -> Result<(), WorkerFault> {
        if let Some(difference) = Build::of_this().differs(theirs) {
            return Err(WorkerFault::new(CrashReason::LoadFailed, difference).with_status(Status::Unsupported));
        }
        if let Some(start) = self.start.take() {
            let sent = self.link.send(&ToChild::Start(Box::new(start)), None);
            sent.map_err(|e| WorkerFault::new(CrashReason::LoadFailed, format!("telling it what to run: {e}")))?;
        }
        Ok(())
    }

    fn event(&self, seat: &Seat, job: &Arc<Job>, run: u32, event: Said, blob: Option<Blob>) -> Result<(), WorkerFault> {
        let event = match event {
            Said::Started(started) => {
                let worker = seat.index.unwrap_or_default();
                if job.events.taken_up(run, worker) {
                    return Ok(());
                }
                let queue_position = self.link.standing().handed.get(&job.id).map_or(0, |handed| handed.position);
                Event::Started(Started { worker, queue_position, ..started })
            }
            Said::Token(token) => {
                let next = job.events.given(<[i32]>::len);
                // Of a request that has ended, some are on their way still.
                if token.index as usize != next && !job.events.is_closed() && job.events.run() == run {
                    return Err(nonsense("a token that is not the next one"));
                }
                // Looked at first: a file's length costs who sends it nothing.
                let is_logits = |blob: &Blob| blob.len() == 4 * u64::from(self.remote.prepared.info().n_vocab);
                let read =
                    |blob: Blob| is_logits(&blob).then(|| blob.read().ok().and_then(|bytes| from_bytes(&bytes)))?;
                let logits = blob.map(|blob| read(blob).ok_or_else(|| nonsense("logits that are none"))).transpose()?;
                Event::Token(Token { logits, ..token })
            }
            Said::Finished(mut finished) => {
                // Measured by the host's clock, from when it was submitted here.
                finished.timings = job.events.trace(|trace| trace.timings(Instant::now()));
                Event::Finished(finished)
            }
            Said::Failed(failed) => Event::Failed(failed),
        };
        let token = matches!(event, Event::Token(_));
        if job.events.push_from(run, event) && token && run > 0 {
            job.part().generated(job.events.given(|given| u32::try_from(given.len()).unwrap_or(u32::MAX)));
        }
        Ok(())
    }
}

fn nonsense(what: &str) -> WorkerFault {
    WorkerFault::new(CrashReason::Protocol, format!("what it says makes no sense: {what}"))
}

/// It may have ended in between: then nobody goes on with it.
fn forget_if_ended(job: &Job) {
    if job.events.is_closed() {
        job.ended();
    }
}
