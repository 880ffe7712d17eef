//! How long requests hold their slots, for saying when a place will be free.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of each new time, this share counts: the last dozen or so make the mean.
const SHARE: f64 = 1.0 / 8.0;

/// A moving mean in milliseconds. 0 bits: nothing was measured.
#[derive(Default)]
pub(crate) struct ServiceTime(AtomicU64);

impl ServiceTime {
    pub(crate) fn add(&self, took: Duration) {
        let took = took.as_secs_f64() * 1e3;
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            let mean = if bits == 0 { took } else { f64::from_bits(bits) };
            Some((mean + (took - mean) * SHARE).to_bits())
        });
    }

    /// Milliseconds until `ends` requests will have ended on `slots` slots that are all taken; `None` before any has.
    pub(crate) fn until(&self, ends: usize, slots: u64) -> Option<u64> {
        let bits = self.0.load(Ordering::Relaxed);
        let ms = f64::from_bits(bits) * ends as f64 / slots.max(1) as f64;
        (bits != 0).then(|| ms.ceil().max(1.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_moves_towards_what_is_measured() {
        let time = ServiceTime::default();
        assert_eq!(time.until(1, 1), None);
        time.add(Duration::from_millis(800));
        assert_eq!(time.until(1, 1), Some(800));
        assert_eq!(time.until(1, 4), Some(200), "one of four ends");
        assert_eq!(time.until(8, 4), Some(1600));
        time.add(Duration::ZERO);
        assert_eq!(time.until(1, 1), Some(700));
        (0..100).for_each(|_| time.add(Duration::ZERO));
        assert_eq!(time.until(1, 1), Some(1), "at least a millisecond");
    }
}
