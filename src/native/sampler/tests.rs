//! Each filter against its definition, on a vector of logits whose probabilities are known. The definitions are written
//! plainly here, in double precision; the model lends nothing but its vocabulary.

use super::*;
use crate::native::{LoadParams, init_backend};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Of tokens 0 to 6; all others cannot come. No two are equal, and no sum of the first is a threshold used below.
const PROBABILITIES: [f64; 7] = [0.41, 0.24, 0.16, 0.09, 0.05, 0.03, 0.02];

fn load() -> Arc<Model> {
    init_backend().unwrap();
    let params = LoadParams { use_mmap: true, ..LoadParams::default() };
    Arc::new(Model::load(&crate::test_model(), &params, |_| true).unwrap())
}

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(load).clone()
}

/// Nothing is filtered.
fn off() -> SamplingParams {
    SamplingParams {
        penalty_last_n: 0,
        penalty_repeat: 1.0,
        penalty_frequency: 0.0,
        penalty_presence: 0.0,
        dry_multiplier: 0.0,
        dry_base: 1.75,
        dry_allowed_length: 2,
        dry_penalty_last_n: 64,
        top_n_sigma: 0.0,
        top_k: 0,
        typical_p: 1.0,
        top_p: 1.0,
        min_p: 0.0,
        xtc_probability: 0.0,
        xtc_threshold: 0.1,
        min_keep: 0,
        temperature: 1.0,
        dynatemp_range: 0.0,
        dynatemp_exponent: 1.0,
        mirostat: 0,
        mirostat_tau: 5.0,
        mirostat_eta: 0.1,
    }
}

fn sampler(params: SamplingParams) -> Sampler {
    with(params, &[], &[])
}

fn with(params: SamplingParams, biases: &[(i32, f32)], breakers: &[&str]) -> Sampler {
    on(model(), params, biases, breakers)
}

fn on(model: Arc<Model>, params: SamplingParams, biases: &[(i32, f32)], breakers: &[&str]) -> Sampler {
    let biases = biases.iter().map(|&(token, bias)| LogitBias { token, bias }).collect();
    let dry_breakers = breakers.iter().map(|text| CString::new(*text).unwrap()).collect();
    Sampler::new(model, &Sampling { params, biases, dry_breakers }).unwrap()
}

fn logits(of: &[f64]) -> Vec<f32> {
    let mut logits = vec![f32::NEG_INFINITY; model().n_vocab()];
    for (logit, p) in logits.iter_mut().zip(of) {
        // Any constant: only differences matter.
        *logit = (p.ln() + 3.0) as f32;
    }
    logits
}

/// The distribution that is chosen from, to a hundredth: what 400 evenly spread draws give.
fn distribution(sampler: &mut Sampler, logits: &[f32], xtc: f64) -> BTreeMap<i32, f64> {
    let mut shares = BTreeMap::new();
    for i in 0..400 {
        let draw = Draw { choice: (f64::from(i) + 0.5) / 400.0, xtc };
        *shares.entry(sampler.pick(logits, draw).unwrap()).or_default() += 1.0 / 400.0;
    }
    shares
}

/// The same tokens (but for those that the draws are too coarse for) with the same probabilities.
#[track_caller]
fn assert_close(found: &BTreeMap<i32, f64>, kept: &[(i32, f64)]) {
    let sum: f64 = kept.iter().map(|(_, p)| p).sum();
    for (token, p) in kept {
        let found_p = found.get(token).copied().unwrap_or(0.0);
        assert!((found_p - p / sum).abs() < 0.006, "token {token}: {found_p}, not {}: {found:?}", p / sum);
    }
    assert!(found.keys().all(|token| kept.iter().any(|(kept, _)| kept == token)), "{found:?} but {kept:?}");
}

fn all() -> Vec<(i32, f64)> {
    (0..).zip(PROBABILITIES).collect()
}

#[track_caller]
fn check(params: SamplingParams, kept: &[(i32, f64)]) {
    assert_close(&distribution(&mut sampler(params), &logits(&PROBABILITIES), 0.5), kept);
}

#[test]
fn nothing_on_is_the_softmax() {
    check(off(), &all());
}

#[test]
fn top_k_top_p_min_p_and_min_keep() {
    check(SamplingParams { top_k: 3, ..off() }, &all()[..3]);
    // 0.41 + 0.24 + 0.16 = 0.81 is the first sum to reach 0.7.
    check(SamplingParams { top_p: 0.7, ..off() }, &all()[..3]);
    // 0.2 of 0.41 is 0.082.
    check(SamplingParams { min_p: 0.2, ..off() }, &all()[..4]);
    check(SamplingParams { min_p: 1.0, min_keep: 2, ..off() }, &all()[..2]);
    check(SamplingParams { top_p: 0.0, min_keep: 3, ..off() }, &all()[..3]);
    check(SamplingParams { top_p: 0.0, ..off() }, &all()[..1]);
    // In this order: top-p looks at what top-k left, 0.41 / 0.65 = 0.63.
    check(SamplingParams { top_k: 2, top_p: 0.6, ..off() }, &all()[..1]);
}

#[test]
fn typical_p_keeps_the_closest_to_the_entropy() {
    let entropy: f64 = PROBABILITIES.iter().map(|p| -p * p.ln()).sum();
    let mut order = all();
    order.sort_by(|a, b| (-a.1.ln() - entropy).abs().total_cmp(&(-b.1.ln() - entropy).abs()));
    assert_ne!(order[0].0, 0, "the likeliest is not the most typical here: the test would show nothing");
    for p in [0.2, 0.5, 0.7] {
        let mut sum = 0.0;
        let n = order.iter().position(|(_, of)| (sum += of, sum > f64::from(p)).1).unwrap() + 1;
        check(SamplingParams { typical_p: p, ..off() }, &order[..n]);
    }
    // A token of probability 0 in float must not make the entropy NaN.
    let mut far = logits(&PROBABILITIES);
    far[7] = -1000.0;
    let mut typical = sampler(SamplingParams { typical_p: 0.2, ..off() });
    assert_close(&distribution(&mut typical, &far, 0.5), &order[..1]);
}

#[test]
fn top_n_sigma_keeps_what_is_near_the_largest() {
    let values: Vec<f64> = PROBABILITIES.iter().map(|p| p.ln()).collect();
    let mean = values.iter().sum::<f64>() / 7.0;
    let sigma = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 7.0).sqrt();
    let kept: Vec<_> = all().into_iter().filter(|(_, p)| p.ln() >= values[0] - sigma).collect();
    assert!((2..6).contains(&kept.len()));
    check(SamplingParams { top_n_sigma: 1.0, ..off() }, &kept);
}

#[test]
fn xtc_drops_all_top_choices_but_the_last_as_often_as_it_should() {
    let logits = logits(&PROBABILITIES);
    // 0.41, 0.24 and 0.16 reach the threshold.
    let params = SamplingParams { xtc_probability: 0.3, xtc_threshold: 0.1, ..off() };
    assert_close(&distribution(&mut sampler(params), &logits, 0.299), &all()[2..]);
    assert_close(&distribution(&mut sampler(params), &logits, 0.301), &all());
    // One top choice alone stays.
    let one = SamplingParams { xtc_probability: 1.0, xtc_threshold: 0.3, ..off() };
    assert_close(&distribution(&mut sampler(one), &logits, 0.0), &all());
    let keep = SamplingParams { min_keep: 6, ..params };
    assert_close(&distribution(&mut sampler(keep), &logits, 0.0), &all());
    let too_high = SamplingParams { xtc_probability: 1.0, xtc_threshold: 0.51, ..off() };
    assert_close(&distribution(&mut sampler(too_high), &logits, 0.0), &all());
    // It comes after min-p, which still sees the likeliest: 0.09 is above 0.2 of it, 0.05 is not.
    // And before the temperature, which would make 0.09 a top choice too.
    let heated: Vec<_> = all()[2..].iter().map(|(token, p)| (*token, p.sqrt())).collect();
    assert_close(&distribution(&mut sampler(SamplingParams { temperature: 2.0, ..params }), &logits, 0.0), &heated);
    let both = SamplingParams { min_p: 0.2, xtc_threshold: 0.12, ..params };
    assert_close(&distribution(&mut sampler(both), &logits, 0.0), &all()[2..4]);
}

#[test]
fn temperature_and_dynamic_temperature() {
    let heated = |t: f64| -> Vec<_> { all().iter().map(|(token, p)| (*token, p.powf(1.0 / t))).collect() };
    check(SamplingParams { temperature: 2.0, ..off() }, &heated(2.0));
    let entropy = PROBABILITIES.iter().map(|p| -p * p.ln()).sum::<f64>() / 7f64.ln();
    for exponent in [0.5, 1.0, 3.0] {
        let t = 0.5 + 2.0 * entropy.powf(exponent);
        let params =
            SamplingParams { temperature: 1.5, dynatemp_range: 1.0, dynatemp_exponent: exponent as f32, ..off() };
        check(params, &heated(t));
    }
}

#[test]
fn greedy_takes_the_likeliest_whatever_filters_say_and_biases_and_penalties_change_it() {
    let logits = logits(&PROBABILITIES);
    let greedy = SamplingParams { temperature: 0.0, ..off() };
    let every_filter = SamplingParams {
        top_k: 5,
        top_p: 0.1,
        min_p: 0.9,
        typical_p: 0.1,
        xtc_probability: 1.0,
        dynatemp_range: 0.5,
        mirostat: 2,
        ..greedy
    };
    for params in [greedy, every_filter] {
        assert_close(&distribution(&mut sampler(params), &logits, 0.0), &all()[..1]);
        assert_close(&distribution(&mut with(params, &[(0, -100.0)], &[]), &logits, 0.0), &all()[1..2]);
    }
    let mut penalised = sampler(SamplingParams { penalty_last_n: 64, penalty_presence: 5.0, ..greedy });
    penalised.accept(0).unwrap();
    assert_close(&distribution(&mut penalised, &logits, 0.0), &all()[1..2]);
}

#[test]
fn biases_are_added_before_everything() {
    let logits = logits(&PROBABILITIES);
    let biased = |biases: &[(i32, f32)], params| distribution(&mut with(params, biases, &[]), &logits, 0.5);
    assert_close(&biased(&[(0, f32::NEG_INFINITY), (1, -100.0)], off()), &all()[2..]);
    assert_close(&biased(&[(6, 100.0)], SamplingParams { typical_p: 0.5, ..off() }), &[(6, 1.0)]);
    // Twice for one token: their sum.
    let half = 2f32.ln() / -2.0;
    let expected: Vec<_> = all().iter().map(|(t, p)| (*t, if *t == 0 { p / 2.0 } else { *p })).collect();
    assert_close(&biased(&[(0, half), (0, half)], off()), &expected);
    // Mirostat sees them too, top-k comes after them.
    assert_close(&biased(&[(0, f32::NEG_INFINITY)], SamplingParams { mirostat: 2, ..off() }), &all()[1..]);
    assert_close(&biased(&[(6, 10.0)], SamplingParams { top_k: 1, ..off() }), &[(6, 1.0)]);
}

#[test]
fn dry_lowers_what_goes_on_with_a_repetition() {
    let logits = logits(&PROBABILITIES);
    // 0 1 2 3, then 0 1 2: with 3 it would repeat four tokens, three of which are there.
    let history = [0, 1, 2, 3, 0, 1, 2];
    let after = |params: SamplingParams, breakers: &[&str], history: &[i32]| {
        let mut sampler = with(params, &[], breakers);
        history.iter().for_each(|token| sampler.accept(*token).unwrap());
        distribution(&mut sampler, &logits, 0.5)
    };
    let params = SamplingParams { dry_multiplier: 0.8, dry_base: 1.5, dry_allowed_length: 2, ..off() };
    let lowered =
        |by: f64| -> Vec<_> { all().iter().map(|(t, p)| (*t, if *t == 3 { p / by.exp() } else { *p })).collect() };
    assert_close(&after(params, &[], &history), &lowered(0.8 * 1.5));
    assert_close(&after(SamplingParams { dry_allowed_length: 4, ..params }, &[], &history), &all());
    // Too short a memory to see the first time.
    assert_close(&after(SamplingParams { dry_penalty_last_n: 4, ..params }, &[], &history), &all());
    // A breaker among the repeated tokens: only what follows it counts, and that is too short.
    let mut breaker = Vec::new();
    let letter = (0..).find(|token| {
        breaker.clear();
        model().token_bytes(*token, &mut breaker).unwrap();
        breaker == b"q"
    });
    let broken = [0, letter.unwrap(), 2, 3, 0, letter.unwrap(), 2];
    assert_close(&after(params, &[], &broken), &lowered(0.8 * 1.5));
    assert_close(&after(params, &["q"], &broken), &all());
}

#[test]
fn dry_is_made_once_for_requests_with_the_same_parameters() {
    let (model, logits) = (load(), logits(&PROBABILITIES));
    let params = SamplingParams { dry_multiplier: 0.8, dry_base: 1.5, dry_allowed_length: 2, ..off() };
    let after = |params: SamplingParams, breakers: &[&str], history: &[i32]| {
        let mut sampler = on(model.clone(), params, &[], breakers);
        history.iter().for_each(|token| sampler.accept(*token).unwrap());
        distribution(&mut sampler, &logits, 0.5)
    };
    let repeats = [0, 1, 2, 3, 0, 1, 2];
    let first = after(params, &["q"], &repeats);
    // What the first one saw is not in the second.
    assert_close(&after(params, &["q"], &[]), &all());
    assert_eq!(after(params, &["q"], &repeats), first);
    assert_ne!(after(params, &["q"], &[]), first);
    assert_eq!(model.dry().made_and_kept(), (1, 1));
    // Each parameter makes another one, and no DRY makes none.
    let others = [
        SamplingParams { dry_multiplier: 1.6, ..params },
        SamplingParams { dry_base: 3.0, ..params },
        SamplingParams { dry_allowed_length: 4, ..params },
        SamplingParams { dry_penalty_last_n: 4, ..params },
    ];
    for (i, other) in others.into_iter().enumerate() {
        assert_ne!(after(other, &["q"], &repeats), first);
        assert_eq!(model.dry().made_and_kept(), (i + 2, (i + 2).min(4)));
    }
    after(SamplingParams { mirostat: 2, ..params }, &["q"], &repeats);
    after(off(), &["q"], &repeats);
    // The first was used longest ago, and is not kept any more; the last still is.
    after(others[3], &["q"], &repeats);
    assert_eq!(model.dry().made_and_kept(), (5, 4));
    assert_eq!(after(params, &["q"], &repeats), first);
    assert_eq!(model.dry().made_and_kept(), (6, 4));
    // Of several threads one makes it.
    let request = || drop(on(model.clone(), params, &[], &["other", "breakers"]));
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(request))));
    assert_eq!(model.dry().made_and_kept(), (7, 4));
}

/// Numbers that look random, in [0, 1).
fn noise(n: u32) -> f64 {
    (f64::from(n) * 0.754_877_666_246_692_8 + 0.1).fract()
}

/// The logits of position `n`: 50 candidates.
fn logits_at(n: u32) -> Vec<f32> {
    let weights: Vec<f64> = (0..50).map(|i| (6.0 * noise(50 * n + i)).exp()).collect();
    logits(&weights)
}

/// Mirostat's definition (https://arxiv.org/abs/2007.14966; version 2 by the same authors). Returns the tokens.
fn mirostat_reference(version: i32, tau: f64, eta: f64, n_vocab: f64, steps: u32) -> Vec<i32> {
    let mut mu = 2.0 * tau;
    let mut step = |n: u32| {
        let mut candidates: Vec<(i32, f64)> = (0..).zip(logits_at(n)).map(|(t, l)| (t, f64::from(l).exp())).collect();
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
        candidates.truncate(50);
        let sum: f64 = candidates.iter().map(|(_, p)| p).sum();
        let kept = if version == 2 {
            candidates.iter().take_while(|(_, p)| -(p / sum).log2() <= mu).count().max(1)
        } else {
            let (mut tb, mut tt) = (0.0, 0.0);
            for i in 0..candidates.len().min(100) - 1 {
                let t = ((i as f64 + 2.0) / (i as f64 + 1.0)).ln();
                tb += t * (candidates[i].1 / candidates[i + 1].1).ln();
                tt += t * t;
            }
            let (s, epsilon) = (tb / tt, tb / tt - 1.0);
            let k = (epsilon * mu.exp2() / (1.0 - n_vocab.powf(-epsilon))).powf(1.0 / s);
            (k as usize).clamp(1, 50)
        };
        candidates.truncate(kept);
        let sum: f64 = candidates.iter().map(|(_, p)| p).sum();
        let mut left = noise(n + 7_000) * sum;
        let at = candidates.iter().position(|(_, p)| (left -= p, left < 0.0).1).unwrap_or(0);
        mu -= eta * (-(candidates[at].1 / sum).log2() - tau);
        candidates[at].0
    };
    (0..steps).map(&mut step).collect()
}

#[test]
fn mirostat_follows_its_definition_and_replays_exactly() {
    for version in [1, 2] {
        let params = SamplingParams { mirostat: version, mirostat_tau: 3.0, mirostat_eta: 0.3, ..off() };
        let run = |params| -> Vec<i32> {
            let mut sampler = sampler(params);
            let draw = |n| Draw { choice: noise(n + 7_000), xtc: 0.0 };
            (0..60).map(|n| sampler.pick(&logits_at(n), draw(n)).unwrap()).collect()
        };
        let tokens = run(params);
        assert_eq!(tokens, mirostat_reference(version, 3.0, 0.3, model().n_vocab() as f64, 60), "version {version}");
        assert_eq!(tokens, run(params));
        assert_ne!(tokens, run(SamplingParams { mirostat_eta: 0.0, ..params }), "it learns");
        // The other filters are not there.
        assert_eq!(tokens, run(SamplingParams { top_k: 1, xtc_probability: 1.0, dynatemp_range: 1.0, ..params }));
        // One candidate: nothing to estimate from.
        let mut sampler = sampler(params);
        assert_close(&distribution(&mut sampler, &logits(&[1.0]), 0.5), &[(0, 1.0)]);
    }
}

#[test]
fn xtc_replays_exactly() {
    let params = SamplingParams { xtc_probability: 0.5, xtc_threshold: 0.05, ..off() };
    let run = |params, from: u32| -> Vec<i32> {
        let mut sampler = sampler(params);
        let draw = |n| Draw { choice: noise(n + 7_000), xtc: noise(n + 9_000) };
        (from..60).map(|n| sampler.pick(&logits_at(n), draw(n)).unwrap()).collect()
    };
    let whole = run(params, 0);
    assert_ne!(whole, run(off(), 0));
    // From the middle too, by a sampler that saw nothing of the beginning.
    assert_eq!(whole[30..], run(params, 30));
}
