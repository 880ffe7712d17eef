//! A library with CPU kernels of several levels (`LLAMAPEN_TARGET_CPU=dispatch`): every one that this machine has answers, on both
//! tiers, and what cannot be had is refused. Of a build with one level there is nothing to test. `make dispatch-check` runs it.

mod support;

use llamapen::{
    CheckStatus, EngineConfig, Event, Isolation, MachineSnapshot, PreparedEngine, Request, Status, Supervisor,
    SupervisorConfig, build_info, preflight, prepare,
};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use support::child;

const VARIABLE: &str = "LLAMAPEN_CPU_LEVEL";

#[derive(Serialize, Deserialize)]
enum Ask {
    /// An answer on each tier.
    Answer,
    /// What is said of a level that cannot be had.
    Refusals,
    /// Whether an engine from elsewhere is run.
    Start(String),
}

#[derive(Serialize, Deserialize, Debug)]
struct Answer {
    text: String,
    /// Of each token, where the two most likely ones are told with their probabilities.
    logprobs: Vec<Vec<f64>>,
}

#[derive(Serialize, Deserialize, Debug)]
struct Answers {
    observed: Option<String>,
    prepared: Option<String>,
    plan: String,
    thread: Answer,
    process: Answer,
}

/// The child: not a test by itself.
#[test]
#[ignore = "run by another test, in a child process"]
fn a_child() {
    match child::asked() {
        Ask::Answer => {
            let engine = prepare(&config()).unwrap();
            child::answer(&Answers {
                observed: MachineSnapshot::observe_host().cpu_level,
                prepared: engine.cpu_level().map(str::to_owned),
                plan: llamapen::plan(&config()).unwrap().to_string(),
                thread: ask(config()),
                process: ask(config().with_isolation(Isolation::Process)),
            });
        }
        Ask::Refusals => {
            let error = prepare(&config()).unwrap_err();
            let report = preflight(&config());
            let check = report.get("cpu_features").expect("it is looked at");
            assert_eq!(check.status, CheckStatus::Fail, "{report}");
            assert!(check.remedy.as_ref().is_some_and(|remedy| remedy.contains(VARIABLE)), "{report}");
            child::answer(&(error.status() == Status::InvalidParams, error.to_string()));
        }
        Ask::Start(json) => {
            let engine = PreparedEngine::from_json(&json).unwrap();
            let started = Supervisor::start(engine, SupervisorConfig::default());
            child::answer(&started.err().map(|error| (error.status() == Status::StaleEngine, error.to_string())));
        }
    }
}

fn config() -> EngineConfig {
    support::config().with_n_ctx(256)
}

fn ask(config: EngineConfig) -> Answer {
    let supervisor = support::start(&config);
    let request = Request::prompt("One, two, three,").with_temperature(0.0).with_max_tokens(8).with_logprobs(2);
    let mut answer = Answer { text: String::new(), logprobs: vec![] };
    for event in supervisor.submit(request).unwrap() {
        match event {
            Event::Token(token) => {
                answer.text.push_str(&token.text);
                answer.logprobs.push(token.logprobs.unwrap().top.iter().map(|likely| likely.logprob).collect());
            }
            Event::Failed(failed) => panic!("{failed:?}"),
            _ => {}
        }
    }
    supervisor.stop().unwrap();
    answer
}

/// What a child with this level says.
fn with_level<T: for<'a> Deserialize<'a>>(level: &str, ask: &Ask) -> T {
    child::answer_of(&child::command_of("a_child", ask).env(VARIABLE, level).output().unwrap())
}

/// Names of the levels that this machine has, and of those that it has not.
fn levels() -> (Vec<&'static str>, Vec<&'static str>) {
    let here = |name: &&str| MachineSnapshot::observe_host().with_cpu_level(*name).level_of(&build_info()).is_ok();
    build_info().cpu_levels.iter().map(|level| level.name).partition(here)
}

#[test]
fn every_level_of_this_machine_answers_on_both_tiers() {
    let (here, _) = levels();
    if build_info().cpu_levels.is_empty() {
        return println!("built with one level");
    }
    assert_eq!(MachineSnapshot::observe_host().cpu_level.as_deref(), here.last().copied(), "the best is chosen");
    let mut all: Vec<Answers> = vec![];
    for level in &here {
        let answers: Answers = with_level(level, &Ask::Answer);
        println!("{level}: {:?}", answers.thread.text);
        assert_eq!((answers.observed.as_deref(), answers.prepared.as_deref()), (Some(*level), Some(*level)));
        assert!(answers.plan.contains(&format!("CPU kernels of level {level}")), "{}", answers.plan);
        assert!(answers.thread.text.starts_with(" four, five"), "{level}: {answers:?}");
        assert_eq!(answers.thread.text, answers.process.text);
        assert_eq!(answers.thread.logprobs, answers.process.logprobs, "a child runs the same kernels");
        all.push(answers);
    }
    // They add in another order, so it shows that other code ran.
    let (least, best) = (&all[0].thread.logprobs, &all[all.len() - 1].thread.logprobs);
    assert!(here.len() == 1 || least != best, "the least and the best level computed the same bits");
}

#[test]
fn a_level_that_cannot_be_had_is_refused_before_anything_runs() {
    let (_, elsewhere) = levels();
    if build_info().cpu_levels.is_empty() {
        return println!("built with one level");
    }
    let (typed, text): (bool, String) = with_level("x86-64-v9", &Ask::Refusals);
    assert!(typed && text.contains("x86-64-v9") && text.contains("x86-64-v2, x86-64-v3,"), "{text}");
    for level in elsewhere {
        let (typed, text): (bool, String) = with_level(level, &Ask::Refusals);
        println!("{text}");
        assert!(typed && text.contains(level) && text.contains("which this CPU lacks"), "{text}");
    }
    // Also for an engine that was prepared without it.
    let json = prepare(&config()).unwrap().to_json();
    let refused: Option<(bool, String)> = with_level("x86-64-v9", &Ask::Start(json));
    assert!(refused.is_some_and(|(typed, text)| typed && text.contains("x86-64-v9")));
}

#[test]
fn a_deterministic_engine_is_not_run_by_another_level() {
    let (here, _) = levels();
    let [least, .., best] = here[..] else { return println!("one level here") };
    let json = |deterministic| prepare(&config().with_deterministic(deterministic)).unwrap().to_json();
    let refused: Option<(bool, String)> = with_level(least, &Ask::Start(json(true)));
    assert!(refused.is_some_and(|(typed, text)| typed && text.contains(least) && text.contains(best)));
    for (level, deterministic) in [(best, true), (least, false)] {
        assert_eq!(with_level::<Option<(bool, String)>>(level, &Ask::Start(json(deterministic))), None, "{level}");
    }
}
