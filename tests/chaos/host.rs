//! A thread of the host's that does what hosts do, all the time: allocates and checks its data, logs, loads libraries, asks.

use crate::{load, support};
use llamapen::Supervisor;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it logs, loads a library and asks.
const EVERY: Duration = Duration::from_millis(500);

pub struct Host {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Done>,
}

#[derive(Debug, Default)]
pub struct Done {
    pub rounds: u64,
    pub logs: u32,
    pub loads: u32,
    pub answers: u32,
    /// Round, without what it waits for an answer: a slot has to be free for that.
    pub longest: Duration,
}

impl Host {
    pub fn start(supervisor: Arc<Supervisor>, seed: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = {
            let over = over.clone();
            std::thread::spawn(move || work(&supervisor, &over, fastrand::Rng::with_seed(seed)))
        };
        Self { over, thread }
    }

    pub fn end(self) -> Done {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn work(supervisor: &Supervisor, over: &AtomicBool, mut random: fastrand::Rng) -> Done {
    let mut done = Done::default();
    let mut held: VecDeque<(u8, Vec<u8>)> = VecDeque::new();
    let (mut next, mut asked) = (Instant::now(), None);
    while !over.load(Ordering::Relaxed) {
        let (began, mut answer) = (Instant::now(), None);
        for _ in 0..64 {
            let (mark, bytes) = (random.u8(..), 1usize << random.u32(3..20));
            held.push_back((mark, vec![mark; random.usize(1..=bytes)]));
        }
        while held.len() > 256 {
            let (mark, bytes) = held.pop_front().unwrap();
            assert!(bytes.iter().all(|byte| *byte == mark), "the host's own data was damaged");
        }
        if began >= next {
            next = began + EVERY;
            tracing::info!(rounds = done.rounds, "the host lives");
            done.logs += 1;
            // SAFETY: the C library's own; its initialisers have run.
            let library = unsafe { libloading::Library::new("libm.so.6") }.unwrap();
            // SAFETY: cos has this signature.
            let cos = unsafe { library.get::<unsafe extern "C" fn(f64) -> f64>(b"cos\0") }.unwrap();
            // SAFETY: as above.
            assert_eq!(unsafe { cos(0.0) }, 1.0);
            library.close().unwrap();
            done.loads += 1;
            let request = load::requests(1)[0].clone().with_max_tokens(2);
            // The one before has mostly ended by now.
            answer = asked.replace(supervisor.submit(request).unwrap());
        }
        done.rounds += 1;
        done.longest = done.longest.max(began.elapsed());
        if let Some(stream) = answer {
            assert_eq!(support::read(stream).unwrap().tokens.len(), 2);
            done.answers += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    done
}
