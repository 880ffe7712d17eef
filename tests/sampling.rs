//! Sampling, stops, log probabilities and echo, on a real model.

mod support;

use llamapen::{Event, Failed, FinishReason, Finished, Message, Request, Started, Status, Supervisor, Token};
use std::sync::OnceLock;
use support::read;

fn supervisor() -> &'static Supervisor {
    static SHARED: OnceLock<Supervisor> = OnceLock::new();
    SHARED.get_or_init(|| support::start(&support::config().with_slots(2)))
}

/// Everything that was reported.
struct Whole {
    started: Started,
    tokens: Vec<Token>,
    finished: Finished,
}

impl Whole {
    fn ids(&self) -> Vec<i32> {
        self.tokens.iter().map(|token| token.token).collect()
    }

    fn text(&self) -> String {
        self.tokens.iter().map(|token| token.text.as_str()).chain([self.finished.text.as_str()]).collect()
    }
}

fn run(request: Request) -> Whole {
    let (mut started, mut tokens, mut finished) = (None, vec![], None);
    for event in supervisor().submit(request).unwrap() {
        match event {
            Event::Started(event) => started = Some(event),
            Event::Token(token) => tokens.push(token),
            Event::Finished(event) => finished = Some(event),
            other => panic!("{other:?}"),
        }
    }
    Whole { started: started.unwrap(), tokens, finished: finished.unwrap() }
}

fn counting() -> Request {
    Request::prompt("1, 2, 3, 4, 5, 6,").with_temperature(0.0).with_max_tokens(40).with_ignore_eos(true)
}

#[test]
fn a_stop_string_cuts_exactly_wherever_it_lies_in_the_tokens() {
    let whole = run(counting());
    let text = whole.text();
    assert!(text.is_ascii() && text.len() >= 37, "{text}");
    // Every length from one byte to several tokens, beginning anywhere.
    for (from, length) in [(7, 1), (8, 2), (9, 3), (13, 5), (14, 9), (20, 17)] {
        let stop = &text[from..from + length];
        let stopped = run(counting().with_stop([stop]));
        assert_eq!(stopped.text(), text[..text.find(stop).unwrap()], "{stop:?}");
        assert_eq!(stopped.finished.reason, FinishReason::StopString);
        assert_eq!(stopped.finished.stop_string.as_deref(), Some(stop));
        assert_eq!(stopped.finished.usage.completion_tokens as usize, stopped.tokens.len());
        // Nothing that was given had to be taken back, and the tokens are those of the whole text.
        assert_eq!(stopped.ids(), whole.ids()[..stopped.tokens.len()]);
    }
}

#[test]
fn text_that_only_looks_like_a_stop_string_is_given_at_last() {
    let text = run(counting()).text();
    let (last, almost) = (&text[text.len() - 6..], |text: &str| format!("{text}never"));
    let held = run(counting().with_stop([almost(last), almost(&text[5..11])]));
    assert_eq!(held.text(), text);
    assert_eq!(held.finished.text, last, "held back until the end");
    assert_eq!((held.finished.reason, held.finished.stop_string), (FinishReason::Length, None));
}

#[test]
fn stop_tokens_end_it_without_an_event() {
    let whole = run(counting()).ids();
    let token = whole[9];
    let first = whole.iter().position(|id| *id == token).unwrap();
    let stopped = run(counting().with_stop_tokens([token, 5]));
    assert_eq!(stopped.ids(), whole[..first]);
    assert_eq!((stopped.finished.reason, stopped.finished.stop_token), (FinishReason::StopToken, Some(token)));
}

#[test]
fn log_probabilities_are_those_of_the_raw_logits() {
    let request = Request::prompt("The best colour is").with_seed(3).with_temperature(1.5).with_max_tokens(12);
    let whole = run(request.with_ignore_eos(true).with_logits(true).with_logprobs(20).with_logit_bias([(260, 2.0)]));
    for token in &whole.tokens {
        let (logits, logprobs) = (token.logits.as_ref().unwrap(), token.logprobs.as_ref().unwrap());
        let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = logits.iter().map(|l| (f64::from(*l) - max).exp()).sum();
        let expected = |id: i32| f64::from(logits[id as usize]) - max - sum.ln();
        assert!((logprobs.logprob - expected(token.token)).abs() < 1e-9);
        assert_eq!(logprobs.top.len(), 20);
        assert!(logprobs.top.windows(2).all(|two| two[0].logprob >= two[1].logprob));
        assert!(logprobs.top.iter().map(|top| top.logprob.exp()).sum::<f64>() <= 1.0 + 1e-9);
        for top in &logprobs.top {
            assert!((top.logprob - expected(top.token)).abs() < 1e-9);
            let same = top.token == token.token && top.text.is_ascii() && !token.text.is_empty();
            assert!(!same || top.text == token.text, "{top:?} {token:?}");
        }
        // The twentieth is what no more than nineteen are above.
        assert_eq!(logits.iter().filter(|l| **l > logits[logprobs.top[19].token as usize]).count(), 19);
    }
    let none = run(counting().with_logprobs(0).with_max_tokens(1));
    assert!(none.tokens[0].logprobs.as_ref().unwrap().top.is_empty());
    assert_eq!(run(counting().with_max_tokens(1)).tokens[0].logprobs, None);
}

#[test]
fn an_echo_is_the_prompt_as_the_model_reads_it() {
    assert_eq!(run(counting().with_echo(true)).started.prompt.as_deref(), Some("1, 2, 3, 4, 5, 6,"));
    assert_eq!(run(counting()).started.prompt, None);
    let chat = Request::chat([Message::user("Grüße, 🦙!")]).with_max_tokens(1).with_echo(true);
    let prompt = run(chat).started.prompt.unwrap();
    assert!(prompt.contains("<|im_start|>user\nGrüße, 🦙!<|im_end|>\n"), "{prompt}");
    assert!(prompt.ends_with("<|im_start|>assistant\n"), "{prompt}");
}

#[test]
fn a_bias_forbids_and_forces() {
    let whole = run(counting()).ids();
    let forbidden = run(counting().with_logit_bias([(whole[0], -100.0)])).ids();
    assert!(whole.contains(&whole[0]) && !forbidden.contains(&whole[0]));
    let never = run(counting().with_logit_bias([(whole[0], f32::NEG_INFINITY)])).ids();
    assert_eq!(never, forbidden);
    let hot = Request::prompt("The").with_max_tokens(8).with_temperature(1.0).with_ignore_eos(true);
    assert_eq!(run(hot.with_logit_bias([(5, 100.0)])).ids(), [5; 8]);
}

#[test]
fn greedy_is_greedy_whatever_the_filters() {
    let mut filtered = counting().with_top_k(5).with_top_p(0.3).with_min_p(0.5).with_seed(1);
    (filtered.typical_p, filtered.xtc_probability, filtered.mirostat) = (0.2, 1.0, 1);
    (filtered.dynatemp_range, filtered.top_n_sigma) = (2.0, 1.0);
    assert_eq!(run(filtered).ids(), run(counting()).ids());
}

#[test]
fn equal_seeds_give_equal_texts_with_every_sampler() {
    type Change = fn(&mut Request);
    let changes: [Change; 6] = [
        |r| (r.xtc_probability, r.xtc_threshold) = (0.5, 0.05),
        |r| r.mirostat = 1,
        |r| r.mirostat = 2,
        |r| (r.dry_multiplier, r.dry_allowed_length) = (5.0, 0),
        |r| (r.typical_p, r.top_n_sigma) = (0.6, 2.0),
        |r| r.dynatemp_range = 0.5,
    ];
    let request = |seed| {
        Request::prompt("Once upon a time")
            .with_temperature(1.0)
            .with_seed(seed)
            .with_max_tokens(24)
            .with_ignore_eos(true)
    };
    let plain = run(request(1)).ids();
    for (i, change) in changes.into_iter().enumerate() {
        let with = |seed| {
            let mut request = request(seed);
            change(&mut request);
            run(request).ids()
        };
        let (a, b, c) = (with(1), with(1), with(2));
        assert_eq!(a, b, "{i}");
        assert_ne!(a, c, "{i}");
        assert_ne!(a, plain, "{i}: it reached the sampler");
    }
}

#[test]
fn dry_ends_a_loop() {
    let mut request = Request::prompt("a b c a b c a b c a b c a b c").with_temperature(0.0).with_max_tokens(30);
    request.ignore_eos = true;
    let looping = run(request.clone()).text();
    request.dry_multiplier = 5.0;
    assert_eq!(looping, " c".repeat(30));
    assert!(!run(request).text().contains(" c c c c c"));
}

#[test]
fn what_is_wrong_is_refused_before_the_queue_by_name() {
    let n_vocab = supervisor().engine().info().n_vocab as i32;
    let refused = |field: &str, request: Request| {
        let error = supervisor().submit(request).err().unwrap();
        assert_eq!(error.status(), Status::InvalidParams);
        assert!(error.to_string().starts_with(&format!("{field}:")), "{error}");
    };
    refused("logit_bias[1]", counting().with_logit_bias([(0, 1.0), (n_vocab, 1.0)]));
    refused("logit_bias[0]", counting().with_logit_bias([(-1, 1.0)]));
    refused("stop_tokens[0]", counting().with_stop_tokens([n_vocab]));
    refused("stop[0]", counting().with_stop([""]));
    refused("logprobs", counting().with_logprobs(21));
}

#[test]
fn cancelling_gives_nothing_that_was_held_back() {
    let stream = supervisor().submit(counting().with_stop(["7, 8, 9, never"]).with_max_tokens(500)).unwrap();
    stream.cancel().unwrap();
    let Failed { status, .. } = read(stream).unwrap_err();
    assert_eq!(status, Status::Cancelled);
}
