//! Requests that workers died of: refused for a while. Pure: the caller brings the clock.

use crate::request::{Priority, Request};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// More are not remembered: the oldest goes first.
const MOST: usize = 1024;

#[derive(Default)]
pub(super) struct Quarantine {
    until: HashMap<u64, Instant>,
}

impl Quarantine {
    pub(super) fn add(&mut self, request: &Request, now: Instant, length: Duration) {
        self.until.retain(|_, until| *until > now);
        if self.until.len() >= MOST
            && let Some(first) = self.until.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key)
        {
            self.until.remove(&first);
        }
        self.until.insert(key(request), now + length);
    }

    /// How long the request is still refused.
    pub(super) fn left(&self, request: &Request, now: Instant) -> Option<Duration> {
        if self.until.is_empty() {
            return None;
        }
        self.until.get(&key(request))?.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

/// Of what is computed: the input and the parameters, without how long it may take and how it is queued. No text is kept.
fn key(request: &Request) -> u64 {
    let same = Request {
        priority: Priority::default(),
        timeout_ms: None,
        first_token_timeout_ms: None,
        inter_token_timeout_ms: None,
        max_resumes: 0,
        ..request.clone()
    };
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(&same).expect("plain data with string keys").hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_for_a_while_and_no_other() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        let (bad, good) = (Request::prompt("bad").with_seed(1), Request::prompt("bad").with_seed(2));
        assert_eq!(quarantine.left(&bad, start), None);
        quarantine.add(&bad, start, Duration::from_secs(10));
        assert_eq!(quarantine.left(&bad, start + Duration::from_secs(4)), Some(Duration::from_secs(6)));
        assert_eq!(quarantine.left(&bad, start + Duration::from_secs(10)), None);
        assert_eq!(quarantine.left(&good, start), None);
        let in_a_hurry = bad.clone().with_timeout_ms(1).with_priority(Priority::Batch);
        assert!(quarantine.left(&in_a_hurry, start).is_some());
        for i in 0..2000 {
            quarantine.add(
                &Request::prompt("x").with_seed(i),
                start + Duration::from_millis(i),
                Duration::from_secs(60),
            );
        }
        assert_eq!(quarantine.until.len(), MOST);
        assert!(quarantine.left(&Request::prompt("x").with_seed(1999), start).is_some());
        assert_eq!(quarantine.left(&Request::prompt("x").with_seed(0), start), None);
    }
}
