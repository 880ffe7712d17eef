//! Guesses at the next tokens change how long an answer takes, and not one bit of it.

mod support;

use llamapen::{EngineConfig, Event, FinishReason, Finished, Request, Status, Supervisor, SupervisorConfig, prepare};
use std::time::Duration;

/// Pieces of one size whatever the machine does meanwhile.
fn start(config: &EngineConfig) -> Supervisor {
    support::start_with(config, SupervisorConfig::default().with_max_stall(Duration::from_secs(60)))
}

/// Everything that came but for its counts and times: tokens, texts, bits of the logits, the reason.
type Given = (Vec<(i32, String, Vec<u32>)>, FinishReason, String);

fn run(supervisor: &Supervisor, request: Request) -> (Given, Finished) {
    let mut given = vec![];
    for event in supervisor.submit(request.with_logits(true)).unwrap() {
        match event {
            Event::Token(token) => {
                let bits = token.logits.unwrap().iter().map(|logit| logit.to_bits()).collect();
                given.push((token.token, token.text, bits));
            }
            Event::Finished(end) => return ((given, end.reason, end.text.clone()), end),
            Event::Failed(failed) => panic!("{}", failed.message),
            _ => {}
        }
    }
    panic!("no end");
}

/// The same without guesses and with them: equal, and that many came true.
fn compare(supervisor: &Supervisor, request: &Request, what: &str) -> (u32, u32) {
    let (plain, end) = run(supervisor, request.clone().with_draft_max(0));
    assert_eq!((end.usage.draft_tokens, end.usage.draft_accepted), (0, 0), "{what}");
    let (guessed, end) = run(supervisor, request.clone());
    assert!(plain == guessed, "{what}: the answers differ");
    assert_eq!(end.usage.completion_tokens as usize, plain.0.len(), "{what}");
    (end.usage.draft_tokens, end.usage.draft_accepted)
}

/// A text that says everything several times.
fn refrain(times: usize) -> Request {
    let text = "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, life is but a dream.\n";
    Request::prompt(text.repeat(times)).with_temperature(0.0).with_ignore_eos(true).with_max_tokens(40).with_seed(1)
}

#[test]
fn an_answer_is_the_same_with_and_without_guesses() {
    // Short and long contexts, whose keys several threads would divide among them.
    for (threads, times) in [(1, 3), (2, 12)] {
        let config = support::config().with_threads(threads).with_prefix_cache(false);
        let supervisor = start(&config.with_draft_max(7));
        assert_eq!(supervisor.health().unwrap().workers[0].draft_max, 7);
        let (guessed, right) = compare(&supervisor, &refrain(times), "greedy");
        // How many are made depends on what checking takes on this machine.
        assert!(right >= 10 && right <= guessed, "{right} of {guessed} guesses came true");
        // Each choice is made once per position, whatever was guessed: seeds, penalties and mirostat notice.
        let (_, right) = compare(&supervisor, &refrain(times).with_temperature(0.6), "temperature");
        assert!(right > 0);
        let mut mirostat = refrain(times).with_temperature(1.0);
        (mirostat.mirostat, mirostat.mirostat_tau) = (2, 2.0);
        compare(&supervisor, &mirostat, "mirostat");
        compare(&supervisor, &refrain(times).with_repeat_penalty(1.05).with_logprobs(3), "penalties");
    }
}

#[test]
fn an_end_inside_a_guess_leaves_nothing_behind() {
    let config = support::config();
    let (plain, guessing) = (start(&config), start(&config.with_draft_max(15)));
    // Ten tokens, over and over: the model goes on with them.
    let tune: Vec<i32> = (0..60).map(|i| 1000 + (i % 10) * 777).collect();
    let request = Request::tokens(tune.clone()).with_temperature(0.0).with_ignore_eos(true).with_seed(1);
    let whole = run(&plain, request.clone().with_max_tokens(30)).0.0;
    let text: String = whole.iter().map(|(_, text, _)| text.as_str()).collect();
    let middle: String = text.chars().skip(text.chars().count() / 2).take(12).collect();
    let mut endless = request.clone();
    endless.max_tokens = None;
    for (what, request) in [
        ("a stop string", request.clone().with_stop([middle])),
        ("a stop token", request.clone().with_stop_tokens([whole[17].0])),
        ("a limit", request.clone().with_max_tokens(21)),
        ("one token", request.clone().with_max_tokens(1)),
        ("the end of the context", endless),
    ] {
        let (expected, _) = run(&plain, request.clone());
        let (given, end) = run(&guessing, request.clone());
        assert!(given == expected, "{what}: the answers differ");
        assert!(what == "one token" || end.usage.draft_accepted > 0, "{what}: {:?}", end.usage);
        // What was guessed beyond the end is not taken for a part of the text by the next request, which goes on from it.
        let mut next = [tune.clone(), given.0.iter().map(|(token, ..)| *token).collect()].concat();
        next.truncate(1000);
        next.extend([5, 6, 7]);
        let next = Request::tokens(next).with_temperature(0.0).with_ignore_eos(true).with_max_tokens(8);
        assert!(run(&plain, next.clone()).0 == run(&guessing, next).0, "{what}: the next answers differ");
    }
}

#[test]
fn several_guess_at_once() {
    let config = support::config().with_threads(2).with_slots(4).with_n_ubatch(32).with_prefix_cache(false);
    let supervisor = start(&config.with_draft_max(10));
    let requests: Vec<_> = (2..6).map(|times| refrain(times).with_temperature(0.3)).collect();
    let alone: Vec<_> = requests.iter().map(|request| run(&supervisor, request.clone().with_draft_max(0)).0).collect();
    let streams: Vec<_> =
        requests.iter().map(|request| supervisor.submit(request.clone().with_logits(true)).unwrap()).collect();
    for (stream, alone) in streams.into_iter().zip(alone) {
        let (tokens, expected): (Vec<_>, Vec<_>) = (
            stream.filter_map(|event| if let Event::Token(token) = event { Some(token) } else { None }).collect(),
            alone.0,
        );
        assert_eq!(tokens.len(), expected.len());
        for (token, (id, text, bits)) in tokens.iter().zip(&expected) {
            let same = token.logits.iter().flatten().zip(bits).all(|(logit, bits)| logit.to_bits() == *bits);
            assert!(token.token == *id && token.text == *text && same, "token {} differs", token.index);
        }
    }
    let metrics = supervisor.metrics().unwrap();
    let worker = &metrics.workers[0];
    assert!(worker.draft_accepted_total > 10 && worker.draft_accepted_total <= worker.draft_tokens_total);
    assert_eq!(worker.decode_failures_total, 0, "what was wrong was forgotten in time");
    let text = metrics.to_prometheus();
    assert!(
        text.contains(&format!(" {}\n", worker.draft_tokens_total)) && text.contains("draft_accepted_total"),
        "{text}"
    );
}

/// Some kernels round several tokens in one decode differently from one: there, nothing is guessed.
#[test]
fn whatever_the_kernels_the_answers_are_the_same() {
    for name in ["llama", "gemma3"] {
        let config = EngineConfig::new(support::synthetic().join(format!("{name}.gguf"))).with_n_ctx(256);
        let supervisor = start(&config.with_threads(1).with_prefix_cache(false).with_draft_max(15));
        let tokens: Vec<i32> = (0..60).map(|i| 3 + i % 6).collect();
        let request = Request::tokens(tokens).with_temperature(0.0).with_ignore_eos(true).with_max_tokens(100);
        let (guessed, _) = compare(&supervisor, &request, name);
        let draft_max = supervisor.health().unwrap().workers[0].draft_max;
        println!("{name}: draft_max {draft_max}, {guessed} tokens guessed");
        assert_eq!(guessed > 0, draft_max > 0, "{name}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for name in ["mamba2", "jamba", "granitehybrid"] {
        let config = EngineConfig::new(support::synthetic().join(format!("{name}.gguf"))).with_n_ctx(256);
        let error = prepare(&config.clone().with_draft_max(1)).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported, "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("draft_max"), "{error}");
        prepare(&config).unwrap();
    }
    let refused = |config: EngineConfig| prepare(&config).unwrap_err().to_string();
    assert!(refused(support::config().with_draft_max(16)).starts_with("draft_max:"));
    assert!(refused(support::config().with_draft_max(8).with_n_ubatch(8)).starts_with("n_ubatch:"));
    let supervisor = start(&support::config().with_draft_max(3));
    let error = supervisor.submit(refrain(1).with_draft_max(4)).err().unwrap();
    assert_eq!(error.status(), Status::InvalidParams);
    assert!(error.to_string().starts_with("draft_max:"), "{error}");
}
