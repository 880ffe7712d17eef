//! The bounded queue of requests that wait for a slot. Which one is next, `order` says.
//!
//! A channel would do for order and bound, but a cancelled request has to give its place back at once, and closing
//! has to return what is left.

mod errand;
mod order;
mod spread;
#[cfg(test)]
mod tests;

use super::gate::Entry;
use super::health::QueueDepths;
use crate::config::QueueFullPolicy;
use crate::job::Job;
use crate::request::Priority;
use crate::sync::tried::{Condvar, Mutex};
use crate::telemetry::Trace;
pub(crate) use errand::{Errand, Measure};
use order::Order;
use spread::Spread;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Queue {
    capacity: usize,
    when_full: QueueFullPolicy,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// For workers that are busy: told of a request only where no other waits.
    changed_for_busy: Condvar,
}

struct Inner {
    /// Those whose worker died: before all others.
    again: VecDeque<Arc<Job>>,
    waiting: Order<(Arc<Job>, u32)>,
    entry: Entry,
    /// Requests come in and wait, and workers are sent home.
    held: bool,
    /// Requests go to another engine's.
    moved: bool,
    /// Workers that wait and are not busy.
    idle: Vec<u32>,
    /// What workers are to measure while nothing waits and they have nothing.
    errands: HashMap<u32, Errand>,
    spread: Spread,
    /// Since when a request is left to workers that have others.
    left_since: Option<Instant>,
    /// How the texts began that each worker had last, see [`Job::beginning`](crate::job::Job::beginning).
    known: HashMap<u32, VecDeque<u64>>,
}

/// What a worker got from the queue.
pub(crate) enum Popped {
    /// A request, and how many were to be taken before it when it came.
    Job(Arc<Job>, u32),
    /// Something to measure, for one that has no request.
    Errand(Errand),
    Empty,
    Closed,
}

/// Who takes a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taker {
    pub worker: u32,
    /// Also one that may be what its worker died of, see `blame`; who runs one takes no other.
    pub suspects: bool,
    /// How many it has already: those that have none come first, unless a calibration says otherwise.
    pub running: u32,
}

impl Taker {
    fn is_busy(self) -> bool {
        self.running > 0
    }
}

enum Next {
    Take(Arc<Job>, u32),
    Errand(Errand),
    /// There is one, for another worker that waits.
    Leave,
    /// There is one, for a worker that has others, if such a one takes it until then.
    LeaveToBusy(Instant),
    Nothing,
}

/// Beginnings that are remembered of each worker: about as many as it has in its slots or saved.
const KNOWN: usize = 32;
/// How long a request is left to workers that have others: such a one may take long for its turn, or be about to die.
const LEFT_FOR: Duration = Duration::from_millis(300);

pub(crate) enum PushError {
    /// To be pushed where requests go now.
    Moved,
    Full(usize),
    Draining,
    Closed,
}

impl Queue {
    pub(crate) fn new(capacity: u32, when_full: QueueFullPolicy) -> Self {
        let capacity = capacity as usize;
        let inner = Inner {
            again: VecDeque::new(),
            waiting: Order::new(capacity),
            entry: Entry::Open,
            held: false,
            moved: false,
            idle: vec![],
            errands: HashMap::new(),
            spread: Spread::default(),
            left_since: None,
            known: HashMap::new(),
        };
        let (changed, changed_for_busy) = (Condvar::new(), Condvar::new());
        Self { capacity, when_full, inner: Mutex::new(inner), changed, changed_for_busy }
    }

    /// `leased`: it may come in while it drains. Gives the request that was dropped for it, if one was: the caller ends it, outside the lock.
    pub(crate) fn push(&self, job: Arc<Job>, leased: bool) -> Result<Option<Arc<Job>>, PushError> {
        let mut inner = self.inner.lock();
        match inner.entry {
            // Also when it is closed: the supervisor goes on.
            _ if inner.moved => return Err(PushError::Moved),
            Entry::Closed => return Err(PushError::Closed),
            Entry::Draining if !leased => return Err(PushError::Draining),
            Entry::Open | Entry::Draining => {}
        }
        let dropped = inner.waiting.make_room(self.when_full).map_err(|order::Full| PushError::Full(self.capacity))?;
        let priority = job.request.priority;
        let position = u32::try_from(inner.waiting.position(priority)).unwrap_or(u32::MAX);
        job.events.trace(Trace::accepted);
        inner.waiting.push(priority, (job, position));
        self.notify_one(&inner);
        let errands = std::mem::take(&mut inner.errands);
        drop(inner);
        // Outside the lock: whoever wants them is told.
        drop(errands);
        Ok(dropped.map(|(job, _)| job))
    }

    /// Puts one whose worker died before all others, whatever its class; it has had its place. False: it is closed.
    pub(crate) fn push_again(&self, job: Arc<Job>) -> bool {
        let mut inner = self.inner.lock();
        if inner.entry == Entry::Closed {
            return false;
        }
        inner.again.push_back(job);
        self.notify_one(&inner);
        true
    }

    /// Has these workers measure something, each when it has nothing else to do; those of before are dropped.
    pub(crate) fn measure(&self, errands: HashMap<u32, Errand>) {
        let before = std::mem::replace(&mut self.inner.lock().errands, errands);
        drop(before);
        self.changed.notify_all();
    }

    /// From now on requests are spread over so many workers of `slots` slots: for 1, 2, 3 and more that run.
    pub(crate) fn spread(&self, workers_for: Vec<u32>, slots: u32) {
        self.inner.lock().spread.set(workers_for, slots);
        self.notify_all();
    }

    /// Has one who waits look again: rather one who has nothing to do.
    fn notify_one(&self, inner: &Inner) {
        match inner.idle.len() {
            0 => {}
            1 => self.changed.notify_one(),
            // Which of them is to have it, they find out themselves.
            _ => self.changed.notify_all(),
        }
        if inner.waits() > inner.idle.len() {
            self.changed_for_busy.notify_one();
        }
    }

    fn notify_all(&self) {
        self.changed.notify_all();
        self.changed_for_busy.notify_all();
    }

    /// Takes the next request, waiting for one at most `timeout`. Zero does not wait.
    pub(crate) fn pop(&self, timeout: Duration, by: Taker) -> Popped {
        let deadline = Instant::now() + timeout;
        let mut inner = self.inner.lock();
        // A last look comes after the time is over: somebody may have been told of this waiter's idleness until then.
        let mut timed_out = timeout.is_zero();
        loop {
            if inner.held || inner.entry == Entry::Closed {
                return Popped::Closed;
            }
            let mut until = deadline;
            match inner.next_for(by) {
                Next::Take(job, position) => {
                    // Others may have left it what it does not take.
                    if inner.waits() > 0 && !inner.idle.is_empty() {
                        self.changed.notify_all();
                    }
                    return Popped::Job(job, position);
                }
                Next::Errand(errand) => return Popped::Errand(errand),
                Next::Leave => self.changed.notify_all(),
                Next::LeaveToBusy(patience) => {
                    until = deadline.min(patience);
                    self.changed_for_busy.notify_all();
                }
                Next::Nothing => {}
            }
            if timed_out {
                return Popped::Empty;
            }
            timed_out = match by.is_busy() {
                true => self.changed_for_busy.wait_until(&mut inner, deadline),
                false => {
                    inner.idle.push(by.worker);
                    let timed_out = self.changed.wait_until(&mut inner, until) && until == deadline;
                    if let Some(at) = inner.idle.iter().position(|worker| *worker == by.worker) {
                        inner.idle.swap_remove(at);
                    }
                    timed_out
                }
            };
        }
    }

    /// The worker has died: it knows nothing any more.
    pub(crate) fn forget(&self, worker: u32) {
        let mut inner = self.inner.lock();
        inner.known.remove(&worker);
        inner.spread.has(worker, 0);
        if inner.left_since.take().is_some() {
            // What it was left is for others.
            self.notify_all();
        }
    }

    /// Whether workers are to go home, as [`pop`](Self::pop) says it.
    pub(crate) fn sends_home(&self) -> bool {
        let inner = self.inner.lock();
        inner.held || inner.entry == Entry::Closed
    }

    pub(crate) fn remove(&self, id: u64) {
        let mut inner = self.inner.lock();
        inner.again.retain(|job| job.id != id);
        inner.waiting.retain(|(job, _)| job.id != id);
    }

    pub(crate) fn depths(&self) -> QueueDepths {
        let inner = self.inner.lock();
        let (mut interactive, mut batch) = inner.waiting.lens();
        for job in &inner.again {
            match job.request.priority {
                Priority::Interactive => interactive += 1,
                Priority::Batch => batch += 1,
            }
        }
        QueueDepths { interactive, batch }
    }

    /// Sends the workers home, if nothing waits and `idle` says so, too: nothing can come in between. Requests that come
    /// from now on wait until it is released.
    pub(super) fn hold_if(&self, idle: impl FnOnce() -> bool) -> bool {
        let mut inner = self.inner.lock();
        inner.held |= inner.waits() == 0 && idle();
        if inner.held {
            self.notify_all();
        }
        inner.held
    }

    /// Sends the workers home whatever waits.
    pub(super) fn hold(&self) {
        self.inner.lock().held = true;
        self.notify_all();
    }

    /// From now on requests go elsewhere. Workers take what waits.
    pub(super) fn move_on(&self) {
        self.inner.lock().moved = true;
    }

    /// The same, and gives what waits, in the order of each class.
    pub(super) fn move_out(&self) -> Vec<Arc<Job>> {
        let mut inner = self.inner.lock();
        inner.moved = true;
        inner.take()
    }

    /// Takes all that waits.
    pub(super) fn take(&self) -> Vec<Arc<Job>> {
        self.inner.lock().take()
    }

    /// Requests come here again, those that waited elsewhere first.
    pub(super) fn move_in(&self, jobs: Vec<Arc<Job>>) {
        let mut inner = self.inner.lock();
        inner.moved = false;
        for job in jobs {
            // One that was cancelled on the way would find nobody to leave.
            if !job.events.is_closed() {
                let position = u32::try_from(inner.waiting.position(job.request.priority)).unwrap_or(u32::MAX);
                inner.waiting.push(job.request.priority, (job, position));
            }
        }
        self.notify_all();
    }

    /// Workers may take what waits again.
    pub(super) fn release(&self) {
        self.inner.lock().held = false;
    }

    /// From now on takes only what has a lease.
    pub(crate) fn drain(&self) {
        let mut inner = self.inner.lock();
        inner.entry = inner.entry.max(Entry::Draining);
    }

    /// Takes nothing more and wakes every worker. Returns what was waiting.
    pub(crate) fn close(&self) -> Vec<Arc<Job>> {
        let mut inner = self.inner.lock();
        inner.entry = Entry::Closed;
        self.notify_all();
        inner.take()
    }
}

impl Inner {
    /// What a worker is to take: idle ones before busy ones, and of several idle ones the one that knows how it begins.
    fn next_for(&mut self, by: Taker) -> Next {
        self.spread.has(by.worker, by.running);
        // Looked at before each token of a busy worker: nobody is to be woken for nothing.
        if self.waits() == 0 {
            self.left_since = None;
            let errand = (!by.is_busy()).then(|| self.errands.remove(&by.worker)).flatten();
            return errand.map_or(Next::Nothing, Next::Errand);
        }
        let for_busy = self.is_for_busy();
        let of_again = self.again.iter().position(|job| by.suspects || !job.part().is_suspect());
        let few = self.waits() <= self.idle.len();
        if by.is_busy() && few && for_busy.is_none() && of_again.is_none() {
            return Next::Leave;
        }
        if let Some(job) = of_again.and_then(|at| self.again.remove(at)) {
            self.spread.takes(by.worker);
            return Next::Take(job, 0);
        }
        let Some((job, _)) = self.waiting.peek() else { return Next::Nothing };
        let beginning = job.beginning();
        if !self.knows(by.worker, beginning) && self.idle.iter().any(|idle| self.knows(*idle, beginning)) {
            return Next::Leave;
        }
        if let Some(patience) = for_busy
            && !by.is_busy()
            && !self.knows(by.worker, beginning)
        {
            return Next::LeaveToBusy(patience);
        }
        let Some((job, position)) = self.waiting.pop() else { return Next::Nothing };
        self.left_since = None;
        self.spread.takes(by.worker);
        let known = self.known.entry(by.worker).or_default();
        known.retain(|other| *other != beginning);
        known.push_front(beginning);
        known.truncate(KNOWN);
        Next::Take(job, position)
    }

    /// Until when the next request is for a worker that has others, if it is.
    fn is_for_busy(&mut self) -> Option<Instant> {
        if !self.spread.is_for_busy() {
            return None;
        }
        let patience = *self.left_since.get_or_insert_with(Instant::now) + LEFT_FOR;
        (Instant::now() < patience).then_some(patience)
    }

    /// How many requests wait.
    fn waits(&self) -> usize {
        self.again.len() + self.waiting.len()
    }

    fn knows(&self, worker: u32, beginning: u64) -> bool {
        self.known.get(&worker).is_some_and(|known| known.contains(&beginning))
    }

    fn take(&mut self) -> Vec<Arc<Job>> {
        let Self { again, waiting, .. } = self;
        again.drain(..).chain(waiting.drain().map(|(job, _)| job)).collect()
    }
}
