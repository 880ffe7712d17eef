//! Those who ask: each reads its streams to their ends and compares them with what they are undisturbed.

use crate::kinds::{Kind, choose};
use crate::table::{OfKind, Readiness, Seen};
use crate::{load, start, support};
use llamapen::{EngineConfig, Event, Next, Request, Supervisor, SupervisorConfig};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Requests that are asked again and again.
const REQUESTS: usize = 24;

pub struct Pool {
    pub supervisor: Arc<Supervisor>,
    pub name: String,
    requests: Vec<Request>,
    /// Their tokens, undisturbed.
    answers: Vec<Vec<i32>>,
    clients: usize,
    kinds: Vec<Kind>,
    pub fired: Arc<AtomicU32>,
}

impl Pool {
    pub fn new(engine: &EngineConfig, config: SupervisorConfig, clients: usize, kinds: Vec<Kind>) -> Self {
        let requests = load::requests(REQUESTS);
        let undisturbed = start(engine, SupervisorConfig::default().with_max_stall(Duration::from_secs(60)));
        let streams: Vec<_> = requests.iter().map(|request| undisturbed.submit(request.clone()).unwrap()).collect();
        let answers = streams.into_iter().map(|stream| support::read(stream).unwrap().tokens).collect();
        drop(undisturbed);
        let supervisor = Arc::new(start(engine, config));
        let name = supervisor.engine().pool_id().to_owned();
        Self { supervisor, name, requests, answers, clients, kinds, fired: Arc::default() }
    }

    pub fn restarts(&self) -> u32 {
        self.supervisor.health().unwrap().workers.iter().map(|worker| worker.restarts).sum()
    }
}

/// Until as many faults have fired in each pool as it is to have.
pub fn run(pools: &[Pool], quotas: [u32; 2], seed: u64, ready: &Readiness, seen: &Mutex<Seen>) {
    std::thread::scope(|scope| {
        for (pool, quota) in pools.iter().zip(quotas) {
            for client in 0..pool.clients {
                let mut random = fastrand::Rng::with_seed(seed ^ (client as u64) << 32 ^ u64::from(quota));
                scope.spawn(move || {
                    while pool.fired.load(Ordering::Relaxed) < quota {
                        ask(pool, &mut random, ready, seen);
                    }
                });
            }
        }
    });
}

/// What a stream went through.
struct Course {
    tokens: Vec<i32>,
    worker: u32,
    restarts: Vec<Restart>,
}

struct Restart {
    /// When the last event before it was seen: not long before the fault.
    fault: Instant,
    next_token: Instant,
    tokens_kept: usize,
    reason: String,
}

fn ask(pool: &Pool, random: &mut fastrand::Rng, ready: &Readiness, seen: &Mutex<Seen>) {
    let i = random.usize(0..pool.requests.len());
    let mut request = pool.requests[i].clone();
    // Half of those that run are bystanders.
    let kind = random.bool().then(|| choose(&pool.kinds, random));
    let after = random.u32(1..request.max_tokens.unwrap());
    if let Some(kind) = kind {
        request = request.with_fault(kind.fault).with_fault_after(after);
    }
    let mut stream = pool.supervisor.submit(request).unwrap();
    let course = read(&mut stream);
    let record = stream.run_record().unwrap().unwrap();

    let mut seen = seen.lock().unwrap();
    seen.streams += 1;
    seen.resumed += u32::from(!course.restarts.is_empty());
    seen.restarts += course.restarts.len() as u32;
    let right = course.tokens == pool.answers[i];
    if !right {
        println!("| WRONG: request {i} of {}, {kind:?} after {after}: {:?}", pool.name, course.tokens);
        seen.wrong += 1;
    }
    // It fires in the first run only: a neighbour's fault may have come before.
    let Some((kind, first)) = kind.zip(course.restarts.first()) else { return };
    if first.tokens_kept as u32 != after || !first.reason.contains(kind.says) {
        return;
    }
    pool.fired.fetch_add(1, Ordering::Relaxed);
    let of: &mut OfKind = seen.faults.entry(kind.name).or_default();
    of.injected += 1;
    of.contained += u32::from(right);
    if let Some(at) = ready.after(&pool.name, course.worker, first.fault) {
        of.ready.push(at.duration_since(first.fault));
    }
    // With one restart only: then the record's replay is that one's.
    if course.restarts.len() == 1 {
        of.next_token.push(first.next_token.duration_since(first.fault));
        of.replay.push(Duration::from_secs_f64(record.replay_ms / 1e3));
    }
}

/// Checks the order of the events on the way.
fn read(stream: &mut llamapen::TokenStream) -> Course {
    let mut course = Course { tokens: vec![], worker: 0, restarts: vec![] };
    let mut last = Instant::now();
    let mut ends = 0;
    loop {
        match stream.next_event(Some(support::LONG)).unwrap() {
            Next::Event(event) => {
                assert_eq!(ends, 0, "{event:?} after the end");
                let now = Instant::now();
                match event {
                    Event::Started(started) => course.worker = started.worker,
                    Event::Token(token) => {
                        assert_eq!(token.index as usize, course.tokens.len());
                        if let Some(restart) = course.restarts.last_mut()
                            && restart.tokens_kept == course.tokens.len()
                        {
                            restart.next_token = now;
                        }
                        course.tokens.push(token.token);
                    }
                    Event::Restarted(restarted) => {
                        assert_eq!(restarted.tokens_kept as usize, course.tokens.len());
                        let tokens_kept = course.tokens.len();
                        let reason = restarted.reason;
                        course.restarts.push(Restart { fault: last, next_token: now, tokens_kept, reason });
                    }
                    Event::Finished(_) => ends += 1,
                    Event::Failed(failed) => panic!("{failed:?}"),
                    other => panic!("{other:?}"),
                }
                last = now;
            }
            Next::End => return course,
            other => panic!("nothing came for {:?}: {other:?}", support::LONG),
        }
    }
}
