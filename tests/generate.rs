//! Real answers of a real model, and every way a request can be refused or end.

mod support;

use llamapen::{
    Event, FinishReason, Message, Next, Request, Status, Supervisor, SupervisorConfig, TokenStream, prepare,
};
use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::time::Duration;
use support::{LONG, read};

/// One supervisor for the tests that do not stop theirs: two slots, so that they share batches.
fn supervisor() -> &'static Supervisor {
    static SHARED: OnceLock<Supervisor> = OnceLock::new();
    SHARED.get_or_init(|| support::start(&support::config().with_slots(2)))
}

fn submit(request: Request) -> TokenStream {
    supervisor().submit(request).unwrap()
}

fn ask(question: &str) -> Request {
    Request::chat([Message::user(question)]).with_temperature(0.0).with_max_tokens(48)
}

#[test]
fn answers_a_question() {
    let answer = read(submit(ask("What is the capital of France?"))).unwrap();
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    assert_eq!(answer.reason, FinishReason::Stop);
    assert!(!answer.text.contains("<|"), "control tokens have no text: {}", answer.text);
}

#[test]
fn messages_are_rendered_in_the_format_of_the_file() {
    let same = |supervisor: &Supervisor, rendered: &str| {
        let short = |request: Request| read(supervisor.submit(request.with_max_tokens(8)).unwrap()).unwrap();
        let (chat, plain) = (short(ask("Hi")), short(Request::prompt(rendered).with_temperature(0.0)));
        assert_eq!((chat.prompt_tokens, chat.tokens), (plain.prompt_tokens, plain.tokens), "{rendered}");
    };
    same(supervisor(), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    // The same model with another template in its file takes that one's format.
    let other = with_template("{{ '<|start_header_id|>' + role + '<|end_header_id|>' }}");
    let supervisor = support::start(&support::config().with_model(&other));
    let header = |role| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
    same(&supervisor, &format!("{}Hi<|eot_id|>{}", header("user"), header("assistant")));
    std::fs::remove_file(other).unwrap();
}

#[test]
fn an_unknown_chat_template_is_a_typed_error() {
    let unknown = with_template("{{ messages }}");
    let supervisor = support::start(&support::config().with_model(&unknown));
    let failed = read(supervisor.submit(ask("Hi")).unwrap()).unwrap_err();
    assert_eq!(failed.status, Status::Unsupported);
    assert!(failed.message.contains("template") && !failed.retriable, "{failed:?}");
    read(supervisor.submit(Request::prompt("Hi").with_max_tokens(1)).unwrap()).expect("a prompt needs no template");
    std::fs::remove_file(unknown).unwrap();
}

/// A copy of the model with another chat template, padded to the length of its own.
fn with_template(template: &str) -> std::path::PathBuf {
    let own = supervisor().engine().info().chat_template.clone().unwrap();
    let mut file = std::fs::read(support::model()).unwrap();
    let at = file.windows(own.len()).position(|bytes| bytes == own.as_bytes()).unwrap();
    file[at..at + own.len()].copy_from_slice(format!("{template:<width$}", width = own.len()).as_bytes());
    let path = std::env::temp_dir().join(format!("llamapen-template-{}-{}.gguf", std::process::id(), template.len()));
    std::fs::write(&path, file).unwrap();
    path
}

#[test]
fn a_random_fact_in_the_prompt_comes_back() {
    let number = 1000 + std::collections::hash_map::RandomState::new().hash_one(0) % 9000;
    let question = format!("The secret number is {number}. Repeat the secret number.");
    let answer = read(submit(ask(&question))).unwrap();
    assert!(answer.text.contains(&number.to_string()), "{number}: {}", answer.text);
}

#[test]
fn equal_seeds_give_equal_texts_and_other_seeds_others() {
    let story = |seed| {
        let request = Request::chat([Message::user("Tell me a story.")]).with_temperature(1.0).with_max_tokens(40);
        read(submit(request.with_seed(seed))).unwrap()
    };
    let (a, b, c) = (story(1), story(1), story(2));
    assert_eq!(a.tokens, b.tokens);
    assert_ne!(a.tokens, c.tokens);
    assert_eq!((a.seed, c.seed), (1, 2));
}

#[test]
fn a_seed_is_drawn_reported_and_reproduces() {
    let request = || Request::prompt("Once upon a time").with_temperature(1.0).with_max_tokens(16);
    let (a, b) = (read(submit(request())).unwrap(), read(submit(request())).unwrap());
    assert_ne!(a.seed, b.seed);
    assert_eq!(read(submit(request().with_seed(a.seed))).unwrap().tokens, a.tokens);
}

#[test]
fn sampling_parameters_reach_the_sampler() {
    let base = || Request::prompt("The best colour is").with_seed(3).with_max_tokens(24).with_ignore_eos(true);
    let greedy = read(submit(base().with_temperature(0.0))).unwrap().tokens;
    // Each of these leaves one candidate, so it must be the likeliest one, whatever the temperature.
    for one in [base().with_top_k(1), base().with_top_p(0.0), base().with_min_p(1.0)] {
        assert_eq!(read(submit(one.with_temperature(5.0))).unwrap().tokens, greedy);
    }
    let hot = base().with_top_k(0).with_top_p(1.0).with_min_p(0.0).with_temperature(5.0);
    assert_ne!(read(submit(hot)).unwrap().tokens, greedy);
    // Greedy with a penalty repeats itself less than without.
    let distinct = |tokens: &[i32]| tokens.iter().collect::<std::collections::BTreeSet<_>>().len();
    let long = |r: Request| read(submit(r.with_temperature(0.0).with_max_tokens(100))).unwrap().tokens;
    let (plain, penalised) = (long(base()), long(base().with_repeat_penalty(1.5)));
    assert!(distinct(&penalised) > distinct(&plain), "{} > {}", distinct(&penalised), distinct(&plain));
}

#[test]
fn tokens_are_an_input_too() {
    let stream = submit(Request::tokens([1, 2, 3]).with_max_tokens(4).with_ignore_eos(true));
    let answer = read(stream).unwrap();
    assert_eq!((answer.prompt_tokens, answer.tokens.len(), answer.reason), (3, 4, FinishReason::Length));
    for bad in [-1, 49152, i32::MAX] {
        let error = supervisor().submit(Request::tokens([1, bad])).err().unwrap();
        assert!(error.to_string().starts_with("tokens[1]:"), "{error}");
    }
}

#[test]
fn a_prompt_over_several_micro_batches_is_understood() {
    let filler = "The weather was mild and the road was long. ".repeat(40);
    let question = format!("{filler} The magic word is banana. {filler} What is the magic word?");
    let request = ask(&question);
    let answer = read(submit(request)).unwrap();
    assert!(answer.prompt_tokens > 2 * supervisor().engine().n_ubatch(), "{}", answer.prompt_tokens);
    assert!(answer.text.to_lowercase().contains("banana"), "{}", answer.text);
}

#[test]
fn what_does_not_fit_the_context_is_refused_not_truncated() {
    // Known for certain before queueing.
    let error = supervisor().submit(Request::tokens(vec![5; 1024])).err().unwrap();
    assert_eq!(error.status(), Status::ContextOverflow);
    assert!(!error.retriable());
    let error = supervisor().submit(Request::prompt("a").with_max_tokens(1024)).err().unwrap();
    assert_eq!(error.status(), Status::ContextOverflow);
    // Known only once it is tokenised.
    let failed = read(submit(Request::prompt("a b c d ".repeat(500)))).unwrap_err();
    assert_eq!(failed.status, Status::ContextOverflow);
    assert!(failed.message.contains("1024"), "{}", failed.message);
    // To the last position of the context, and no further.
    let answer = read(submit(Request::tokens(vec![5; 1000]).with_ignore_eos(true))).unwrap();
    assert_eq!((answer.tokens.len(), answer.reason), (24, FinishReason::Length));
}

#[test]
fn text_is_whole_utf8_whatever_the_tokens() {
    // The tokens of emojis and of rare scripts are pieces of code points.
    let prompt = "Repeat exactly: 🦙🦙 漢字 äöü 🏳️‍🌈 ᚠᛇᚻ";
    for seed in 0..4 {
        let request = Request::chat([Message::user(prompt)]).with_seed(seed).with_temperature(1.5).with_max_tokens(60);
        let answer = read(submit(request.with_ignore_eos(true))).unwrap();
        assert_eq!(answer.tokens.len(), 60);
        assert!(!answer.text.is_empty());
    }
}

#[test]
fn a_prompt_may_hold_nul_and_special_tokens() {
    let answer = read(submit(Request::prompt("a\0b <|im_end|>").with_max_tokens(2).with_ignore_eos(true))).unwrap();
    assert!(answer.prompt_tokens < 8, "<|im_end|> is one token: {}", answer.prompt_tokens);
}

#[test]
fn cancelling_ends_the_stream_at_once_and_frees_the_slot() {
    let stream = submit(Request::prompt("Once").with_ignore_eos(true));
    let canceller = stream.canceller();
    let mut tokens = 0;
    let mut ends = Vec::new();
    loop {
        match stream.next_event(Some(LONG)).unwrap() {
            Next::Event(Event::Token(_)) => {
                assert!(ends.is_empty(), "a token after the terminal event");
                tokens += 1;
                if tokens == 5 {
                    canceller.cancel().unwrap();
                    canceller.cancel().unwrap();
                }
                assert!(tokens <= 5, "a token after the cancel");
            }
            Next::Event(Event::Failed(failed)) => ends.push(failed.status),
            Next::Event(Event::Started(_)) => {}
            Next::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ends, [Status::Cancelled]);
    drop(stream);
    canceller.cancel().expect("after the end it does nothing");
}

#[test]
fn dropping_a_stream_cancels_its_request() {
    let supervisor = support::start(&support::config().with_slots(2));
    let active = |n| support::eventually("slots", || supervisor.health().unwrap().workers[0].active == n);
    let dropped = supervisor.submit(Request::prompt("Once").with_ignore_eos(true)).unwrap();
    // The neighbour ends before the first one could fill its context, so it must be the drop that frees a slot.
    let neighbour = supervisor.submit(Request::prompt("Twice").with_ignore_eos(true).with_max_tokens(500)).unwrap();
    active(2);
    drop(dropped);
    active(1);
    neighbour.cancel().unwrap();
    assert_eq!(read(neighbour).unwrap_err().status, Status::Cancelled, "it was still running");
}

#[test]
fn a_full_queue_refuses_and_a_cancelled_request_gives_its_place_back() {
    let supervisor = support::start_with(&support::config(), SupervisorConfig::default().with_queue_capacity(1));
    let running = supervisor.submit(Request::prompt("a").with_ignore_eos(true)).unwrap();
    support::eventually("the first one runs", || supervisor.health().unwrap().workers[0].active == 1);
    let waiting = supervisor.submit(Request::prompt("b").with_max_tokens(1)).unwrap();
    let error = supervisor.submit(Request::prompt("c")).err().unwrap();
    assert_eq!(error.status(), Status::QueueFull);
    assert!(error.retriable());
    waiting.cancel().unwrap();
    let next = supervisor.submit(Request::prompt("c").with_max_tokens(1)).unwrap();
    drop(running);
    read(next).unwrap();
}

#[test]
fn stopping_ends_every_request_with_draining_and_refuses_new_ones() {
    let supervisor = support::start(&support::config());
    let streams: Vec<_> =
        (0..4).map(|_| supervisor.submit(Request::prompt("a").with_ignore_eos(true)).unwrap()).collect();
    supervisor.stop().unwrap();
    supervisor.stop().expect("idempotent");
    for stream in streams {
        assert_eq!(read(stream).unwrap_err().status, Status::Draining);
    }
    assert_eq!(supervisor.submit(Request::prompt("a")).err().unwrap().status(), Status::PoolUnavailable);
    assert_eq!(supervisor.wait_ready(None).unwrap_err().status(), Status::PoolUnavailable);
    let health = supervisor.health().unwrap();
    assert_eq!((health.state, health.live, health.ready), (llamapen::State::Stopped, false, false));
}

#[test]
fn a_request_may_come_before_the_model_is_loaded_and_a_load_can_be_cancelled() {
    let engine = prepare(&support::config().with_mmap(false)).unwrap();
    let supervisor = Supervisor::start(engine.clone(), SupervisorConfig::default()).unwrap();
    read(supervisor.submit(ask("Hi").with_max_tokens(2)).unwrap()).unwrap();

    let supervisor = Supervisor::start(engine, SupervisorConfig::default()).unwrap();
    supervisor.cancel_load().unwrap();
    let early = supervisor.submit(ask("Hi"));
    assert_eq!(supervisor.wait_ready(Some(LONG)).unwrap_err().status(), Status::Cancelled);
    let status = early.map(|stream| read(stream).unwrap_err().status).unwrap_or_else(|e| e.status());
    assert!(matches!(status, Status::Cancelled | Status::PoolUnavailable), "{status}");
    let health = supervisor.health().unwrap();
    assert_eq!(health.state, llamapen::State::Failed);
    assert!(health.last_error.unwrap().contains("cancelled"));
}

#[test]
fn events_come_asynchronously_too() {
    use futures_core::Stream;
    let mut stream = std::pin::pin!(submit(ask("What is the capital of France?")));
    let mut text = String::new();
    futures_executor::block_on(async {
        while let Some(event) = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await {
            if let Event::Token(token) = event {
                text.push_str(&token.text);
            }
        }
    });
    assert!(text.contains("Paris"), "{text}");
}

#[test]
fn a_wait_ends_when_its_time_is_over() {
    let stream = submit(Request::prompt("a").with_max_tokens(1));
    let mut events = 0;
    loop {
        match stream.next_event(Some(Duration::from_micros(50))).unwrap() {
            Next::Timeout => {}
            Next::Event(_) => events += 1,
            Next::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(events, 3, "started, one token, finished");
    assert_eq!(stream.next_event(None).unwrap(), Next::End, "for ever");
}

#[test]
fn joint_batches_change_nothing() {
    let alone: Vec<_> = (0..3).map(|i| read(submit(ask(&format!("Count from {i} to 20.")))).unwrap().tokens).collect();
    let streams: Vec<_> = (0..3).map(|i| submit(ask(&format!("Count from {i} to 20.")))).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = streams.into_iter().map(|s| scope.spawn(|| read(s).unwrap().tokens)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}
