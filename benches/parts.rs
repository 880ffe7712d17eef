//! The parts of a request's way that need no model: `cargo bench --features benches --bench parts`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use llamapen::benching::{Events, Prefixes, Sockets, Stops, Stream, Waiting, request_message, token_message, utf8};
use std::hint::black_box;
use std::sync::Arc;

/// Tokens of a request.
const TOKENS: u64 = 256;

fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event queue");
    group.throughput(Throughput::Elements(TOKENS));
    group.bench_function("a request's tokens, given and taken by one thread", |bencher| {
        bencher.iter_batched(
            Events::default,
            |events| (0..TOKENS).all(|_| events.push() && events.take()),
            BatchSize::SmallInput,
        );
    });
    // What waking the other thread takes is in it, twice per token.
    group.bench_function("the same, to another thread and back", |bencher| {
        bencher.iter_batched(
            || (Arc::new(Events::default()), Events::default()),
            |(there, back)| {
                std::thread::scope(|scope| {
                    scope.spawn(|| (0..TOKENS).all(|_| there.take() && back.push()));
                    (0..TOKENS).all(|_| there.push() && back.take())
                })
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn waiting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue of requests");
    for n in [0, 255] {
        let waiting = Waiting::new(n);
        group.bench_function(format!("one comes and one is taken, {n} wait"), |bencher| {
            bencher.iter(|| {
                waiting.push();
                assert!(waiting.pop());
            });
        });
    }
    group.finish();
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("messages between processes");
    let mut sockets = Sockets::new().expect("a pair of sockets");
    for (name, message) in [("a token", token_message()), ("a request of 1,500 tokens", request_message(1500))] {
        let bytes = Stream::encode(&message);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group
            .bench_function(format!("encoding {name}"), |bencher| bencher.iter(|| Stream::encode(black_box(&message))));
        let mut stream = Stream::default();
        group.bench_function(format!("decoding {name}"), |bencher| {
            bencher.iter(|| assert!(stream.decode(black_box(&bytes))));
        });
        group.bench_function(format!("{name} through a socket"), |bencher| {
            bencher.iter(|| assert!(sockets.pass(black_box(&message))));
        });
    }
    group.finish();
}

fn texts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("texts");
    group.throughput(Throughput::Elements(TOKENS));
    let pieces: Vec<&str> =
        [" the", " quick", "\n", "</", " a", " é", "漢", "🦙"].into_iter().cycle().take(TOKENS as usize).collect();
    // Every character in two tokens, where it has more than one byte.
    let halves = |piece: &&str| piece.as_bytes().chunks(2).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (whole, halves) = (
        pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect::<Vec<_>>(),
        pieces.iter().flat_map(halves).collect::<Vec<_>>(),
    );
    group.bench_function("UTF-8, whole characters", |bencher| bencher.iter(|| utf8(black_box(&whole))));
    group.bench_function("UTF-8, divided characters", |bencher| bencher.iter(|| utf8(black_box(&halves))));
    for stops in [
        &[][..],
        &["</end>", "\n\n"][..],
        &["</end>", "\n\n", "User:", "<|im_end|>", "###", "é!", "Assistant:", "STOP"][..],
    ] {
        let sought = Stops::new(stops);
        group.bench_function(format!("{} stop strings", stops.len()), |bencher| {
            bencher.iter(|| sought.given(black_box(&pieces)))
        });
    }
    group.finish();
}

fn prefixes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefix cache");
    for slots in [1, 8, 64] {
        let held = Prefixes::new(slots, 1500);
        let prompt: Vec<i32> = (0..1508).collect();
        group.bench_function(format!("the slot of a prompt of 1,500 tokens, {slots} slots"), |bencher| {
            bencher.iter(|| assert!(held.choose(black_box(&prompt))));
        });
    }
    group.finish();
}

criterion_group!(parts, events, waiting, messages, texts, prefixes);
criterion_main!(parts);
