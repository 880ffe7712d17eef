//! Deadlines of requests: when one is due, and the list that the control thread watches. Pure: the caller brings the clock.

use crate::job::Job;
use crate::request::Request;
use crate::telemetry::Progress;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often the list is rid of requests that have ended.
const PRUNE: Duration = Duration::from_millis(500);

/// The limits of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    total: Option<Duration>,
    first_token: Option<Duration>,
    inter_token: Option<Duration>,
}

/// A moment at which a request is to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub at: Instant,
    /// The limit, as the request names it.
    pub limit: &'static str,
    pub after: Duration,
}

impl From<&Request> for Limits {
    fn from(request: &Request) -> Self {
        Self {
            total: request.timeout_ms.map(Duration::from_millis),
            first_token: request.first_token_timeout_ms.map(Duration::from_millis),
            inter_token: request.inter_token_timeout_ms.map(Duration::from_millis),
        }
    }
}

impl Limits {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the first token can make the request due earlier than it was before.
    pub(crate) fn tightens(&self) -> bool {
        self.inter_token.is_some()
    }

    /// The earliest moment at which a request that stands at `progress` is to be ended, if it gets no further.
    pub(crate) fn due(&self, progress: &Progress) -> Option<Due> {
        if progress.ended.is_some() {
            return None;
        }
        let due = |limit, from: Instant, after: Option<Duration>| {
            // A moment past the end of time never comes.
            after.and_then(|after| Some(Due { at: from.checked_add(after)?, limit, after }))
        };
        let submitted = progress.submitted;
        let total = due("timeout_ms", submitted, self.total);
        let token = match progress.last_token {
            None => due("first_token_timeout_ms", submitted, self.first_token),
            Some(last) => due("inter_token_timeout_ms", last, self.inter_token),
        };
        total.into_iter().chain(token).min_by_key(|due| due.at)
    }
}

/// What has deadlines.
pub(super) trait Timed {
    /// `None` once it has ended or has no limit.
    fn due(&self) -> Option<Due>;
    fn expire(&self, due: &Due);
}

impl Timed for Job {
    fn due(&self) -> Option<Due> {
        Job::due(self)
    }

    fn expire(&self, due: &Due) {
        Job::expire(self, due);
    }
}

/// Requests by when to look at them next: at their deadline, which may have moved by then.
pub(super) struct Deadlines<T> {
    waiting: BTreeMap<(Instant, u64), Weak<T>>,
    pruned: Instant,
}

impl<T: Timed> Deadlines<T> {
    pub(super) fn new(now: Instant) -> Self {
        Self { waiting: BTreeMap::new(), pruned: now }
    }

    /// Watches a request. Again, when its deadline may have come nearer.
    pub(super) fn watch(&mut self, id: u64, timed: &Arc<T>) {
        if let Some(due) = timed.due() {
            self.waiting.insert((due.at, id), Arc::downgrade(timed));
        }
    }

    /// When to turn next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Ends what is due at `now`, and forgets what has ended.
    pub(super) fn turn(&mut self, now: Instant) {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, id), timed) = entry.remove_entry();
            let Some(timed) = timed.upgrade() else { continue };
            match timed.due() {
                Some(due) if due.at <= now => timed.expire(&due),
                _ => self.watch(id, &timed),
            }
        }
        if now.saturating_duration_since(self.pruned) >= PRUNE {
            self.pruned = now;
            self.waiting.retain(|_, timed| timed.upgrade().is_some_and(|timed| timed.due().is_some()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Mutex;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn limits(total: u64, first_token: u64, inter_token: u64) -> Limits {
        let some = |limit| (limit > 0).then(|| ms(limit));
        Limits { total: some(total), first_token: some(first_token), inter_token: some(inter_token) }
    }

    /// A request without a model, at a clock of the test's own.
    struct Fake {
        limits: Limits,
        progress: Mutex<Progress>,
        expired: Mutex<Vec<&'static str>>,
    }

    impl Fake {
        fn new(submitted: Instant, limits: Limits) -> Arc<Self> {
            let progress = Progress { submitted, started: None, first_token: None, last_token: None, ended: None };
            Arc::new(Self { limits, progress: Mutex::new(progress), expired: Mutex::default() })
        }

        fn token(&self, at: Instant) {
            self.progress.lock().last_token = Some(at);
        }
    }

    impl Timed for Fake {
        fn due(&self) -> Option<Due> {
            self.limits.due(&self.progress.lock())
        }

        fn expire(&self, due: &Due) {
            self.expired.lock().push(due.limit);
            self.progress.lock().ended = Some(due.at);
        }
    }

    #[test]
    fn the_earliest_limit_that_still_applies_is_due() {
        let start = Instant::now();
        let due = |limits: Limits, last_token: Option<u64>| {
            let last_token = last_token.map(|at| start + ms(at));
            let progress = Progress { submitted: start, started: None, first_token: None, last_token, ended: None };
            limits.due(&progress).map(|due| (due.limit, due.at - start))
        };
        assert_eq!(due(limits(0, 0, 0), None), None);
        assert_eq!(due(limits(100, 50, 10), None), Some(("first_token_timeout_ms", ms(50))));
        assert_eq!(due(limits(100, 500, 10), None), Some(("timeout_ms", ms(100))));
        assert_eq!(due(limits(0, 0, 10), None), None, "there is no token yet");
        assert_eq!(due(limits(100, 50, 10), Some(60)), Some(("inter_token_timeout_ms", ms(70))));
        assert_eq!(due(limits(100, 50, 10), Some(95)), Some(("timeout_ms", ms(100))));
        assert_eq!(due(limits(0, 50, 0), Some(40)), None, "the first token came");
    }

    #[test]
    fn each_request_ends_once_at_its_deadline_and_not_before() {
        let start = Instant::now();
        let mut list = Deadlines::new(start);
        let late = Fake::new(start, limits(200, 0, 0));
        let early = Fake::new(start, limits(0, 100, 0));
        list.watch(0, &late);
        list.watch(1, &early);
        assert_eq!(list.next(), Some(start + ms(100)));
        list.turn(start + ms(99));
        assert!(early.expired.lock().is_empty());
        list.turn(start + ms(100));
        list.turn(start + ms(101));
        assert_eq!(*early.expired.lock(), ["first_token_timeout_ms"]);
        assert_eq!(list.next(), Some(start + ms(200)));
        list.turn(start + ms(1000));
        assert_eq!(*late.expired.lock(), ["timeout_ms"]);
        assert_eq!(list.next(), None);
    }

    #[test]
    fn a_token_moves_the_deadline_and_silence_ends_the_request() {
        let start = Instant::now();
        let mut list = Deadlines::new(start);
        let fake = Fake::new(start, limits(0, 1000, 50));
        list.watch(0, &fake);
        fake.token(start + ms(10));
        list.watch(0, &fake);
        assert_eq!(list.next(), Some(start + ms(60)), "nearer than before");
        fake.token(start + ms(55));
        list.turn(start + ms(60));
        assert!(fake.expired.lock().is_empty());
        assert_eq!(list.next(), Some(start + ms(105)));
        list.turn(start + ms(105));
        assert_eq!(*fake.expired.lock(), ["inter_token_timeout_ms"]);
        list.turn(start + ms(2000));
        assert_eq!(fake.expired.lock().len(), 1, "the entry of its first deadline ends nothing twice");
    }

    #[test]
    fn what_ended_early_is_forgotten() {
        let start = Instant::now();
        let mut list = Deadlines::new(start);
        let running = Fake::new(start, limits(86_400_000, 0, 0));
        list.watch(0, &running);
        let mut still_read = Vec::new();
        for id in 1..100 {
            let ended = Fake::new(start, limits(86_400_000, 0, 0));
            list.watch(id, &ended);
            ended.progress.lock().ended = Some(start);
            if id % 2 == 0 {
                still_read.push(ended);
            }
        }
        assert_eq!(list.waiting.len(), 100);
        list.turn(start + PRUNE);
        assert_eq!(list.waiting.len(), 1);
    }
}
