//! Several workers that share the cores: who gets a request, how many threads compute, and that neither shows in an answer.

mod support;

use llamapen::{
    Calibration, CalibrationState, EngineConfig, Event, LoadPhases, State, Supervisor, SupervisorConfig, TokenStream,
    Tuning,
};

/// For two streams, with a worker each; and with all cores, where there are two.
fn engine() -> EngineConfig {
    let config = EngineConfig::new(support::model()).with_n_ctx(1024).with_streams(2).with_workers(2);
    let config = if support::in_processes() { config.with_isolation(llamapen::Isolation::Process) } else { config };
    // On one core there would be one worker.
    if cores() == 1 { config.with_workers(2).with_slots(1).with_threads(1).with_share_threads(true) } else { config }
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// Its tokens, the worker that gave them, and how many of the prompt's were known.
fn read(stream: TokenStream) -> (Vec<i32>, u32, u32) {
    let (mut tokens, mut seat) = (vec![], None);
    for event in stream {
        match event {
            Event::Started(started) => seat = Some((started.worker, started.cached_tokens)),
            Event::Token(token) => tokens.push(token.token),
            Event::Failed(failed) => panic!("{failed:?}"),
            _ => {}
        }
    }
    let (worker, cached) = seat.unwrap();
    (tokens, worker, cached)
}

fn threads(supervisor: &Supervisor) -> u32 {
    supervisor.health().unwrap().compute_threads
}

#[test]
fn one_has_all_cores_and_two_have_a_share_each() {
    let supervisor = support::start(&engine());
    assert_eq!(supervisor.health().unwrap().workers.len(), 2);
    let all = supervisor.engine().threads();
    let ask = |seed| supervisor.submit(support::greedy(support::words(seed, 40)).with_max_tokens(400)).unwrap();
    let alone = [0, 1].map(|seed| read(ask(seed)).0);
    support::eventually("all threads for the next one", || threads(&supervisor) == all);

    let mut both = [0, 1].map(ask);
    // Both have begun.
    let begun = both.each_mut().map(|stream| {
        let worker = match stream.next() {
            Some(Event::Started(started)) => started.worker,
            other => panic!("{other:?}"),
        };
        match stream.next() {
            Some(Event::Token(token)) => (worker, token.token),
            other => panic!("{other:?}"),
        }
    });
    assert_ne!(begun[0].0, begun[1].0, "a worker each");
    assert_eq!(threads(&supervisor), (all / 2).max(1));
    for ((stream, (_, first)), alone) in both.into_iter().zip(begun).zip(&alone) {
        let rest = stream.filter_map(|event| match event {
            Event::Token(token) => Some(token.token),
            _ => None,
        });
        assert_eq!(&std::iter::once(first).chain(rest).collect::<Vec<_>>(), alone, "as when it was alone");
    }
    support::eventually("all threads again", || threads(&supervisor) == all);
}

/// Threads share one load: the second one costs its context. A process loads for itself.
#[test]
fn weights_are_loaded_once_for_all_threads_and_by_each_process() {
    let supervisor = support::start(&engine());
    support::eventually("both are ready", || supervisor.health().unwrap().state == State::Ready);
    let health = supervisor.health().unwrap();
    let starts: Vec<_> = health.workers.iter().map(|worker| worker.start_phases.unwrap()).collect();
    assert!(starts.iter().all(|start| start.context_ms > 0.0 && start.warm_up_ms > 0.0), "{starts:?}");
    let loads: Vec<LoadPhases> =
        health.load_phases.into_iter().chain(starts.iter().filter_map(|start| start.load)).collect();
    assert_eq!(
        (health.load_phases.is_none(), loads.len()),
        if support::in_processes() { (true, 2) } else { (false, 1) }
    );
    assert!(
        loads.iter().all(|load| load.header_ms > 0.0 && load.mapping_ms > 0.0 && load.weights_ms > 0.0),
        "{loads:?}"
    );
    if let Some(load) = health.load_phases {
        let metrics = supervisor.metrics().unwrap();
        let sum = load.header_ms + load.mapping_ms + load.weights_ms;
        assert!(sum <= metrics.load_ms.unwrap(), "{load:?} in {:?}", metrics.load_ms);
    }
    let text = supervisor.metrics().unwrap().to_prometheus();
    let samples = |name: &str, phase: &str| {
        let phase = format!("phase=\"{phase}\"");
        text.lines().filter(|line| line.starts_with(&format!("llamapen_{name}{{")) && line.contains(&phase)).count()
    };
    assert_eq!((samples("start_phase_ms", "context"), samples("start_phase_ms", "warm_up")), (2, 2), "{text}");
    assert_eq!(samples("load_phase_ms", "weights") + samples("start_phase_ms", "weights"), loads.len(), "{text}");
}

#[test]
fn a_beginning_is_not_decoded_by_every_worker() {
    let supervisor = support::start(&engine());
    let prompt = |end: i32| [support::words(7, 300), vec![end; 3]].concat();
    let seats: Vec<_> = (0..6)
        .map(|i| {
            let (_, worker, cached) =
                read(supervisor.submit(support::greedy(prompt(50 + i)).with_max_tokens(2)).unwrap());
            support::eventually("it waits again", || supervisor.health().unwrap().slots_free == 2);
            // Or will in a moment: who is on the way back to the queue is not waited for.
            std::thread::sleep(std::time::Duration::from_millis(100));
            (worker, cached)
        })
        .collect();
    assert_eq!(seats[0].1, 0);
    assert!(seats[1..].iter().all(|&(worker, cached)| worker == seats[0].0 && cached >= 250), "{seats:?}");
}

/// The same, spread by what is measured.
fn auto() -> EngineConfig {
    engine().with_tuning(Tuning::Auto)
}

fn calibration(supervisor: &Supervisor) -> Calibration {
    supervisor.health().unwrap().calibration.unwrap()
}

fn calibrated(supervisor: &Supervisor) -> Calibration {
    support::eventually("it is calibrated", || calibration(supervisor).state == CalibrationState::Done);
    calibration(supervisor)
}

#[test]
fn calibrating_ends_says_what_it_found_and_leaves_nothing() {
    let supervisor = support::start(&auto());
    let engine = supervisor.engine();
    let found = calibrated(&supervisor);
    let points: Vec<_> = found.rates.iter().map(|rate| (rate.workers, rate.streams)).collect();
    assert_eq!(points[..2], [(1, 1), (2, 1)]);
    assert!(
        found.rates.iter().all(|rate| rate.tokens_per_second() > 0.0 && rate.streams <= engine.slots()),
        "{found:?}"
    );
    assert_eq!((found.from_cache, found.spread.len()), (false, (engine.workers() * engine.slots()) as usize));
    assert!(found.spread.iter().all(|workers| (1..=2).contains(workers)), "{found:?}");
    let health = supervisor.health().unwrap();
    assert!(health.workers.iter().all(|worker| worker.kv_used == 0), "{health:?}");
    assert_eq!(threads(&supervisor), engine.threads());
    let metrics = supervisor.metrics().unwrap();
    assert!(metrics.workers.iter().all(|worker| worker.decode_call_ms.count == 0), "no request was decoded");
    // As many at a time as there is room for, wherever they run.
    let alone = support::start(&support::config().with_slots(1));
    let ask = |supervisor: &Supervisor, seed| {
        supervisor.submit(support::greedy(support::words(seed, 20)).with_max_tokens(12)).unwrap()
    };
    let streams: Vec<_> = (0..6).map(|seed| ask(&supervisor, seed)).collect();
    for (stream, seed) in streams.into_iter().zip(0..) {
        assert_eq!(read(stream).0, read(ask(&alone, seed)).0);
    }
}

/// Also where the places that are measured in hold what earlier requests left.
#[test]
fn a_request_ends_calibrating_and_its_tokens_are_the_same() {
    let ask = |supervisor: &Supervisor, seed| {
        supervisor.submit(support::greedy(support::words(seed, 30)).with_max_tokens(16)).unwrap()
    };
    let plain = support::start(&engine());
    let expected: Vec<_> = (0..4).map(|seed| read(ask(&plain, seed)).0).collect();
    plain.stop().unwrap();
    let supervisor = support::start(&auto());
    let mut met = 0;
    for (seed, expected) in (0..).zip(&expected) {
        let state = || calibration(&supervisor).state;
        support::eventually("it measures", || state() != CalibrationState::Pending);
        met += u32::from(state() == CalibrationState::Running);
        let stream = ask(&supervisor, seed);
        assert_ne!(state(), CalibrationState::Running, "it goes on");
        let (tokens, _, cached) = read(stream);
        assert_eq!((&tokens, cached), (expected, 0));
    }
    assert!(met > 0, "it was never met");
    // What is held is still there.
    calibrated(&supervisor);
    let again = read(ask(&supervisor, 3));
    assert_eq!(again.0, expected[3]);
    assert!(again.2 >= 29, "{} of its tokens were known", again.2);
}

#[test]
fn a_drain_ends_calibrating() {
    let supervisor = support::start(&auto());
    support::eventually("it measures", || calibration(&supervisor).state != CalibrationState::Pending);
    assert!(!supervisor.drain(Some(support::LONG)).unwrap().forced);
    assert_ne!(calibration(&supervisor).state, CalibrationState::Running);
}

#[test]
fn what_was_measured_is_kept_where_the_configuration_says_so() {
    let folder = tempfile::TempDir::new().unwrap();
    let config = auto().with_tuning_cache(folder.path());
    let files = || std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
    let first = support::start(&config);
    let found = calibrated(&first);
    support::eventually("it is kept", || files().len() == 1);
    first.stop().unwrap();
    let second = support::start(&config);
    let known = calibration(&second);
    assert_eq!((known.state, known.from_cache, &known.rates), (CalibrationState::Done, true, &found.rates));
    assert_eq!(read(second.submit(support::brief()).unwrap()).0.len(), 8);
    second.stop().unwrap();
    // Damaged, it is measured and written anew.
    let file = &files()[0];
    let written = std::fs::metadata(file).unwrap().len();
    std::fs::write(file, "{\"key\":").unwrap();
    let third = support::start(&config);
    assert!(!calibrated(&third).from_cache);
    support::eventually("it is written anew", || std::fs::metadata(file).unwrap().len() > written / 2);
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_worker_that_dies_measuring_is_restarted_and_nothing_more_is_measured() {
    let config = SupervisorConfig::default()
        .with_fault(llamapen::StartFault::CalibrationNullWrite)
        .with_taint(llamapen::TaintPolicy::Continue);
    let supervisor = support::start_with(&auto(), config);
    support::eventually("it is given up", || calibration(&supervisor).state == CalibrationState::GivenUp);
    support::eventually("all are back", || {
        supervisor.health().unwrap().slots_free == supervisor.health().unwrap().slots
    });
    let health = supervisor.health().unwrap();
    let crash = health.workers.iter().find_map(|worker| worker.last_crash.clone()).unwrap();
    assert_eq!(crash.reason, llamapen::CrashReason::Signal, "{crash:?}");
    assert_eq!(threads(&supervisor), supervisor.engine().threads(), "its share was given back");
    assert_eq!(read(supervisor.submit(support::brief()).unwrap()).0.len(), 8);
    assert_eq!(calibration(&supervisor).state, CalibrationState::GivenUp);
}

/// What a worker that died had of the cores is the others'.
#[cfg(feature = "fault-injection")]
#[test]
fn a_dead_worker_gives_its_share_back() {
    let supervisor = support::start(&engine());
    let all = supervisor.engine().threads();
    for _ in 0..2 {
        let faulty = support::greedy(support::words(3, 40)).with_max_tokens(20).with_max_resumes(0);
        let stream = supervisor.submit(faulty.with_fault(llamapen::Fault::Abort).with_fault_after(5)).unwrap();
        assert!(stream.into_iter().any(|event| matches!(event, Event::Failed(_))));
        support::eventually("it is back", || {
            let health = supervisor.health().unwrap();
            health.slots_free == 2 && health.compute_threads == all
        });
    }
    let (tokens, ..) = read(supervisor.submit(support::greedy(support::words(0, 40)).with_max_tokens(5)).unwrap());
    assert_eq!(tokens.len(), 5);
}
