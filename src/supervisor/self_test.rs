//! The self-test: what a host can have shown to it before it trusts a supervisor that it has started.

use super::control::Report;
use super::pool::Pool;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::event::{Event, Failed, Token};
use crate::event_queue::Next;
use crate::isolation::thread;
use crate::request::Request;
use crate::status::Status;
use crate::stream::TokenStream;
use crate::telemetry::Metrics;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod log;

pub(super) use log::{Seen, emit};

/// How a [`self_test`](super::Supervisor::self_test) went. Printing it gives a line per step; it serializes to JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SelfTestReport {
    /// No step failed.
    pub passed: bool,
    /// In order: `load`, `decode`, `cancel`, `log`, `metrics`.
    pub steps: Vec<SelfTestStep>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SelfTestStep {
    /// Which one; names keep their meaning.
    pub name: &'static str,
    /// What came of it.
    pub status: SelfTestStatus,
    /// What was seen, or what went wrong.
    pub message: String,
    /// Milliseconds that it took.
    pub ms: f64,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SelfTestStatus {
    /// As it should be.
    Pass,
    /// It is not as it should be.
    Fail,
    /// Not tried, because a step failed that it needs.
    Skip,
}

impl SelfTestReport {
    /// The step of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&SelfTestStep> {
        self.steps.iter().find(|step| step.name == name)
    }
}

impl fmt::Display for SelfTestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for SelfTestStep { name, status, message, ms } in &self.steps {
            let status = match status {
                SelfTestStatus::Pass => "pass",
                SelfTestStatus::Fail => "FAIL",
                SelfTestStatus::Skip => "skip",
            };
            writeln!(f, "{status}  {name:8} {message} ({ms:.1} ms)")?;
        }
        f.write_str(if self.passed { "passed" } else { "failed" })
    }
}

/// What a step found: a sentence, of how it is or of what is wrong.
type Found = Result<String, String>;

/// A request that ends before it can be cancelled is no failure; so many in a row are.
const CANCELS: u32 = 3;
/// How often it is looked whether a slot is free.
const LOOK: Duration = Duration::from_millis(2);
/// How often it is looked whether there still is somebody to wait for.
const TURN: Duration = Duration::from_millis(100);

/// What the test itself has done, to be found in the metrics.
#[derive(Default, PartialEq, Eq)]
struct Counts {
    accepted: u64,
    finished: u64,
    cancelled: u64,
    failed: u64,
    tokens_in: u64,
    tokens_out: u64,
}

struct Test<'a> {
    pool: &'a Pool,
    /// The engine that runs when the test begins.
    run: Arc<Shared>,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    steps: Vec<SelfTestStep>,
    spent: Counts,
}

impl Pool {
    pub(super) fn self_test(&self, timeout: Option<Duration>) -> Result<SelfTestReport> {
        self.check_process()?;
        if thread::is_current() {
            let message = "self_test: it waits, and this is one of llamapen's own threads (a waker or a log subscriber is called on it), which it needs; call it from another";
            return Err(Error::Unsupported(message.into()));
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let run = self.current();
        let pool_id = run.telemetry.identity.pool_id.clone();
        let test = Test { pool: self, run, timeout, deadline, steps: Vec::with_capacity(5), spent: Counts::default() };
        let report = test.run();
        tracing::info!(pool_id, passed = report.passed, "self-test ended");
        Ok(report)
    }
}

impl Test<'_> {
    fn run(mut self) -> SelfTestReport {
        self.step("load", Self::load);
        let before = self.pool.metrics();
        if self.passed() {
            self.step("decode", Self::decode);
        } else {
            self.skip("decode");
        }
        match self.passed() {
            true => self.step("cancel", Self::cancel),
            false => self.skip("cancel"),
        }
        // It needs no worker.
        let requests = self.passed();
        self.step("log", Self::log);
        match requests {
            true => self.step("metrics", |test| test.metrics(&before)),
            false => self.skip("metrics"),
        }
        SelfTestReport { passed: self.passed(), steps: self.steps }
    }

    fn passed(&self) -> bool {
        self.steps.iter().all(|step| step.status == SelfTestStatus::Pass)
    }

    fn step(&mut self, name: &'static str, try_it: impl FnOnce(&mut Self) -> Found) {
        let began = Instant::now();
        let (status, message) = match try_it(self) {
            Ok(message) => (SelfTestStatus::Pass, message),
            Err(message) => (SelfTestStatus::Fail, message),
        };
        self.steps.push(SelfTestStep { name, status, message, ms: began.elapsed().as_secs_f64() * 1e3 });
    }

    fn skip(&mut self, name: &'static str) {
        let failed = self.steps.iter().find(|step| step.status == SelfTestStatus::Fail).map_or("", |step| step.name);
        let message = format!("not tried, because {failed} failed");
        self.steps.push(SelfTestStep { name, status: SelfTestStatus::Skip, message, ms: 0.0 });
    }

    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// After which a step that waits has failed.
    fn limit(&self) -> String {
        format!("within {} ms, the time for the whole self-test", self.timeout.unwrap_or_default().as_millis())
    }

    fn load(&mut self) -> Found {
        let health = match self.pool.wait_ready(self.deadline) {
            Ok(true) => self.pool.health(),
            Ok(false) => {
                let health = self.pool.health();
                let state = serde_json::to_string(&health.state).expect("a name");
                let last = health.last_error.map(|last| format!("; last error: {last}")).unwrap_or_default();
                return Err(format!("not ready {}: state {}{last}", self.limit(), state.trim_matches('"')));
            }
            Err(error) => return Err(error.to_string()),
        };
        let ready = health.workers.iter().filter(|worker| worker.ready).count();
        Ok(format!("{ready} of {} workers ready", health.workers.len()))
    }

    /// One token, whose logits are looked at.
    fn decode(&mut self) -> Found {
        let stream = self.submit(self.request().with_max_tokens(1).with_logits(true))?;
        let mut found = None;
        loop {
            match self.next(&stream)? {
                Event::Token(token) => {
                    self.spent.tokens_out += 1;
                    found = Some(look_at(&token, self.run.prepared.info().n_vocab)?);
                }
                Event::Started(_) => self.spent.tokens_in += 1,
                Event::Finished(_) => break,
                Event::Failed(failed) => return Err(said(&failed)),
                Event::Restarted(_) => {}
            }
        }
        self.spent.finished += 1;
        found.ok_or_else(|| "it finished without a token".into())
    }

    /// A request that would go on to the end of its context is ended, and its slot becomes free.
    fn cancel(&mut self) -> Found {
        for _ in 0..CANCELS {
            let stream = self.submit(self.request())?;
            match self.next(&stream)? {
                Event::Started(_) => {}
                Event::Failed(failed) => return Err(said(&failed)),
                other => return Err(format!("before it started, there came {other:?}")),
            }
            self.spent.tokens_in += 1;
            stream.cancel().map_err(|error| error.to_string())?;
            let ended = loop {
                match self.next(&stream)? {
                    Event::Finished(_) => break false,
                    Event::Failed(failed) if failed.status == Status::Cancelled => break true,
                    Event::Failed(failed) => return Err(said(&failed)),
                    _ => {}
                }
            };
            let record = stream.run_record().ok().flatten().ok_or("it has ended and left no record")?;
            self.spent.tokens_out += u64::from(record.usage.completion_tokens);
            let count = if ended { &mut self.spent.cancelled } else { &mut self.spent.finished };
            *count += 1;
            if ended {
                return self.until_free(stream.id());
            }
        }
        Err(format!("{CANCELS} requests ran to their end before they could be cancelled"))
    }

    fn until_free(&self, id: u64) -> Found {
        let began = Instant::now();
        while self.run.workers.iter().any(|worker| worker.runs(id)) {
            if self.left().is_some_and(|left| left.is_zero()) {
                return Err(format!("a request was cancelled, and its slot was not free {}", self.limit()));
            }
            std::thread::sleep(LOOK);
        }
        Ok(format!("a request ended, and its slot was free {:.0} ms later", began.elapsed().as_secs_f64() * 1e3))
    }

    /// On the control thread, since that is where a subscriber of one thread of the host's would not be.
    fn log(&mut self) -> Found {
        let (send, seen) = crossbeam_channel::bounded(1);
        let _ = self.run.to_control.send(Report::Log(send));
        loop {
            // Also where a step before it took all the time: a thread that works needs a moment to do it.
            match seen.recv_timeout(TURN) {
                Ok(seen) => return seen.judge(),
                Err(_) if self.run.is_stopping() => return Err("the supervisor is stopped, and logs no more".into()),
                Err(_) if self.left().is_some_and(|left| left.is_zero()) => {
                    return Err(format!(
                        "the supervisor's own thread, which was to log a line, did not {}",
                        self.limit()
                    ));
                }
                Err(_) => {}
            }
        }
    }

    /// What was done is what was counted; or more, where others had requests, too.
    fn metrics(&mut self, before: &Metrics) -> Found {
        let (before, after) = (Counts::of(before), Counts::of(&self.pool.metrics()));
        let moved = after.less(&before);
        let alone = before.running() == 0 && moved.accepted == self.spent.accepted;
        match alone {
            true if moved == self.spent => Ok(format!("exactly what was done: {moved}")),
            false if moved.covers(&self.spent) => Ok(format!("at least what was done, beside other requests: {moved}")),
            _ => Err(format!("{moved} were counted, and {} done", self.spent)),
        }
    }

    /// Of one token.
    fn request(&self) -> Request {
        let bos = self.run.prepared.info().bos_token_id.and_then(|id| i32::try_from(id).ok());
        let request = Request::tokens([bos.unwrap_or(0)]).with_temperature(0.0).with_ignore_eos(true);
        match self.left() {
            // So that nothing of it stays behind.
            Some(left) => request.with_timeout_ms((left.as_millis() as u64).clamp(1, 86_400_000)),
            None => request,
        }
    }

    fn submit(&mut self, request: Request) -> Result<TokenStream, String> {
        let stream = self.pool.submit(request, false).map_err(|error| error.to_string())?;
        self.spent.accepted += 1;
        Ok(stream)
    }

    fn next(&self, stream: &TokenStream) -> Result<Event, String> {
        match stream.next_event(self.left()) {
            Ok(Next::Event(event)) => Ok(event),
            Ok(Next::Timeout) => Err(format!("no answer {}", self.limit())),
            Ok(Next::End) => Err("the stream ended without a terminal event".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn said(failed: &Failed) -> String {
    format!("{}: {}", failed.status, failed.message)
}

fn look_at(token: &Token, n_vocab: u32) -> Found {
    let logits = token.logits.as_deref().unwrap_or_default();
    if logits.len() != n_vocab as usize {
        return Err(format!(
            "token {} came with {} logits, and the vocabulary has {n_vocab}",
            token.token,
            logits.len()
        ));
    }
    match logits.iter().filter(|logit| !logit.is_finite()).count() {
        0 => Ok(format!("token {}, {n_vocab} logits, all of them finite", token.token)),
        n => Err(format!("token {}: {n} of its {n_vocab} logits are no finite numbers", token.token)),
    }
}

impl Counts {
    fn of(metrics: &Metrics) -> Self {
        Self {
            accepted: metrics.requests.accepted_total,
            finished: metrics.requests.finished_total.values().sum(),
            cancelled: metrics.requests.cancelled_total,
            failed: metrics.requests.failed_total.values().sum(),
            tokens_in: metrics.workers.iter().map(|worker| worker.tokens_in_total).sum(),
            tokens_out: metrics.workers.iter().map(|worker| worker.tokens_out_total).sum(),
        }
    }

    fn running(&self) -> u64 {
        self.accepted - self.finished - self.cancelled - self.failed
    }

    fn pairs(&self, other: &Self) -> [(u64, u64); 6] {
        [
            (self.accepted, other.accepted),
            (self.finished, other.finished),
            (self.cancelled, other.cancelled),
            (self.failed, other.failed),
            (self.tokens_in, other.tokens_in),
            (self.tokens_out, other.tokens_out),
        ]
    }

    /// Counts never go back.
    fn less(&self, earlier: &Self) -> Self {
        let [accepted, finished, cancelled, failed, tokens_in, tokens_out] =
            self.pairs(earlier).map(|(now, then)| now - then);
        Self { accepted, finished, cancelled, failed, tokens_in, tokens_out }
    }

    fn covers(&self, other: &Self) -> bool {
        self.pairs(other).iter().all(|(mine, least)| mine >= least)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, finished, cancelled, failed, tokens_in, tokens_out } = self;
        write!(
            f,
            "{accepted} requests accepted, {finished} finished, {cancelled} cancelled, {failed} failed, \
             {tokens_in} tokens in, {tokens_out} out"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(logits: Option<Vec<f32>>) -> Token {
        Token { index: 0, token: 7, text: String::new(), logprobs: None, logits }
    }

    #[test]
    fn logits_that_are_no_numbers_or_not_there_are_found() {
        assert!(look_at(&token(Some(vec![0.0, -1.0])), 2).is_ok());
        for (logits, says) in [
            (Some(vec![0.0, f32::NAN]), "1 of its 2"),
            (Some(vec![f32::INFINITY, f32::NEG_INFINITY]), "2 of its 2"),
            (Some(vec![0.0]), "with 1 logits"),
            (None, "with 0 logits"),
        ] {
            let error = look_at(&token(logits), 2).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
