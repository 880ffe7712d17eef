//! What is chosen, refused and reduced, on machines that are not there.

mod tuning;

use super::choose::{Choices, choose};
use super::files::Found;
use super::preflight::{self, CheckStatus};
use super::*;
use crate::config::{KvType, Shrink};
use crate::device::{ComputeMode, DeviceInfo, Devices};
use crate::machine::MemoryReading;
use crate::model::Header;
use crate::status::Status;

const GIB: u64 = 1 << 30;

fn config() -> EngineConfig {
    EngineConfig::new(crate::test_model())
}

fn header() -> Header {
    Header::open(&[crate::test_model()]).unwrap()
}

fn machine() -> MachineSnapshot {
    MachineSnapshot::new(8, 32 * GIB)
}

fn on_cpu(config: &EngineConfig, machine: &MachineSnapshot) -> Result<Choices> {
    choose(config, &header(), machine, false, None)
}

fn with_gpus(sizes: &[u64]) -> MachineSnapshot {
    let devices = sizes.iter().zip(0..).map(|(&bytes, index)| DeviceInfo::new(index, "a GPU", bytes));
    machine().with_devices(Devices::present(13000, devices.collect()))
}

#[test]
fn a_container_with_two_of_64_cores_gets_two_threads() {
    let big = MachineSnapshot::new(64, 256 * GIB).with_cpus(128, 64);
    assert_eq!(on_cpu(&config(), &big).unwrap().threads, 64, "hyper-threads do not count");
    let container = big.clone().with_cpu_quota_millis(Some(2_000));
    assert_eq!(on_cpu(&config(), &container).unwrap().threads, 2);
    let two = on_cpu(&config().with_workers(2), &container).unwrap();
    assert_eq!((two.threads, two.share_threads), (2, true), "for both together");
    let two = on_cpu(&config().with_workers(2).with_share_threads(false), &container).unwrap();
    assert_eq!((two.threads, two.share_threads), (1, false));
    let error = on_cpu(&config().with_threads(3), &container).unwrap_err();
    assert_eq!(error.to_string(), "threads: 3 is not between 1 and 2");
    // Who asks for hyper-threads gets them.
    assert_eq!(on_cpu(&config().with_threads(128), &big).unwrap().threads, 128);
    let half = big.with_cpu_quota_millis(Some(500));
    assert_eq!(on_cpu(&config(), &half).unwrap().threads, 1);
}

#[test]
fn streams_choose_workers_and_slots() {
    let shape = |config: &EngineConfig, machine: &MachineSnapshot| {
        let choices = on_cpu(config, machine).unwrap();
        (choices.workers, choices.slots, choices.threads, choices.share_threads)
    };
    let (two, eight) = (MachineSnapshot::new(2, 32 * GIB), machine());
    // Without kernels that read the weights once for a batch.
    let streams = |n| config().with_streams(n).with_repack(false);
    assert_eq!(shape(&config(), &eight), (1, 1, 8, false));
    assert_eq!(shape(&streams(1), &eight), (1, 1, 8, false));
    assert_eq!(shape(&streams(2), &two), (2, 1, 2, true));
    assert_eq!(shape(&streams(5), &two), (2, 3, 2, true));
    assert_eq!(shape(&streams(64), &eight), (4, 16, 8, true));
    // What is asked for stays.
    assert_eq!(shape(&streams(8).with_workers(1), &two), (1, 8, 2, false));
    assert_eq!(shape(&streams(8).with_slots(2), &two), (2, 2, 2, true));
    assert_eq!(shape(&streams(8).with_threads(1), &two), (2, 4, 1, false));
    // Each with threads of its own, and one slot.
    assert_eq!(shape(&streams(8).with_deterministic(true), &two), (2, 1, 1, false));
    let shared = config().with_workers(2).with_deterministic(true).with_share_threads(true);
    assert_eq!(on_cpu(&shared, &two).unwrap_err().status(), Status::InvalidParams);
    assert_eq!(on_cpu(&streams(65), &two).unwrap_err().status(), Status::InvalidParams);
    // Fewer workers where the memory is not there for so many contexts.
    let (one, many) = (on_cpu(&streams(8).with_workers(1), &eight).unwrap(), on_cpu(&streams(8), &eight).unwrap());
    let enough_for_one = MachineSnapshot::new(8, one.memory.host().resident() + (1 << 20));
    assert!(many.memory.host().resident() > one.memory.host().resident());
    assert_eq!(on_cpu(&streams(8), &enough_for_one).unwrap().workers, 1);
    // With them a worker has eight, but where only one may decode at a time.
    let together = |n| config().with_streams(n);
    assert_eq!(shape(&together(2), &two), (1, 2, 2, false));
    assert_eq!(shape(&together(8), &two), (1, 8, 2, false));
    assert_eq!(shape(&together(9), &two), (2, 5, 2, true));
    assert_eq!(shape(&together(64), &eight), (4, 16, 8, true));
    assert_eq!(shape(&together(8).with_deterministic(true), &two), (2, 1, 1, false));
    // A GPU computes a batch.
    let gpu = choose(&streams(8), &header(), &with_gpus(&[16 * GIB]), true, None).unwrap();
    assert_eq!((gpu.workers, gpu.slots), (1, 8));
}

#[test]
fn deterministic_mode_fixes_what_results_depend_on() {
    let choices = on_cpu(&config().with_deterministic(true), &machine()).unwrap();
    assert_eq!((choices.slots, choices.n_ubatch, choices.seed, choices.flash_attention), (1, 63, Some(0), true));
    let seeded = on_cpu(&config().with_deterministic(true).with_seed(9).with_n_ubatch(32), &machine()).unwrap();
    assert_eq!((seeded.n_ubatch, seeded.seed), (32, Some(9)));
    assert_eq!(on_cpu(&config(), &machine()).unwrap().seed, None);
    for (field, config) in [
        ("slots", config().with_slots(2)),
        ("n_ubatch", config().with_n_ubatch(64)),
        ("flash_attention", config().with_flash_attention(false)),
    ] {
        let error = on_cpu(&config.with_deterministic(true), &machine()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{field}:")), "{error}");
    }
}

#[test]
fn cache_types_that_llama_cpp_would_refuse_are_refused_first() {
    let types = |k, v| config().with_kv_types(k, v);
    let chosen = on_cpu(&types(KvType::Q8_0, KvType::Q4_0), &machine()).unwrap();
    assert_eq!((chosen.kv_type_k, chosen.kv_type_v), (KvType::Q8_0, KvType::Q4_0));
    let plain = on_cpu(&config(), &machine()).unwrap();
    assert!(chosen.memory.host().cache < plain.memory.host().cache / 2);
    let error = on_cpu(&types(KvType::F16, KvType::Q8_0).with_flash_attention(false), &machine()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kv_type_v: q8_0 needs flash attention, which is off, or not to be had here for this model"
    );
    on_cpu(&types(KvType::Q8_0, KvType::F16).with_flash_attention(false), &machine()).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let small = MachineSnapshot::new(8, 100 << 20);
    let Err(Error::DoesNotFit { place, required, available, advice }) = on_cpu(&config(), &small) else {
        panic!("it fits into 100 MiB");
    };
    assert_eq!((place.as_str(), available), ("host", 100 << 20));
    assert!(required > available);
    assert!(advice.contains("a shorter context than 4096") && advice.contains("q8_0"), "{advice}");
    assert_eq!(on_cpu(&config(), &small).unwrap_err().status(), Status::OutOfMemory);
    // The smallest of all limits counts.
    for limited in [
        machine().with_memory_limit_bytes(Some(100 << 20)),
        machine().with_data_limit_bytes(Some(100 << 20)),
        MachineSnapshot::new(8, 100 << 20),
    ] {
        assert!(matches!(on_cpu(&config(), &limited), Err(Error::DoesNotFit { .. })), "{limited:?}");
    }
    assert!(matches!(on_cpu(&config().with_memory_limit(100 << 20), &machine()), Err(Error::DoesNotFit { .. })));
    // Mapped weights do not count: the system can drop them.
    let tight = on_cpu(&config().with_n_ctx(256), &small).unwrap();
    assert!(tight.memory.host().total() > 100 << 20);
    // Rearranged ones do; nobody insists on them.
    assert!(on_cpu(&config().with_n_ctx(256), &machine()).unwrap().use_repack && !tight.use_repack);
    let insisted = on_cpu(&config().with_n_ctx(256).with_repack(true), &small);
    let Err(Error::DoesNotFit { advice, .. }) = insisted else { panic!("it fits, rearranged") };
    assert!(advice.contains("no use_repack"), "{advice}");
    assert!(matches!(on_cpu(&config().with_n_ctx(256).with_mmap(false), &small), Err(Error::DoesNotFit { .. })));
}

#[test]
fn only_what_may_shrink_shrinks_and_it_is_said() {
    let fit = |shrink: Shrink, mib: u64| {
        let config = config().with_slots(4).with_shrink(shrink);
        on_cpu(&config, &MachineSnapshot::new(8, mib << 20))
    };
    let whole = fit(Shrink::default(), 4096).unwrap();
    assert_eq!((whole.slots, whole.n_ctx, whole.adjustments.len()), (4, 4096, 0));
    assert!(matches!(fit(Shrink::default(), 300), Err(Error::DoesNotFit { .. })));

    let types = fit(Shrink::default().with_kv_type(KvType::Q8_0), 300).unwrap();
    assert_eq!((types.kv_type_k, types.slots, types.n_ctx), (KvType::Q8_0, 4, 4096));
    assert_eq!(types.adjustments, ["kv types f16, f16 reduced to q8_0, q8_0: memory"]);

    let slots = fit(Shrink::default().with_slots(1), 300).unwrap();
    assert_eq!((slots.kv_type_k, slots.slots, slots.n_ctx), (KvType::F16, 2, 4096));
    assert_eq!(slots.adjustments, ["slots reduced from 4 to 2: memory"]);

    let context = fit(Shrink::default().with_n_ctx(256), 300).unwrap();
    assert_eq!(context.slots, 4);
    // It is the largest multiple of 256 that fits.
    assert!(context.n_ctx.is_multiple_of(256) && context.memory.host().resident() <= 300 << 20);
    let more = on_cpu(&config().with_slots(4).with_n_ctx(context.n_ctx + 256), &MachineSnapshot::new(8, 300 << 20));
    assert!(matches!(more, Err(Error::DoesNotFit { .. })), "{} would have fitted too", context.n_ctx + 256);
    assert_eq!(context.adjustments, [format!("n_ctx reduced from 4096 to {}: memory", context.n_ctx)]);

    let all = Shrink::default().with_kv_type(KvType::Q4_0).with_slots(1).with_n_ctx(512);
    let everything = fit(all.clone(), 50).unwrap();
    assert_eq!((everything.kv_type_k, everything.slots), (KvType::Q4_0, 1));
    assert_eq!(everything.adjustments.len(), 3, "{:?}", everything.adjustments);
    assert!(matches!(fit(all, 20), Err(Error::DoesNotFit { .. })));
    let error = fit(Shrink::default().with_slots(9), 300).unwrap_err();
    assert_eq!(error.to_string(), "shrink.slots: 9 is not between 1 and 4");
}

#[test]
fn layers_go_to_the_gpus_and_are_accounted_for() {
    let cuda = |config: &EngineConfig, machine: &MachineSnapshot| choose(config, &header(), machine, true, None);
    let one = cuda(&config(), &with_gpus(&[16 * GIB])).unwrap();
    assert_eq!((one.devices.as_slice(), one.n_gpu_layers), ([0].as_slice(), 31));
    let [host, gpu] = one.memory.places.as_slice() else { panic!("{:?}", one.memory) };
    let cpu = on_cpu(&config(), &machine()).unwrap();
    assert_eq!((host.cache, gpu.cache), (0, cpu.memory.host().cache));
    assert!(gpu.weights > 90 << 20, "the output layer is copied too: {}", gpu.weights);
    assert!(one.memory.estimates.iter().any(|e| e.contains("GPU")), "{:?}", one.memory.estimates);

    // Only what is looked up stays, as it is in the file: nothing is rearranged for the CPU's kernels.
    let embeddings = header().tensor("token_embd.weight").unwrap().bytes;
    assert_eq!((host.weights, host.weights_mapped), (0, embeddings));
    assert_eq!(cuda(&config().with_mmap(false), &with_gpus(&[16 * GIB])).unwrap().memory.host().weights, embeddings);

    // Unequal ones hold unequal shares, none is left empty.
    let two = cuda(&config(), &with_gpus(&[2 * GIB, GIB])).unwrap();
    let split = two.split.unwrap();
    assert_eq!(split.shares.iter().map(|share| share.layers).sum::<u32>(), 31);
    assert!(split.shares[0].layers > split.shares[1].layers && split.shares[1].layers > 0, "{split:?}");
    let sum: u64 = two.memory.places.iter().map(|place| place.cache).sum();
    assert_eq!(sum, cpu.memory.host().cache);
    let ratios = cuda(&config().with_tensor_split("1,3".parse().unwrap()), &with_gpus(&[16 * GIB; 2])).unwrap();
    assert_eq!(ratios.split.unwrap().shares.iter().map(|share| share.layers).collect::<Vec<_>>(), [8, 23]);

    let some = cuda(&config().with_n_gpu_layers(10), &with_gpus(&[16 * GIB])).unwrap();
    assert_eq!(some.n_gpu_layers, 10);
    assert!(some.memory.places[1].compute > gpu.compute, "what the host's layers give is copied");
    assert!(some.memory.places[0].cache > some.memory.places[1].cache);
    let none = cuda(&config().with_devices("none".parse().unwrap()), &with_gpus(&[16 * GIB])).unwrap();
    assert_eq!((none.devices.len(), none.n_gpu_layers, none.memory.places.len()), (0, 0, 1));
}

#[test]
fn what_a_gpu_cannot_compute_is_not_left_to_the_cpu_in_silence() {
    let gpu = with_gpus(&[16 * GIB]);
    let nonlinear = config().with_kv_types(KvType::IQ4_NL, KvType::IQ4_NL);
    on_cpu(&nonlinear, &machine()).unwrap();
    let error = choose(&nonlinear, &header(), &gpu, true, None).unwrap_err().to_string();
    assert!(error.starts_with("kv_type_k: GPUs cannot compute attention over iq4_nl"), "{error}");

    // See scripts/synthetic.py.
    let folder =
        std::env::var_os("LLAMAPEN_SYNTHETIC_MODELS").expect("names the folder that scripts/synthetic.py prints");
    let path = std::path::PathBuf::from(folder).join("deepseek2.gguf");
    let odd_heads = Header::open(std::slice::from_ref(&path)).unwrap();
    let config = EngineConfig::new(&path);
    assert!(choose(&config, &odd_heads, &machine(), true, None).unwrap().flash_attention);
    assert!(!choose(&config, &odd_heads, &gpu, true, None).unwrap().flash_attention);
    let error = choose(&config.with_flash_attention(true), &odd_heads, &gpu, true, None).unwrap_err().to_string();
    assert!(error.starts_with("flash_attention: for heads of 288 and 256 elements GPUs have none"), "{error}");
}

#[test]
fn nothing_spills_to_another_place() {
    let cuda = |config: &EngineConfig, machine: &MachineSnapshot| choose(config, &header(), machine, true, None);
    let status = |result: Result<Choices>| result.unwrap_err().status();
    let tiny = with_gpus(&[900 << 20]);
    // It is too small for a context that was asked for, and is not helped out by the host.
    let asked = config().with_n_ctx(8192).with_slots(4);
    assert_eq!(status(cuda(&asked, &tiny)), Status::DeviceError);
    let fewer = cuda(&asked.clone().with_shrink(Shrink::default().with_n_gpu_layers(0)), &tiny).unwrap();
    assert!(fewer.n_gpu_layers < 31);
    assert!(fewer.adjustments[0].starts_with("layers on GPUs reduced from 31 to"), "{:?}", fewer.adjustments);
    // A context that nobody asked for is capped to what the smallest device holds.
    let capped = cuda(&config().with_slots(4), &tiny).unwrap();
    assert!(capped.n_ctx < 4096 && capped.n_gpu_layers == 31, "{}", capped.n_ctx);
    assert!(capped.adjustments[0].contains("smallest device"), "{:?}", capped.adjustments);

    let required = config().with_require_gpu(true);
    assert_eq!(status(on_cpu(&required, &with_gpus(&[16 * GIB]))), Status::Unsupported);
    assert_eq!(status(cuda(&required, &machine().with_devices(Devices::absent("no library")))), Status::DeviceError);
    assert_eq!(status(cuda(&required.clone().with_n_gpu_layers(30), &with_gpus(&[16 * GIB]))), Status::InvalidParams);
    assert_eq!(cuda(&required, &with_gpus(&[16 * GIB])).unwrap().n_gpu_layers, 31);
    assert_eq!(
        status(cuda(&config().with_devices("1".parse().unwrap()), &with_gpus(&[16 * GIB]))),
        Status::InvalidParams
    );
    assert_eq!(status(on_cpu(&config().with_n_gpu_layers(5), &machine())), Status::InvalidParams);
    let error = on_cpu(&config().with_n_gpu_layers(5), &machine()).unwrap_err().to_string();
    assert!(error.contains("this build has no CUDA"), "{error}");
}

#[test]
fn the_engine_leads_to_itself() {
    let config = config().with_slots(2).with_n_ctx(512).with_kv_types(KvType::Q8_0, KvType::Q8_0).with_seed(3);
    let engine = prepare_on(&config, &machine()).unwrap();
    let again = EngineConfig::from_flags(engine.flags()).unwrap();
    assert_eq!(prepare_on(&again, &machine()).unwrap(), engine);
    assert_eq!(engine.model_id(), "SmolLM2-135M-Instruct.Q4_1");
    assert_eq!(engine.pool_id(), engine.model_id());
    assert!(engine.flags().contains(&"--n-ctx=512".into()), "{:?}", engine.flags());
    assert!(engine.files()[0].header_digest.to_string().starts_with("sha256:"));
    // What was shrunk is asked for the next time.
    let shrunk = config.with_slots(4).with_n_ctx(4096).with_shrink(Shrink::default().with_slots(1));
    let small = MachineSnapshot::new(8, 128 << 20);
    let engine = prepare_on(&shrunk, &small).unwrap();
    assert!(engine.slots() < 4);
    let again = prepare_on(&EngineConfig::from_flags(engine.flags()).unwrap(), &small).unwrap();
    assert_eq!((again.slots(), again.n_ctx(), again.adjustments().len()), (engine.slots(), engine.n_ctx(), 0));
}

#[test]
fn names_and_steps() {
    for name in ["", "a/b", ".hidden", "a b", "é", &"x".repeat(129)] {
        let error = prepare_on(&config().with_pool_id(name), &machine()).unwrap_err();
        assert!(error.to_string().starts_with("pool_id:"), "{error}");
    }
    let plan = plan_on(&config(), &machine()).unwrap();
    let kinds: Vec<_> = plan.steps.iter().map(|step| step.kind.as_str()).collect();
    let expected =
        ["locate", "read_header", "devices", "memory", "load_weights", "topology", "start_workers", "warm_up"];
    assert_eq!(kinds, expected);
    assert_eq!(plan.to_json(), plan_on(&config(), &machine()).unwrap().to_json());
    assert_eq!(serde_json::from_str::<Plan>(&plan.to_json()).unwrap(), plan);
    let text = plan.to_string();
    assert!(text.contains(" 1. locate") && text.contains("cache") && text.contains('█'), "{text}");
}

/// The report on a machine, with so much memory free.
fn report(config: &EngineConfig, machine: &MachineSnapshot, free: Option<u64>) -> Preflight {
    let memory = MemoryReading { available_bytes: free, ..MemoryReading::default() };
    preflight::run(config, machine, &PrepareOptions::default(), &memory)
}

#[test]
fn the_preflight_says_which_weights_have_no_fast_kernel() {
    // The model's matrices are Q4_1, which is repacked (native/kernels), or else has none.
    assert_eq!(report(&config(), &machine(), None).get("fast_kernels").unwrap().status, CheckStatus::Pass);
    let good = report(&config().with_repack(false), &machine(), None);
    let check = good.get("fast_kernels").unwrap();
    assert_eq!(check.status, CheckStatus::Warn);
    assert!(check.message.contains("most of them Q4_1") && check.remedy.as_ref().unwrap().contains("Q4_0"), "{good}");
    // See scripts/synthetic.py; Q8_0 has one where there is AVX2 or a dot product.
    let folder =
        std::env::var_os("LLAMAPEN_SYNTHETIC_MODELS").expect("names the folder that scripts/synthetic.py prints");
    let quick = std::path::PathBuf::from(folder).join("qwen2.gguf");
    let quick = report(&EngineConfig::new(quick), &machine(), None);
    assert_eq!(quick.get("fast_kernels").unwrap().status, CheckStatus::Pass, "{quick}");
}

#[test]
fn the_preflight_compares_what_gpus_hold_with_what_is_free_there() {
    let plan = choose(&config(), &header(), &with_gpus(&[16 * GIB; 2]), true, None).unwrap().memory;
    let needed = plan.places[1].resident().max(plan.places[2].resident());
    for (free, status, part) in [
        ([Some(needed), Some(16 * GIB)], CheckStatus::Pass, "GPU1: "),
        ([Some(needed), Some(needed / 2)], CheckStatus::Fail, "that are free now"),
        ([None, Some(needed)], CheckStatus::Warn, "of an unknown number"),
        ([None, Some(0)], CheckStatus::Fail, "of 0 B"),
    ] {
        let mut report = report(&config(), &machine(), None);
        preflight::free_gpu_memory(&mut report, &plan, &free);
        let check = report.get("free_gpu_memory").unwrap();
        assert_eq!(check.status, status, "{report}");
        assert!(check.message.contains(part), "{report}");
    }
}

#[test]
fn the_preflight_says_what_is_wrong_and_what_to_do() {
    use CheckStatus::{Fail, Pass, Warn};
    let status = |report: &Preflight, name: &str| report.get(name).map(|check| check.status);
    let good = report(&config(), &machine(), Some(16 * GIB));
    assert_eq!(good.status(), Warn, "no digest is given:\n{good}");
    for name in ["cores", "model", "header", "chat_template", "plan", "free_memory", "devices"] {
        assert_eq!(status(&good, name), Some(Pass), "{name}\n{good}");
    }
    let unknown_cpu = report(&config(), &machine(), None);
    assert_eq!((status(&unknown_cpu, "cpu_features"), status(&unknown_cpu, "free_memory")), (Some(Warn), Some(Warn)));
    let old_cpu = report(&config(), &machine().with_cpu_features(["SSE2"]), Some(16 * GIB));
    assert_eq!(status(&old_cpu, "cpu_features"), Some(Fail), "{old_cpu}");

    let full = report(&config(), &machine(), Some(64 << 20));
    assert_eq!((status(&full, "plan"), status(&full, "free_memory")), (Some(Pass), Some(Fail)));
    let tight = report(&config(), &machine(), Some(250 << 20));
    assert_eq!(status(&tight, "free_memory"), Some(Warn), "{tight}");
    let small = report(&config(), &MachineSnapshot::new(8, 64 << 20), Some(64 << 20));
    assert_eq!((status(&small, "plan"), status(&small, "free_memory")), (Some(Fail), None));
    let thrashing = report(&config().with_n_ctx(256), &MachineSnapshot::new(8, 100 << 20), Some(16 * GIB));
    assert_eq!(status(&thrashing, "mapped_weights"), Some(Warn), "{thrashing}");

    let locked = machine().with_memlock_limit_bytes(Some(8 << 20));
    assert_eq!(status(&report(&config().with_mlock(true), &locked, None), "locked_memory"), Some(Warn));
    assert_eq!(status(&report(&config().with_mlock(true), &machine(), None), "locked_memory"), Some(Pass));
    assert_eq!(status(&report(&config(), &locked, None), "locked_memory"), None);

    let missing = report(&EngineConfig::new("/nowhere/m.gguf"), &machine(), None);
    assert_eq!((status(&missing, "model"), status(&missing, "plan")), (Some(Fail), None));
    let digest = format!("sha256:{}", "0".repeat(64));
    let digested = report(&config().with_digest(&digest).unwrap(), &machine(), None);
    assert_eq!(status(&digested, "digest"), Some(Pass));
    let digests = report(&config().with_digest(&format!("{digest},{digest}")).unwrap(), &machine(), None);
    assert_eq!(status(&digests, "digest"), Some(Fail));
    let gpu = report(&config(), &with_gpus(&[GIB]), None);
    assert_eq!(status(&gpu, "driver"), Some(Warn), "{gpu}");
    let required = report(&config().with_require_gpu(true), &machine(), None);
    assert_eq!(status(&required, "plan"), Some(Fail));
    let shrunk = config().with_slots(4).with_shrink(Shrink::default().with_slots(1));
    assert_eq!(status(&report(&shrunk, &MachineSnapshot::new(8, 300 << 20), None), "adjusted"), Some(Warn));

    for report in [good, unknown_cpu, old_cpu, full, small, thrashing, missing, digests, gpu, required] {
        for check in &report.checks {
            assert_eq!(check.remedy.is_some(), check.status != Pass, "{check:?}");
            assert!(report.to_string().contains(&check.message), "{report}");
        }
        assert_eq!(serde_json::from_str::<Preflight>(&report.to_json()).unwrap(), report);
    }
}

#[test]
fn a_prohibited_gpu_is_named_in_the_report() {
    let device = DeviceInfo::new(0, "A", GIB).with_compute_mode(ComputeMode::Prohibited);
    let machine = machine().with_devices(Devices::present(13000, vec![device]));
    let error = choose(&config().with_require_gpu(true), &header(), &machine, true, None).unwrap_err();
    assert!(error.to_string().contains("prohibits"), "{error}");
}

#[test]
fn found_files_are_looked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::copy(crate::test_model(), &path).unwrap();
    let found = Found::at("m".into(), &[&path]).unwrap();
    found.unchanged("nothing happened").unwrap();
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    let error = found.unchanged("it was touched").unwrap_err();
    assert!(error.to_string().contains("changed while it was touched"), "{error}");
}
