//! Workers, slots and batches by what they are for, and by what was measured.

use super::*;
use crate::config::Tuning;

#[test]
fn tuning_chooses_for_what_it_is_for() {
    let shape = |config: &EngineConfig, machine: &MachineSnapshot| {
        let choices = on_cpu(config, machine).unwrap();
        (choices.workers, choices.slots, choices.threads, choices.n_ubatch)
    };
    let [one, two, eight] = [1, 2, 8].map(|cores| MachineSnapshot::new(cores, 32 * GIB));
    let tuned = |tuning, streams| config().with_tuning(tuning).with_streams(streams);
    use Tuning::{Auto, Latency, Throughput};
    // All threads for each token; a prompt holds up nobody where there is one stream.
    assert_eq!(shape(&tuned(Latency, 4), &eight), (1, 4, 8, 64));
    assert_eq!(shape(&config().with_tuning(Latency), &eight), (1, 1, 8, 256));
    // Threads that wait for each other cost much of a small model's token, and nothing where there is one.
    assert_eq!(shape(&tuned(Throughput, 8), &two), (2, 4, 2, 512));
    assert_eq!(shape(&config().with_tuning(Throughput), &eight), (4, 2, 8, 512));
    assert_eq!(shape(&tuned(Throughput, 8), &one), (1, 8, 1, 512));
    // Slots for streams apart and together, until that is measured.
    assert_eq!(shape(&tuned(Auto, 4), &two), (2, 4, 2, 256));
    assert_eq!(shape(&tuned(Auto, 32), &two), (2, 16, 2, 256));
    assert_eq!(shape(&tuned(Auto, 1), &eight), (1, 1, 8, 256));
    assert_eq!(shape(&tuned(Auto, 4).with_slots(2).with_threads(1), &two), (2, 2, 1, 256), "what is asked for stays");
    assert!(on_cpu(&tuned(Auto, 4).with_threads(2), &two).unwrap().share_threads);
    // Where there is no memory for both: apart.
    let both = on_cpu(&tuned(Auto, 4), &two).unwrap().memory.host().resident();
    assert_eq!(shape(&tuned(Auto, 4), &MachineSnapshot::new(2, both - (1 << 20))), (2, 2, 2, 256));
    // On a GPU nothing is to be chosen.
    let gpu = choose(&tuned(Auto, 8), &header(), &with_gpus(&[16 * GIB]), true, None).unwrap();
    assert_eq!((gpu.workers, gpu.slots, gpu.n_ubatch), (1, 8, 512));
}

#[test]
fn throughput_has_one_worker_read_a_large_model_for_all() {
    let mut large = header().info().clone();
    (large.tensor_bytes, large.n_layer) = (4 * GIB, 32);
    let config = config().with_tuning(Tuning::Throughput).with_streams(8);
    let shapes = topology::shapes(&config, &large, &machine(), topology::Computes::TokenByToken, None).unwrap();
    assert_eq!((shapes.len(), shapes[0].workers, shapes[0].slots), (1, 1, 8));
    assert!(shapes[0].reason.contains("2.6 ms beside 179.0 ms"), "{}", shapes[0].reason);
}

#[test]
fn what_was_measured_chooses() {
    let two = MachineSnapshot::new(2, 32 * GIB);
    let config = config().with_tuning(Tuning::Auto).with_streams(4);
    let rates = |points: [(u32, u32, u64); 4]| {
        Rates::new(points.map(|(workers, streams, step)| Rate::new(workers, streams, step)).to_vec())
    };
    let shape = |rates: &Rates| {
        let choices = choose(&config, &header(), &two, false, Some(rates)).unwrap();
        (choices.workers, choices.slots, choices.share_threads, choices.topology)
    };
    let because = "auto: as was measured before".to_owned();
    let together = rates([(1, 1, 10), (2, 1, 18), (1, 4, 12), (2, 2, 20)]);
    assert_eq!(shape(&together), (1, 4, false, because.clone()));
    let apart = rates([(1, 1, 10), (2, 1, 12), (1, 4, 40), (2, 2, 24)]);
    assert_eq!(shape(&apart), (2, 2, true, because));
}

#[test]
fn tuning_that_contradicts_is_refused() {
    use Tuning::{Auto, Latency, Throughput};
    let tuned = |tuning| config().with_tuning(tuning);
    for (config, field, why) in [
        (tuned(Latency).with_workers(2), "tuning", "2 workers are asked for"),
        (tuned(Throughput).with_deterministic(true), "tuning", "which deterministic fixes"),
        (tuned(Auto).with_deterministic(true), "tuning", "which deterministic fixes"),
        (tuned(Auto).with_streams(2).with_share_threads(false), "tuning", "share_threads is off"),
        (tuned(Auto).with_threads(9), "threads", "between 1 and 8"),
        (tuned(Auto).with_slots(65), "slots", "between 1 and 64"),
        (tuned(Latency).with_tuning_cache("x"), "tuning_cache", "nothing is measured"),
        (config().with_tuning_cache("x"), "tuning_cache", "nothing is measured"),
    ] {
        let error = on_cpu(&config, &machine()).unwrap_err();
        assert_eq!(error.status(), Status::InvalidParams);
        let text = error.to_string();
        assert!(text.starts_with(&format!("{field}: ")) && text.contains(why), "{text}");
    }
    on_cpu(&tuned(Latency).with_deterministic(true), &machine()).unwrap();
}

#[test]
fn measurements_in_a_file_count_for_what_they_are_of() {
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path().join("made when it is needed");
    let two = MachineSnapshot::new(2, 32 * GIB);
    let config = config().with_tuning(Tuning::Auto).with_streams(4).with_tuning_cache(&folder);
    let new = || prepare_on(&config, &two).unwrap();
    let engine = new();
    assert!(engine.is_to_be_measured() && !folder.exists(), "prepare writes nothing");
    let rates =
        Rates::new([(1, 1, 10), (2, 1, 18), (1, 4, 12), (2, 2, 20)].map(|(k, b, t)| Rate::new(k, b, t)).to_vec());
    store_rates(&engine, &rates).unwrap();
    let measured = new();
    assert_eq!((measured.workers(), measured.slots(), measured.rates()), (1, 4, Some(&rates)));
    assert!(!measured.is_to_be_measured() && PreparedEngine::from_json(&measured.to_json()).unwrap() == measured);
    assert!(plan_on(&config, &two).unwrap().steps.iter().any(|step| step.detail == "auto: as was measured before"));
    // Of another number of threads, of slots, of another CPU: other files.
    for other in [config.clone().with_threads(1), config.clone().with_slots(3)] {
        assert!(prepare_on(&other, &two).unwrap().is_to_be_measured());
    }
    // In its place, but of something else, or nothing at all.
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let written = std::fs::read_to_string(&file).unwrap();
    for broken in [
        written.replace("\"threads\":2", "\"threads\":3"),
        written.replace("\"step_us\":10", "\"step_us\":0"),
        "{".into(),
        String::new(),
    ] {
        assert_ne!(broken, written);
        std::fs::write(&file, &broken).unwrap();
        assert!(new().is_to_be_measured(), "{broken}");
        store_rates(&engine, &rates).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(new().is_to_be_measured(), "a folder in its place");
    assert!(store_rates(&engine, &rates).is_err());
}
