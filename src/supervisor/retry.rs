//! What becomes of the requests that were running when their worker died.

use super::blame::{Verdict, judge};
use super::shared::Shared;
use crate::error::Rejected;
use crate::event::Failed;
use crate::job::Job;
use crate::request::Request;
use crate::status::Status;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Shared {
    /// They go on in the next worker, but for those that died too often, or of themselves.
    pub(super) fn retry(&self, mut ran: Vec<Arc<Job>>, reason: &str) {
        // Who has ended meanwhile is not to be blamed, and not to be run.
        ran.retain(|job| !job.events.is_closed());
        for (job, verdict) in ran.iter().zip(self.verdicts(&ran)) {
            match verdict {
                Verdict::Resume => self.run_again(job, reason),
                Verdict::Poisoned => self.put_away(job, reason),
            }
        }
    }

    fn verdicts(&self, ran: &[Arc<Job>]) -> Vec<Verdict> {
        if self.config.quarantine_ms == 0 {
            return vec![Verdict::Resume; ran.len()];
        }
        let generated = |job: &Job| u32::try_from(job.events.given(<[i32]>::len)).unwrap_or(u32::MAX);
        let mut parts: Vec<_> = ran.iter().map(|job| (*job.part(), generated(job))).collect();
        let verdicts = judge(&mut parts);
        ran.iter().zip(parts).for_each(|(job, (part, _))| *job.part() = part);
        verdicts
    }

    fn run_again(&self, job: &Arc<Job>, reason: &str) {
        let (run, limit) = (job.events.run(), job.request.max_resumes);
        if run >= limit {
            let message = match limit {
                0 => reason.to_owned(),
                _ => format!("{reason}; it went on in another worker {limit} times (max_resumes) before"),
            };
            job.fail(Failed::new(Status::WorkerReset, message));
            return;
        }
        self.interrupt_calibration();
        if job.events.restart(reason) && !self.queue.push_again(job.clone()) {
            job.fail(Failed::new(Status::WorkerReset, format!("{reason}, and no other will take its place")));
        }
    }

    fn put_away(&self, job: &Job, reason: &str) {
        let length = Duration::from_millis(self.config.quarantine_ms);
        self.quarantine.lock().add(&job.request, Instant::now(), length);
        job.fail(poisoned(&format!("{reason}; it was running in an earlier crash, too"), length));
    }

    /// Refuses requests that are in quarantine.
    pub(super) fn check_quarantine(&self, request: &Request) -> Result<(), Rejected> {
        let Some(left) = self.quarantine.lock().left(request, Instant::now()) else { return Ok(()) };
        let Failed { status, message, retriable, retry_after_ms } =
            poisoned("workers died of this request, or of one like it", left);
        Err(Rejected { retriable, retry_after_ms, ..Rejected::new(status, "quarantine", message) })
    }
}

fn poisoned(why: &str, left: Duration) -> Failed {
    let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let message = format!("{why}. It is refused for {ms} ms from now (quarantine_ms): change it, or report the crash");
    let mut failed = Failed::new(Status::PoisonedRequest, message);
    failed.retry_after_ms = Some(ms);
    failed
}
