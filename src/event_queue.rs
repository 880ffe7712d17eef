//! The pipe between a worker and the consumer of one request.
//!
//! "Exactly one terminal event and nothing after it" holds by construction: the queue closes itself when a terminal
//! event is pushed, and a closed queue takes nothing. Whoever pushes a terminal event first wins; cancelling is
//! pushing one.
//!
//! A request whose worker died goes on in another: its next *run*. Events that are given for an earlier run, by a worker that
//! was taken for dead and is not yet, are dropped.

use crate::error::{ANOTHER_WAITS, Error, Result};
use crate::event::{Event, Failed, Restarted, Token};
use crate::remote::Host;
use crate::status::Status;
use crate::sync::tried::{Condvar, Mutex};
use crate::telemetry::{Progress, Telemetry, Trace};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub(crate) struct EventQueue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    trace: Trace,
    events: VecDeque<Event>,
    closed: bool,
    /// Of the worker that may give events, counted from 0.
    run: u32,
    /// The tokens that were given: what the next run begins with.
    given: Vec<i32>,
    waker: Option<Waker>,
    waiting: bool,
    /// In a child process: the number of its request, and who is told of events instead of a consumer.
    host: Option<(u64, Arc<Host>)>,
}

/// What waiting for an event gave.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Next {
    /// The next event.
    Event(Event),
    /// The time is over; ask again.
    Timeout,
    /// The terminal event was given before; there is nothing more.
    End,
}

impl EventQueue {
    /// Everything that comes in is told to `trace`.
    pub(crate) fn new(trace: Trace) -> Self {
        let inner = Inner {
            trace,
            events: VecDeque::new(),
            closed: false,
            run: 0,
            given: Vec::new(),
            waker: None,
            waiting: false,
            host: None,
        };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// From now on events go to a host, as those of a run that begins with the tokens that were given.
    pub(crate) fn tells(&self, id: u64, host: Arc<Host>, run: u32, given: Vec<i32>) {
        let mut inner = self.inner.lock();
        (inner.host, inner.run, inner.given) = (Some((id, host)), run, given);
    }

    /// Adds an event. False if the request has ended before: then the event is dropped.
    pub(crate) fn push(&self, event: Event) -> bool {
        self.add(event, None, false)
    }

    /// Adds an event of a worker's. False also if the request has gone on in another since.
    pub(crate) fn push_from(&self, run: u32, event: Event) -> bool {
        self.add(event, Some(run), false)
    }

    /// Which run it is in, from 0: how often a worker died that ran it.
    pub(crate) fn run(&self) -> u32 {
        self.inner.lock().run
    }

    /// Reads the tokens that were given so far.
    pub(crate) fn given<T>(&self, read: impl FnOnce(&[i32]) -> T) -> T {
        read(&self.inner.lock().given)
    }

    /// A worker has a slot for it. True if another one had, and the consumer knows that it started.
    pub(crate) fn taken_up(&self, run: u32, worker: u32) -> bool {
        let mut inner = self.inner.lock();
        let known = run == inner.run && inner.trace.progress().started.is_some();
        if known {
            inner.trace.taken_up(worker);
        }
        known
    }

    /// It has caught up with the tokens that were given before, so many of which were decoded again.
    pub(crate) fn caught_up(&self, tokens: u32, took: Duration) {
        let mut inner = self.inner.lock();
        match &inner.host {
            Some((id, host)) => host.caught_up(*id, tokens, took),
            None => inner.trace.caught_up(tokens, took),
        }
    }

    /// Begins the next run. False if the request has ended before.
    pub(crate) fn restart(&self, reason: &str) -> bool {
        let (attempt, tokens_kept, started) = {
            let mut inner = self.inner.lock();
            inner.run += 1;
            let kept = u32::try_from(inner.given.len()).unwrap_or(u32::MAX);
            (inner.run, kept, inner.trace.progress().started.is_some())
        };
        // Who has heard of no start need not hear of another one.
        match started {
            true => {
                self.push_from(attempt, Event::Restarted(Restarted { attempt, tokens_kept, reason: reason.into() }))
            }
            false => !self.is_closed(),
        }
    }

    /// Ends the request at the consumer's wish. What was not read yet is dropped: no token follows a cancel.
    pub(crate) fn cancel(&self) -> bool {
        self.add(Event::Failed(Failed::new(Status::Cancelled, "cancelled by the caller")), None, true)
    }

    /// The one way in: refuses once closed, and wakes whoever waits.
    fn add(&self, event: Event, run: Option<u32>, drop_unread: bool) -> bool {
        let (waker, note) = {
            let mut inner = self.inner.lock();
            if inner.closed || run.is_some_and(|run| run != inner.run) {
                return false;
            }
            if let Event::Token(Token { token, .. }) = &event {
                inner.given.push(*token);
            }
            let note = inner.trace.observe(&event, Instant::now());
            if drop_unread {
                inner.events.clear();
            }
            inner.closed = event.is_terminal();
            if let Some((id, host)) = &inner.host {
                host.event(*id, inner.run, event);
                return true;
            }
            inner.events.push_back(event);
            self.changed.notify_all();
            (inner.waker.take(), note)
        };
        // Outside the lock: wakers and log subscribers run the host's code.
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(note) = note {
            note.tell();
        }
        true
    }

    /// Reads the trace of its request.
    pub(crate) fn trace<T>(&self, read: impl FnOnce(&Trace) -> T) -> T {
        read(&self.inner.lock().trace)
    }

    /// Its request goes to another engine before any worker has taken it up.
    pub(crate) fn moves(&self, telemetry: Arc<Telemetry>) {
        self.inner.lock().trace.moves(telemetry);
    }

    /// Counts tokens that were guessed ahead. Of a request that has ended, too: it was cancelled during the decode.
    pub(crate) fn drafted(&self, tokens: u32, accepted: u32) {
        let mut inner = self.inner.lock();
        match &inner.host {
            Some((id, host)) => host.drafted(*id, tokens, accepted),
            None => inner.trace.drafted(tokens, accepted),
        }
    }

    pub(crate) fn on_first_token(&self, call: impl FnOnce() + Send + 'static) {
        self.inner.lock().trace.on_first_token(call);
    }

    pub(crate) fn progress(&self) -> Progress {
        self.trace(Trace::progress)
    }

    /// Whether the terminal event has been pushed (not necessarily read).
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Waits until `deadline` (`None`: without limit) for the next event. One consumer at a time.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Result<Next> {
        let mut inner = self.inner.lock();
        if inner.waiting {
            return Err(Error::Busy(ANOTHER_WAITS));
        }
        loop {
            if let Some(event) = inner.events.pop_front() {
                return Ok(Next::Event(event));
            }
            if inner.closed {
                return Ok(Next::End);
            }
            inner.waiting = true;
            let timed_out = match deadline {
                None => {
                    self.changed.wait(&mut inner);
                    false
                }
                Some(deadline) => self.changed.wait_until(&mut inner, deadline),
            };
            inner.waiting = false;
            if timed_out && inner.events.is_empty() && !inner.closed {
                return Ok(Next::Timeout);
            }
        }
    }

    /// The same for tasks: `Ready(None)` after the terminal event.
    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut inner = self.inner.lock();
        match inner.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if inner.closed => Poll::Ready(None),
            None => {
                inner.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Started;

    impl Default for EventQueue {
        fn default() -> Self {
            Self::new(Trace::new(Arc::new(Telemetry::new(Default::default(), 1, Arc::default())), 0, 0, Instant::now()))
        }
    }

    fn token(index: u32) -> Event {
        Event::Token(Token { index, token: 1, text: "a".into(), logprobs: None, logits: None })
    }

    fn started() -> Started {
        Started { worker: 0, queue_position: 0, prompt_tokens: 1, cached_tokens: 0, seed: 0, prompt: None }
    }

    fn failed() -> Event {
        Event::Failed(Failed::new(Status::Internal, "x"))
    }

    #[test]
    fn nothing_follows_the_terminal_event() {
        let queue = EventQueue::default();
        assert!(queue.push(token(0)));
        assert!(queue.push(failed()));
        assert!(!queue.push(token(1)));
        assert!(!queue.push(failed()));
        assert!(!queue.cancel());
        assert_eq!(queue.next(None).unwrap(), Next::Event(token(0)));
        assert_eq!(queue.next(None).unwrap(), Next::Event(failed()));
        assert_eq!(queue.next(None).unwrap(), Next::End);
        assert_eq!(queue.next(None).unwrap(), Next::End);
    }

    #[test]
    fn a_run_that_is_over_gives_nothing_more() {
        let queue = EventQueue::default();
        queue.push_from(0, Event::Started(started()));
        assert!(queue.push_from(0, token(0)));
        assert!(queue.restart("why"));
        assert!(!queue.push_from(0, token(1)), "from the worker that was taken for dead");
        assert!(!queue.push_from(0, failed()));
        assert_eq!((queue.run(), queue.given(<[i32]>::to_vec)), (1, vec![1]));
        assert!(queue.push_from(1, token(1)));
        let events: Vec<_> = std::iter::from_fn(|| match queue.next(Some(Instant::now())).unwrap() {
            Next::Event(event) => Some(event),
            _ => None,
        })
        .collect();
        let restarted = Event::Restarted(Restarted { attempt: 1, tokens_kept: 1, reason: "why".into() });
        assert_eq!(events[1..], [token(0), restarted, token(1)]);
        queue.cancel();
        assert!(!queue.restart("again"));
    }

    #[test]
    fn a_request_that_had_not_started_is_not_restarted() {
        let queue = EventQueue::default();
        assert!(queue.restart("why"));
        assert_eq!(queue.next(Some(Instant::now())).unwrap(), Next::Timeout);
    }

    #[test]
    fn cancelling_drops_what_was_not_read() {
        let queue = EventQueue::default();
        queue.push(token(0));
        assert!(queue.cancel());
        let Next::Event(Event::Failed(failed)) = queue.next(None).unwrap() else { panic!("a token after the cancel") };
        assert_eq!(failed.status, Status::Cancelled);
        assert_eq!(queue.next(None).unwrap(), Next::End);
    }

    #[test]
    fn a_second_consumer_gets_busy_and_the_first_its_event() {
        let queue = Arc::new(EventQueue::default());
        let first = std::thread::spawn({
            let queue = queue.clone();
            move || queue.next(None)
        });
        while !queue.inner.lock().waiting {
            std::thread::yield_now();
        }
        assert_eq!(queue.next(None).unwrap_err().status(), Status::Busy);
        queue.push(token(0));
        assert_eq!(first.join().unwrap().unwrap(), Next::Event(token(0)));
    }

    #[test]
    fn times_out_without_losing_anything() {
        let queue = EventQueue::default();
        assert_eq!(queue.next(Some(Instant::now() + Duration::from_millis(5))).unwrap(), Next::Timeout);
        queue.push(token(0));
        assert_eq!(queue.next(Some(Instant::now())).unwrap(), Next::Event(token(0)));
    }
}
