//! llamapen computes what llama.cpp computes: tokens and logits against `tests/reference`, a plain loop over llama.h
//! compiled from the same sources. Where weights are rearranged (`use_repack`) the program uses the same kernels, and
//! their logits are compared with those of llama.cpp's own.

mod support;

use llamapen::{EngineConfig, Event, PreparedEngine, Request};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use support::reference;

const TOKENS: usize = 128;

fn prompts() -> Vec<String> {
    let long = "The old lighthouse keeper wrote down the weather every evening, and every evening it was different. ";
    vec![
        "The capital of France is".into(),
        "def fibonacci(n):\n    ".into(),
        "Once upon a time, in a village by the sea,".into(),
        "<|im_start|>user\nList three fruits.<|im_end|>\n<|im_start|>assistant\n".into(),
        "Die Hauptstadt von Österreich ist 🦙".into(),
        "1, 1, 2, 3, 5, 8, 13,".into(),
        // Longer than one micro-batch, and longer than the point at which attention takes another path.
        long.repeat(20),
        "Q: What is the answer?\nA:".into(),
    ]
}

/// Runs it on the prompts. Returns the tokens after each.
fn run_reference(
    program: &Path,
    engine: &PreparedEngine,
    prompts: &[String],
    n: usize,
    more: &[&OsStr],
) -> Vec<Vec<i32>> {
    let texts = program.with_file_name("prompts");
    fs::write(&texts, prompts.join("\0") + "\0").unwrap();
    let output = Command::new(program)
        .arg(support::model())
        .args(["--threads", "1", "--ignore-eos", "--n-predict", &n.to_string()])
        .args(["--n-ctx", &engine.n_ctx().to_string(), "--n-ubatch", &engine.n_ubatch().to_string()])
        .arg("--prompts")
        .arg(&texts)
        .arg(if engine.use_repack() { "--lanes" } else { "--no-repack" })
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ids = |line: &str| line.split(' ').map(|id| id.parse().unwrap()).collect();
    let tokens: Vec<Vec<i32>> = String::from_utf8(output.stdout).unwrap().lines().map(ids).collect();
    assert_eq!(tokens.len(), prompts.len());
    tokens
}

#[test]
fn penalised_tokens_equal_those_of_the_engines_own_sampler() {
    let program = reference::build("reference", "penalties");
    let dir = program.parent().unwrap();
    let (prompts, n) = (&prompts()[..4], 64);
    let supervisor = support::start(&support::config());
    let expected = run_reference(&program, &supervisor.engine(), prompts, n, &["--penalties".as_ref()]);
    for (prompt, expected) in prompts.iter().zip(expected) {
        let mut request = Request::prompt(prompt).with_temperature(0.0).with_max_tokens(n as u32).with_ignore_eos(true);
        let plain = support::read(supervisor.submit(request.clone()).unwrap()).unwrap().tokens;
        (request.repeat_penalty, request.frequency_penalty, request.presence_penalty) = (1.3, 0.1, 0.2);
        request.dry_multiplier = 0.8;
        let tokens = support::read(supervisor.submit(request).unwrap()).unwrap().tokens;
        assert_eq!(tokens, expected, "{prompt:?}");
        assert_ne!(tokens, plain, "{prompt:?}: the penalties change something");
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn greedy_tokens_equal_and_logits_are_bit_identical() {
    compare("greedy", &support::config(), &prompts(), TOKENS, &[], |request| request);
}

#[test]
fn weights_as_they_are_in_the_file_give_llama_cpps_own_logits() {
    compare("plain", &support::config().with_repack(false), &prompts(), TOKENS, &[], |request| request);
}

/// One token after each prompt: later ones would follow different texts once two logits change places. Both kernels round
/// activations to eight bits, and are as far from exact products as from each other (docs/performance.md).
#[test]
fn rearranged_weights_give_nearly_the_probabilities_of_plain_ones() {
    let repacked = compare("repacked", &support::config(), &prompts(), 1, &[], |request| request);
    let plain = compare("as-they-are", &support::config().with_repack(false), &prompts(), 1, &[], |request| request);
    for ((prompt, repacked), plain) in prompts().iter().zip(&repacked).zip(&plain) {
        let (repacked, plain) = (log_probabilities(repacked), log_probabilities(plain));
        let divergence: f64 = plain.iter().zip(&repacked).map(|(p, q)| p.exp() * (p - q)).sum();
        println!("{prompt:?}: KL divergence {divergence:.6}");
        assert!(divergence < 0.05, "{prompt:?}: KL divergence {divergence}");
    }
}

fn log_probabilities(row: &[u8]) -> Vec<f64> {
    let logits: Vec<f64> =
        row.chunks_exact(4).map(|bytes| f32::from_ne_bytes(bytes.try_into().unwrap()).into()).collect();
    let most = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum = most + logits.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln();
    logits.iter().map(|logit| logit - sum).collect()
}

/// Nothing can have been kept for these prompts: each carries a fact that was drawn just now.
#[test]
fn a_fresh_random_fact_has_the_engines_own_logits() {
    let prompts: Vec<String> = (0..4)
        .map(|_| {
            let fact = fastrand::u32(10_000..100_000);
            format!("<|im_start|>user\nThe code is {fact}. Say the code.<|im_end|>\n<|im_start|>assistant\n")
        })
        .collect();
    let last = compare("fact", &support::config(), &prompts, 16, &[], |request| request);
    for (i, row) in last.iter().enumerate() {
        assert!(!last[..i].contains(row), "{prompts:?}: the facts make no difference");
    }
}

/// More tokens than the context holds: it is shifted as llama.cpp's own programs do it.
#[test]
fn a_shifted_context_has_the_engines_own_logits() {
    let config = support::config().with_n_ctx(128).with_slots(2);
    compare("shift", &config, &prompts()[1..3], 200, &["--context-shift".as_ref(), "7".as_ref()], |request| {
        request.with_context_shift(7)
    });
}

/// Compares tokens, and logits bit by bit. Returns the last logits of each prompt.
fn compare(
    test: &str,
    config: &EngineConfig,
    prompts: &[String],
    n: usize,
    more: &[&OsStr],
    with: impl Fn(Request) -> Request,
) -> Vec<Vec<u8>> {
    let program = reference::build("reference", test);
    let logits_path = program.with_file_name("logits");
    let supervisor = support::start(config);
    let engine = supervisor.engine();
    let more = [more, &["--logits".as_ref(), logits_path.as_ref()]].concat();
    let expected = run_reference(&program, &engine, prompts, n, &more);
    let mut logits = std::io::BufReader::new(fs::File::open(&logits_path).unwrap());
    let mut row = vec![0u8; 4 * engine.info().n_vocab as usize];
    let mut last = Vec::new();

    for (prompt, expected) in prompts.iter().zip(expected) {
        assert_eq!(expected.len(), n, "{prompt:?}");
        let request = Request::prompt(prompt).with_temperature(0.0).with_ignore_eos(true).with_logits(true);
        let request = with(request.with_max_tokens(n as u32));
        let mut tokens = Vec::new();
        for event in supervisor.submit(request).unwrap() {
            match event {
                Event::Token(token) => {
                    logits.read_exact(&mut row).unwrap();
                    let ours: Vec<u8> = token.logits.unwrap().iter().flat_map(|logit| logit.to_ne_bytes()).collect();
                    assert!(ours == row, "{prompt:?}: the logits of token {} differ", tokens.len());
                    tokens.push(token.token);
                }
                Event::Failed(failed) => panic!("{prompt:?}: {}", failed.message),
                _ => {}
            }
        }
        assert_eq!(tokens, expected, "{prompt:?}");
        last.push(row.clone());
    }
    assert_eq!(logits.read(&mut row).unwrap(), 0, "all logits were compared");
    fs::remove_dir_all(program.parent().unwrap()).unwrap();
    last
}
