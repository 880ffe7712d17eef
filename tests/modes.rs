//! What `prepare` decided reaches the engine: split models, cache types, deterministic mode, windows, states.

mod support;

use llamapen::{EngineConfig, KvType, Message, Request, Status, Supervisor, SupervisorConfig, prepare};

fn greedy(config: &EngineConfig) -> support::Answer {
    let supervisor = support::start(config);
    let request = Request::prompt("The capital of France is").with_temperature(0.0).with_seed(0).with_max_tokens(24);
    support::read(supervisor.submit(request).unwrap()).unwrap()
}

#[test]
fn a_split_model_answers_as_the_whole_one() {
    let folder = support::synthetic().join("split");
    let whole = greedy(&support::config());
    let any_part = folder.join("SmolLM2-00002-of-00003.gguf");
    for named in [folder.clone(), any_part] {
        let engine = prepare(&support::config().with_model(&named)).unwrap();
        assert_eq!((engine.files().len(), engine.model_id()), (3, "SmolLM2"));
        assert!(engine.model().ends_with("SmolLM2-00001-of-00003.gguf"));
        assert_eq!(greedy(&support::config().with_model(&named)), whole);
    }
    // A part that is missing, or another one in its place, is noticed before llama.cpp sees it.
    let dir = tempfile::tempdir().unwrap();
    let part = |number| format!("SmolLM2-0000{number}-of-00003.gguf");
    for number in 1..3 {
        std::os::unix::fs::symlink(folder.join(part(number)), dir.path().join(part(number))).unwrap();
    }
    let missing = prepare(&support::config().with_model(dir.path())).unwrap_err();
    assert!(missing.to_string().contains(&part(3)), "{missing}");
    std::fs::copy(folder.join(part(2)), dir.path().join(part(3))).unwrap();
    let doubled = prepare(&support::config().with_model(dir.path())).unwrap_err();
    assert_eq!(doubled.status(), Status::ModelInvalid, "{doubled}");
    assert!(doubled.to_string().contains("split.no"), "{doubled}");
}

#[test]
fn a_changed_part_is_noticed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(support::synthetic().join("split")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let engine = prepare(&support::config().with_model(dir.path())).unwrap();
    let last = std::fs::File::options().append(true).open(&engine.files()[2].path).unwrap();
    last.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    let error = Supervisor::start(engine, SupervisorConfig::default()).map(drop).unwrap_err();
    assert_eq!(error.status(), Status::StaleEngine);
    assert!(error.to_string().contains("00003-of-00003"), "{error}");
}

#[test]
fn every_cache_type_runs() {
    for kind in KvType::ALL {
        let answer = greedy(&support::config().with_kv_types(kind, kind));
        assert!(!answer.tokens.is_empty(), "{kind}");
        // Eight bits and more are close enough to the full precision not to change this answer's beginning.
        if kind <= KvType::Q8_0 {
            assert!(answer.text.contains("Paris"), "{kind}: {:?}", answer.text);
        }
    }
    // Each type is where it belongs: without flash attention values of this type would be refused.
    let mixed = support::config().with_flash_attention(false).with_kv_types(KvType::Q8_0, KvType::F16);
    assert!(greedy(&mixed).text.contains("Paris"));
    let off = greedy(&support::config().with_flash_attention(false));
    assert!(off.text.contains("Paris"), "{:?}", off.text);
}

/// Drawn tokens, no seed given: the same again, beside other requests, and after a restart.
#[test]
fn deterministic_mode_repeats_itself() {
    let config = support::config().with_deterministic(true);
    let request = || {
        let question = Message::user("Tell me a story about a llama.");
        Request::chat([question]).with_temperature(1.0).with_max_tokens(80)
    };
    let answers = |supervisor: &Supervisor| {
        // All at once: one slot takes them in turn.
        let streams: Vec<_> = (0..3).map(|_| supervisor.submit(request()).unwrap()).collect();
        streams.into_iter().map(|stream| support::read(stream).unwrap()).collect::<Vec<_>>()
    };
    let first = answers(&support::start(&config));
    let second = answers(&support::start(&config));
    assert_eq!(first[0].seed, 0);
    assert!(first[0].tokens.len() > 20);
    for answer in first.iter().chain(&second) {
        assert_eq!(answer, &first[0]);
    }
    let other = answers(&support::start(&config.clone().with_seed(1)));
    assert_ne!(other[0].tokens, first[0].tokens);
    // A request's own seed goes before.
    let supervisor = support::start(&config);
    let own = support::read(supervisor.submit(request().with_seed(1)).unwrap()).unwrap();
    assert_eq!(own, other[0]);
}

/// Models whose memory is no plain KV cache load and decode. What they say means nothing.
#[test]
fn windows_and_states_run() {
    for name in ["gemma3", "mamba2", "jamba", "granitehybrid", "deepseek2"] {
        let config = EngineConfig::new(support::synthetic().join(format!("{name}.gguf"))).with_threads(1);
        let supervisor = support::start(&config.with_n_ctx(512).with_slots(2));
        let request = Request::tokens([3, 4, 5]).with_ignore_eos(true).with_max_tokens(8);
        let answer = support::read(supervisor.submit(request).unwrap()).unwrap();
        assert_eq!(answer.tokens.len(), 8, "{name}");
        let engine = supervisor.engine();
        let planned = engine.memory().host();
        let health = supervisor.health().unwrap();
        let used = health.workers[0].memory_bytes;
        assert!(used <= planned.cache + planned.compute, "{name}: {used} bytes used, {planned:?}");
    }
}
