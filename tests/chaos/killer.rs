//! Somebody who kills workers' processes from outside, at moments that have nothing to do with what they run.

use crate::clients::Pool;
use crate::support;
use crate::table::{OfKind, Readiness, Seen};
use llamapen::Supervisor;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One after so many other faults: workers are to come to something in between.
const EVERY: u32 = 8;
/// And at most so long after that.
const LATER: Duration = Duration::from_secs(1);

pub struct Killer {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Kill>>,
}

struct Kill {
    pool: String,
    worker: u32,
    at: Instant,
}

impl Killer {
    pub fn start(pools: &[Pool], seed: u64) -> Self {
        let pools: Vec<_> = pools.iter().map(Victims::of).collect();
        let over = Arc::new(AtomicBool::new(false));
        let thread = {
            let over = over.clone();
            std::thread::spawn(move || work(&pools, &over, fastrand::Rng::with_seed(seed)))
        };
        Self { over, thread }
    }

    /// Each killed worker had a successor, and streams were as they should be: that makes it contained.
    pub fn end(self, ready: &Readiness, seen: &Mutex<Seen>) {
        self.over.store(true, Ordering::Relaxed);
        let mut of = OfKind::default();
        for Kill { pool, worker, at } in self.thread.join().unwrap() {
            let successor = || ready.after(&pool, worker, at);
            support::eventually("the next worker is ready", || successor().is_some());
            of.injected += 1;
            of.ready.push(successor().unwrap().duration_since(at));
        }
        let mut seen = seen.lock().unwrap();
        of.contained = of.injected - seen.wrong.min(of.injected);
        seen.faults.insert("SIGKILL from outside", of);
    }
}

/// A pool, as far as it matters here.
struct Victims {
    name: String,
    supervisor: Arc<Supervisor>,
    fired: Arc<AtomicU32>,
}

impl Victims {
    fn of(pool: &Pool) -> Self {
        Self { name: pool.name.clone(), supervisor: pool.supervisor.clone(), fired: pool.fired.clone() }
    }
}

fn work(pools: &[Victims], over: &AtomicBool, mut random: fastrand::Rng) -> Vec<Kill> {
    let mut kills = vec![];
    while !over.load(Ordering::Relaxed) {
        let fired: u32 = pools.iter().map(|pool| pool.fired.load(Ordering::Relaxed)).sum();
        if fired < EVERY * (kills.len() as u32 + 1) {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        std::thread::sleep(LATER.mul_f64(random.f64()));
        let pool = &pools[random.usize(..pools.len())];
        let workers = pool.supervisor.health().unwrap().workers;
        let worker = random.usize(..workers.len());
        let Some(pid) = workers[worker].process.as_ref().map(|process| process.pid) else { continue };
        // Nobody else has its number as long as it is ours.
        if support::children().contains(&pid) {
            // SAFETY: takes no pointers.
            assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) }, 0);
            kills.push(Kill { pool: pool.name.clone(), worker: worker as u32, at: Instant::now() });
        }
    }
    kills
}
