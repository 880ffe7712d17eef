//! What a host calls, on the small synthetic model (`LLAMAPEN_SYNTHETIC_MODELS`, the folder that `scripts/synthetic.py` prints).

use criterion::{Criterion, criterion_group};
use llamapen::{
    EngineConfig, Isolation, MachineSnapshot, PreparedEngine, Request, Supervisor, SupervisorConfig, prepare,
    prepare_on,
};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

fn model() -> PathBuf {
    let folder = std::env::var_os("LLAMAPEN_SYNTHETIC_MODELS")
        .expect("LLAMAPEN_SYNTHETIC_MODELS is the folder that scripts/synthetic.py prints");
    PathBuf::from(folder).join("llama.gguf")
}

fn preparing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("preparing");
    let (config, machine) = (EngineConfig::new(model()), MachineSnapshot::new(8, 64 << 30));
    group.bench_function("prepare", |bencher| bencher.iter(|| prepare(black_box(&config)).expect("it fits")));
    group.bench_function("prepare_on a snapshot", |bencher| {
        bencher.iter(|| prepare_on(black_box(&config), &machine).expect("it fits"))
    });
    let engine = prepare(&config).expect("it fits");
    let json = engine.to_json();
    group.bench_function("PreparedEngine to JSON", |bencher| bencher.iter(|| black_box(&engine).to_json()));
    group.bench_function("PreparedEngine from JSON", |bencher| {
        bencher.iter(|| PreparedEngine::from_json(black_box(&json)).expect("it was written now"))
    });
    group.finish();
}

fn submitting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("submitting");
    for (name, isolation) in [("threads", Isolation::Thread), ("processes", Isolation::Process)] {
        let config = EngineConfig::new(model()).with_isolation(isolation).with_threads(1);
        let supervisor =
            Supervisor::start(prepare(&config).expect("it fits"), SupervisorConfig::default()).expect("it starts");
        supervisor.wait_ready(Some(Duration::from_secs(60))).expect("it loads");
        // The decode of a token of a tiny model is in it.
        group.bench_function(format!("a request of one token, to its last event, {name}"), |bencher| {
            bencher.iter(|| {
                let request = Request::tokens([5]).with_max_tokens(1).with_ignore_eos(true).with_temperature(0.0);
                supervisor.submit(request).expect("there is room").count()
            });
        });
    }
    group.finish();
}

fn main() {
    // A worker that is a process may be this program again.
    llamapen::worker_main_if_child();
    calls();
    Criterion::default().configure_from_args().final_summary();
}

criterion_group!(calls, preparing, submitting);
