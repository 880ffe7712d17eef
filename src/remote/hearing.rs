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
use crate::machine::resident_bytes;
use crate::prepare::MemoryPlan;
use crate::status::Status;
use crate::sync::Mutex;
use crate::worker::{PlaceMemory, Snapshot, WorkerFault, WorkerProcess, WorkerState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a child's memory is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Most bytes of text that one token gives. What a stop string held back is given with the token that decides it.
const LONGEST_TEXT: usize = 1 << 20;

pub(super) struct Hearing {
    remote: Arc<Remote>,
    link: Arc<Link>,
    seat: Arc<Mutex<Seat>>,
    reader: Reader,
    pid: u32,
    /// Sent once it has said who it is.
    start: Option<Start>,
    /// When its memory was looked at.
    looked: Option<Instant>,
    ending: Arc<Ending>,
}

impl Hearing {
    pub(super) fn new(reader: Reader, start: Start, ending: Arc<Ending>) -> Self {
        let (remote, link, seat, pid) = (ending.remote.clone(), ending.link.clone(), ending.seat.clone(), ending.pid());
        Self { remote, link, seat, reader, pid, start: Some(start), looked: None, ending }
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
            ToHost::Beat => {
                state.beat();
                self.look_at_memory(state);
            }
            ToHost::Loading(progress) if !progress.is_finite() => return Err(nonsense("a load without a number")),
            ToHost::Loading(progress) => {
                state.beat();
                (self.remote.loading)(Some(progress.clamp(0.0, 1.0)));
            }
            ToHost::Loaded(confinement) => {
                self.goes_on_from(Phase::Starting)?;
                state.beat();
                state.set_loading(false);
                state.set_process(Some(WorkerProcess { pid: self.pid, confinement, rss_bytes: None }));
                self.link.set_phase(Phase::Loaded);
                (self.remote.tell)(seat.index, Heard::Loaded);
            }
            ToHost::Ready => {
                self.goes_on_from(Phase::Loaded)?;
                state.beat();
                self.link.set_phase(Phase::Ready);
                state.cores().tell(&self.link);
                (self.remote.tell)(seat.index, Heard::Ready);
            }
            ToHost::Kept(positions, stored) => state.set_kept(positions, stored),
            ToHost::Memory(places) => {
                if !are_of_plan(&places, self.remote.prepared.memory()) {
                    return Err(nonsense("memory in places that the plan has not"));
                }
                state.set_memory(places);
            }
            ToHost::Started(phases) if !phases.are_times() => return Err(nonsense("a start without times")),
            ToHost::Started(phases) => state.set_start_phases(Some(phases)),
            ToHost::Step(micros) => {
                let errand = self.link.standing().errand.take();
                let errand = errand.ok_or_else(|| nonsense("a measurement that nobody wanted"))?;
                state.has_measured();
                state.tries(seat.life, false);
                errand.answer(micros);
            }
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

    /// It can become loaded and ready once, in this order.
    fn goes_on_from(&self, phase: Phase) -> Result<(), WorkerFault> {
        match self.link.standing().phase == phase {
            true => Ok(()),
            false => Err(nonsense("that it is what it was, or cannot be yet")),
        }
    }

    /// A dead one has none any more: what it had last is in the report of its end.
    fn look_at_memory(&mut self, state: &WorkerState) {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            state.set_rss(resident_bytes(self.pid));
        }
    }

    fn greet(&mut self, theirs: &Build) -> Result<(), WorkerFault> {
        if let Some(difference) = Build::of_this().differs(theirs) {
            return Err(WorkerFault::new(CrashReason::LoadFailed, difference).with_status(Status::Unsupported));
        }
        self.link.standing().greeted = true;
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
                let most = job.request.max_tokens.unwrap_or(self.remote.prepared.n_ctx());
                let may_be = token.index as usize == next && token.index < most && token.text.len() <= LONGEST_TEXT;
                // Of a request that has ended, some are on their way still.
                if !may_be && !job.events.is_closed() && job.events.run() == run {
                    return Err(nonsense("a token that is not the next one, or more than was asked for"));
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

/// It is kept and shown: no more, and no other names, than a worker of this plan has.
fn are_of_plan(places: &[PlaceMemory], plan: &MemoryPlan) -> bool {
    let kinds = |place: &PlaceMemory| place.weights.keys().all(|kind| PlaceMemory::KINDS.contains(&kind.as_str()));
    places.is_empty()
        || places.iter().map(|place| &place.place).eq(plan.places.iter().map(|place| &place.place))
            && places.iter().all(kinds)
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

#[cfg(test)]
mod tests {
    use super::super::ending::Memory;
    use super::*;
    use crate::config::KvType;
    use crate::event::{Failed, FinishReason, Finished, Timings, Usage};
    use crate::isolation::child::{LaunchOptions, launch, locate};
    use crate::isolation::confine::ConfinementReport;
    use crate::isolation::ipc;
    use crate::supervisor::Queue;
    use crate::telemetry::Telemetry;
    use crate::worker::{Cores, SnapshotPolicy};
    use crate::{EngineConfig, Isolation, QueueFullPolicy, Request, SupervisorConfig};
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A stand-in's ear, for what the test says in the place of a child.
    struct Ear {
        hearing: Hearing,
        job: Arc<Job>,
        told: Arc<AtomicU32>,
    }

    impl Ear {
        /// With one request, of at most 4 tokens, in its first run.
        fn new() -> Self {
            let config = EngineConfig::new(crate::test_model()).with_isolation(Isolation::Process).with_n_ctx(64);
            let prepared = Arc::new(crate::prepare(&config.with_kv_types(KvType::F16, KvType::F16)).unwrap());
            let telemetry = Arc::new(Telemetry::of(&prepared, &Arc::default()));
            let queue = Arc::new(Queue::new(1, QueueFullPolicy::Reject));
            let state = Arc::new(WorkerState::new(telemetry.workers[0].clone(), Arc::new(Cores::new(1, false))));
            let life = state.begin_life();
            let job = Job::new(5, Request::prompt("a").with_max_tokens(4), Some(0), Arc::downgrade(&queue), telemetry);
            let job = Arc::new(job);
            assert!(state.add(life, job.clone()));
            let told = Arc::new(AtomicU32::new(0));
            let located = Arc::new(locate(Some(Path::new("/bin/cat"))).unwrap());
            let remote = Arc::new(Remote {
                name: "worker-0".into(),
                prepared,
                queue,
                snapshots: Arc::new(SnapshotPolicy::new(1, 1 << 20)),
                config: SupervisorConfig::default(),
                located: located.clone(),
                verify: false,
                loading: Box::new(|_| true),
                tell: Box::new({
                    let told = told.clone();
                    move |_, _| {
                        told.fetch_add(1, Ordering::Relaxed);
                    }
                }),
            });
            let (ours, theirs) = ipc::pair().unwrap();
            // Something that lives: what it says is not listened to.
            let launched = Arc::new(launch(&located, theirs, &LaunchOptions::default()).unwrap());
            let ending = Ending {
                remote,
                link: Arc::new(Link::new()),
                seat: Arc::new(Mutex::new(Seat { index: Some(0), state, life })),
                launched,
                memory: Memory { group: None, kills_before: None },
            };
            let reader = Reader::new(Arc::new(ours));
            let hearing = Hearing {
                remote: ending.remote.clone(),
                link: ending.link.clone(),
                seat: ending.seat.clone(),
                reader,
                pid: ending.pid(),
                start: None,
                looked: None,
                ending: Arc::new(ending),
            };
            Self { hearing, job, told }
        }

        fn hears(&mut self, message: ToHost) -> Result<(), CrashReason> {
            self.hearing.hear((message, None)).map_err(|fault| fault.reason)
        }

        fn hears_event(&mut self, run: u32, event: Said) -> Result<(), CrashReason> {
            self.hears(ToHost::Event { id: 5, run, event })
        }
    }

    fn token(index: u32) -> Said {
        Said::Token(Token { index, token: 1, text: "a".into(), logprobs: None, logits: None })
    }

    fn finished() -> Said {
        let (usage, timings) = (Usage::default(), Timings::default());
        let (text, reason) = (String::new(), FinishReason::Length);
        Said::Finished(Finished { reason, stop_string: None, stop_token: None, text, usage, timings })
    }

    const SENSE: Result<(), CrashReason> = Ok(());
    const NONSENSE: Result<(), CrashReason> = Err(CrashReason::Protocol);

    #[test]
    fn it_becomes_loaded_and_ready_in_this_order_and_once() {
        let mut ear = Ear::new();
        let loaded = || ToHost::Loaded(ConfinementReport::default());
        assert_eq!(ear.hears(ToHost::Ready), NONSENSE);
        assert_eq!(ear.hears(ToHost::Loading(f32::NAN)), NONSENSE);
        assert_eq!(ear.hears(ToHost::Loading(0.5)), SENSE);
        assert_eq!((ear.hears(loaded()), ear.hears(loaded())), (SENSE, NONSENSE));
        assert_eq!((ear.hears(ToHost::Ready), ear.hears(ToHost::Ready)), (SENSE, NONSENSE));
        assert_eq!(ear.told.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn it_measures_what_it_was_asked_to() {
        use crate::supervisor::{Errand, Measure};
        let mut ear = Ear::new();
        assert_eq!(ear.hears(ToHost::Step(Some(1))), NONSENSE);
        let (told, tell) = crossbeam_channel::unbounded();
        let done = Box::new(move |micros| told.send(micros).unwrap());
        let errand = Errand::new(Measure { streams: 1, threads: 1 }, Arc::default(), done);
        ear.hearing.link.standing().errand = Some(errand);
        assert_eq!((ear.hears(ToHost::Step(Some(7))), tell.try_recv()), (SENSE, Ok(Some(7))));
        assert_eq!(ear.hears(ToHost::Step(Some(7))), NONSENSE, "twice");
    }

    #[test]
    fn its_start_took_some_time() {
        let mut ear = Ear::new();
        let phases = |context_ms| {
            ToHost::Started(
                serde_json::from_value(
                    serde_json::json!({ "load": null, "context_ms": context_ms, "warm_up_ms": 1.5 }),
                )
                .unwrap(),
            )
        };
        assert_eq!((ear.hears(phases(-1.0)), ear.hears(phases(2.0))), (NONSENSE, SENSE));
        assert_eq!(ear.hearing.seat.lock().state.start_phases().unwrap().context_ms, 2.0);
    }

    #[test]
    fn it_has_memory_only_where_the_plan_has() {
        let mut ear = Ear::new();
        let place = |place: &str, kind: &str| PlaceMemory {
            place: place.into(),
            planned_bytes: 1,
            allocated_bytes: 1,
            weights_planned_bytes: 1,
            weights: [(kind.to_owned(), 1)].into(),
        };
        assert_eq!(ear.hears(ToHost::Memory(vec![place("host", "attention")])), SENSE);
        for places in [
            vec![place("GPU0", "attention")],
            vec![place("host", "attention"), place("host", "attention")],
            vec![place("host", "x")],
        ] {
            assert_eq!(ear.hears(ToHost::Memory(places)), NONSENSE);
        }
    }

    #[test]
    fn tokens_come_in_order_and_no_more_than_were_asked_for() {
        let mut ear = Ear::new();
        assert_eq!(ear.hears_event(0, token(1)), NONSENSE, "the first is missing");
        assert_eq!(ear.hears_event(0, token(0)), SENSE);
        assert_eq!(ear.hears_event(0, token(0)), NONSENSE, "twice");
        (1..4).for_each(|index| assert_eq!(ear.hears_event(0, token(index)), SENSE));
        assert_eq!(ear.hears_event(0, token(4)), NONSENSE, "too many");
        let long = Token { index: 4, token: 1, text: "a".repeat(2 << 20), logprobs: None, logits: None };
        assert_eq!(ear.hears_event(0, Said::Token(long)), NONSENSE);
        assert_eq!(ear.job.events.given(<[i32]>::len), 4);
    }

    #[test]
    fn logits_are_as_many_as_the_vocabulary_has() {
        let mut ear = Ear::new();
        let n_vocab = ear.hearing.remote.prepared.info().n_vocab as usize;
        for (logits, sense) in [(n_vocab - 1, NONSENSE), (n_vocab, SENSE)] {
            let blob = Blob::new(vec![0; 4 * logits]).unwrap();
            let message = ToHost::Event { id: 5, run: 0, event: token(0) };
            assert_eq!(ear.hearing.hear((message, Some(blob))).map_err(|fault| fault.reason), sense);
        }
    }

    #[test]
    fn of_what_it_does_not_run_it_can_say_what_it_likes() {
        let mut ear = Ear::new();
        let failed = || Said::Failed(Failed::new(Status::Internal, "x"));
        for message in [
            ToHost::Event { id: 6, run: 0, event: token(9) },
            ToHost::Event { id: 6, run: 0, event: failed() },
            ToHost::Event { id: 5, run: 1, event: failed() },
            ToHost::Freed { id: 6 },
            ToHost::Resumed { id: 6, run: 0 },
            ToHost::Drafted { id: 6, tokens: 1, accepted: 1 },
            ToHost::CaughtUp { id: 6, tokens: 1, micros: 1 },
        ] {
            assert_eq!(ear.hears(message), SENSE);
        }
        assert!(!ear.job.events.is_closed());
        assert_eq!(ear.hears_event(0, finished()), SENSE);
        assert!(ear.job.events.is_closed());
        // On their way when it ended.
        assert_eq!(ear.hears_event(0, token(7)), SENSE);
        assert_eq!(ear.hears_event(0, failed()), SENSE);
        // Its life is over: it was taken for dead.
        ear.hearing.seat.lock().state.take_jobs();
        assert_eq!(ear.hears_event(0, token(7)), SENSE);
    }

    #[test]
    fn another_build_is_not_started() {
        let mut ear = Ear::new();
        let mut build = serde_json::to_value(Build::of_this()).unwrap();
        build["engine_digest"] = "sha256:0".into();
        let fault = ear.hearing.hear((ToHost::Hello(serde_json::from_value(build).unwrap()), None)).unwrap_err();
        assert_eq!((fault.reason, fault.status()), (CrashReason::LoadFailed, Status::Unsupported));
    }
}
