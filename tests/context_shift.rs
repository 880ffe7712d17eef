//! A context that is full goes on where a request asks for it, at nobody else's cost. That its bits are llama.cpp's own is in
//! `parity.rs`.

mod support;

use llamapen::{EngineConfig, Event, Failed, FinishReason, Finished, KvType, Request, Status, Supervisor};

fn request(n: u32) -> Request {
    Request::tokens((0..40).map(|i| 1000 + i * 77).collect::<Vec<_>>())
        .with_temperature(0.0)
        .with_ignore_eos(true)
        .with_max_tokens(n)
}

/// Tokens with the bits of their logits.
type Tokens = Vec<(i32, Vec<u32>)>;

/// Its tokens, how many tokens of its prompt were known, and its end.
fn run(supervisor: &Supervisor, request: Request) -> Result<(Tokens, u32, Finished), Failed> {
    let (mut tokens, mut cached) = (vec![], 0);
    for event in supervisor.submit(request.with_logits(true)).unwrap() {
        match event {
            Event::Started(started) => cached = started.cached_tokens,
            Event::Token(token) => {
                tokens.push((token.token, token.logits.unwrap().iter().map(|logit| logit.to_bits()).collect()));
            }
            Event::Finished(finished) => return Ok((tokens, cached, finished)),
            Event::Failed(failed) => return Err(failed),
            _ => {}
        }
    }
    panic!("no end");
}

#[test]
fn it_goes_on_only_where_asked_for() {
    let supervisor = support::start(&support::config().with_n_ctx(64));
    assert_eq!(supervisor.submit(request(100)).err().unwrap().status(), Status::ContextOverflow);
    let mut to_the_end = request(1);
    to_the_end.max_tokens = None;
    let (short, _, end) = run(&supervisor, to_the_end).unwrap();
    assert_eq!((short.len(), end.reason, end.usage.shifted_tokens), (24 + 1 - 1, FinishReason::Length, 0));
    // 139 tokens are decoded where 64 fit: of the first 64, ten stay, and of the rest 27; then of 54 again, and once more.
    let (long, cached, end) = run(&supervisor, request(100).with_context_shift(10)).unwrap();
    assert_eq!((long.len(), end.reason, end.usage.completion_tokens), (100, FinishReason::Length, 100));
    assert_eq!((cached, end.usage.shifted_tokens), (39, 3 * 27));
    assert_eq!(long[..24], short[..], "nothing changes before the shift");
    // Only what was kept is the beginning of anything.
    let (again, cached, _) = run(&supervisor, request(100).with_context_shift(10)).unwrap();
    assert_eq!((cached, again.len()), (10, 100));
    let health = supervisor.health().unwrap().workers[0].clone();
    let engine = supervisor.engine();
    let plan = engine.memory().host();
    assert!(health.kv_used <= health.kv_total && health.memory_bytes <= plan.cache + plan.compute, "{health:?}");
}

#[test]
fn guesses_and_neighbours_change_nothing_and_are_not_changed() {
    let config = support::config().with_n_ctx(96).with_slots(2).with_prefix_cache(false).with_draft_max(7);
    let supervisor = support::start(&config);
    let shifting = || request(200).with_context_shift(3);
    let (alone, _, _) = run(&supervisor, shifting().with_draft_max(0)).unwrap();
    let (guessed, _, end) = run(&supervisor, shifting()).unwrap();
    assert!(alone == guessed, "guesses changed a shifted context: {:?}", end.usage);
    let (neighbour, _, _) = run(&supervisor, request(50)).unwrap();
    // Beside one whose context is shifted all the time.
    let mut beside = supervisor.submit(request(100_000).with_context_shift(90 / 2)).unwrap();
    while !matches!(beside.next(), Some(Event::Token(token)) if token.index == 70) {}
    assert!(run(&supervisor, request(50)).unwrap().0 == neighbour, "a shift changed the bits of a neighbour");
    beside.cancel().unwrap();
}

#[test]
fn what_cannot_be_shifted_is_refused() {
    let failed = |config: EngineConfig, request: Request| {
        let failed = run(&support::start(&config), request).unwrap_err();
        assert!(failed.message.starts_with("context_shift:"), "{failed:?}");
        failed.status
    };
    let quantized = support::config().with_n_ctx(64).with_kv_types(KvType::Q8_0, KvType::F16);
    assert_eq!(failed(quantized, request(100).with_context_shift(0)), Status::Unsupported);
    // States, positions that are learned, and a window that forgets.
    for name in ["mamba2", "jamba", "gpt2", "gemma3"] {
        let config =
            EngineConfig::new(support::synthetic().join(format!("{name}.gguf"))).with_n_ctx(1024).with_threads(1);
        let request = Request::tokens([3, 4, 5]).with_max_tokens(2000).with_context_shift(0);
        assert_eq!(failed(config, request), Status::Unsupported, "{name}");
    }
    let supervisor = support::start(&support::config().with_n_ctx(64));
    let refused = |request: Request| supervisor.submit(request).err().unwrap();
    assert!(refused(request(100).with_context_shift(33)).to_string().starts_with("n_keep:"));
    let mut endless = request(1).with_context_shift(0);
    endless.max_tokens = None;
    assert!(refused(endless).to_string().starts_with("context_shift:"));
    let long = Request::tokens([7; 64]).with_max_tokens(1).with_context_shift(0);
    assert_eq!(refused(long).status(), Status::ContextOverflow, "a prompt is never truncated");
}
