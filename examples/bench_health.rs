//! How long a look at the health takes, from a thread of the host's: while nothing runs, while all workers decode, and while one
//! is dying. `make bench-health`
//!
//! Prints median, 99th percentile and longest time per call: on the clock of the wall, where the host's thread also waits for
//! a core while more threads want to run than there are, and on its own, where only the call counts.

use llamapen::{EngineConfig, Event, Fault, Request, Supervisor, SupervisorConfig, TaintPolicy, prepare};
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(120);
const MEASURED: Duration = Duration::from_secs(6);

fn main() -> Result<(), Box<dyn Error>> {
    std::panic::set_hook(Box::new(|_| {}));
    let mut arguments = std::env::args().skip(1);
    let (Some("--model"), Some(model)) = (arguments.next().as_deref(), arguments.next()) else {
        return Err("usage: bench_health --model FILE.gguf".into());
    };
    let workers = u32::try_from(std::thread::available_parallelism()?.get().min(2))?;
    let engine = EngineConfig::new(model).with_workers(workers).with_threads(1).with_slots(2).with_n_ctx(512);
    let config = SupervisorConfig::default()
        .with_taint(TaintPolicy::Continue)
        .with_restarts(1_000_000, Duration::from_secs(60))
        .with_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .with_breaker_failures(1_000_000);
    let supervisor = Supervisor::start(prepare(&engine)?, config)?;
    while supervisor.health()?.workers.iter().any(|worker| !worker.ready) {
        supervisor.wait_ready(Some(LONG))?;
        std::thread::sleep(Duration::from_millis(10));
    }

    println!(
        "{workers} workers; microseconds per call: median, 99th percentile, longest; on the wall | of the thread's own"
    );
    measure("nothing runs", &supervisor)?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy = || {
            let request = Request::prompt("One, two,").with_ignore_eos(true).with_max_tokens(30).with_max_resumes(1000);
            while !over.load(Ordering::Relaxed) {
                supervisor.submit(request.clone()).expect("a place in the queue").for_each(drop);
            }
        };
        (0..2 * workers).for_each(|_| drop(scope.spawn(busy)));
        std::thread::sleep(Duration::from_millis(500));
        let decoding = measure("all workers decode", &supervisor);
        scope.spawn(|| {
            for fault in [Fault::Abort, Fault::NullWrite, Fault::Panic].iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let dies = Request::prompt("a").with_ignore_eos(true).with_max_resumes(0).with_fault(*fault);
                let end = supervisor.submit(dies).expect("a place in the queue").last();
                assert!(matches!(end, Some(Event::Failed(_))));
            }
        });
        let dying = measure("one dies after the other", &supervisor);
        over.store(true, Ordering::Relaxed);
        decoding.and(dying)
    })?;
    let crashes: u32 = supervisor.health()?.workers.iter().map(|worker| worker.restarts).sum();
    println!("{crashes} workers died meanwhile");
    Ok(())
}

fn measure(what: &str, supervisor: &Supervisor) -> Result<(), llamapen::Error> {
    let (mut wall, mut own) = (Vec::new(), Vec::new());
    let until = Instant::now() + MEASURED;
    while Instant::now() < until {
        for _ in 0..100 {
            let (began, before) = (Instant::now(), thread_time());
            let health = supervisor.health()?;
            own.push(thread_time() - before);
            wall.push(began.elapsed());
            drop(health);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("{what:26} {} | {}   ({} calls)", of(&mut wall), of(&mut own), wall.len());
    Ok(())
}

/// What the calling thread has run on a core.
fn thread_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` may be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn of(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_nanos() as f64 / 1e3;
    format!("{:6.1} {:6.1} {:8.1}", at(0.5), at(0.99), at(1.0))
}
