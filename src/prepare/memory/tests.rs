//! The plan against what llama.cpp really allocates, on the real model and on synthetic ones of many architectures.

use super::compute::MIRRORED;
use super::{Demand, MemoryPlan, PlacePlan, on_host};
use crate::build_info::build_info;
use crate::machine::MachineSnapshot;
use crate::model::{GgmlType, Header, tiny_models};
use crate::native::{Context, ContextParams, LoadParams, MemoryUse, Model, init_backend};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// Shapes that stress different parts: long context, many slots, other types, no flash attention.
fn demands() -> Vec<(&'static str, Demand)> {
    let base = Demand {
        n_ctx: 1024,
        n_ubatch: 256,
        slots: 1,
        contexts: 1,
        copies: 1,
        flash_attention: true,
        kv_type_k: GgmlType::F16,
        kv_type_v: GgmlType::F16,
        swa_full: false,
        prefix_store_bytes: 0,
        draft_max: 0,
        use_mmap: true,
        use_repack: true,
        cpu_features: MachineSnapshot::observe_host().kernel_features(&build_info()).unwrap(),
    };
    vec![
        ("base", base.clone()),
        ("long", Demand { n_ctx: 4096, n_ubatch: 512, ..base.clone() }),
        ("small batch", Demand { n_ubatch: 32, ..base.clone() }),
        ("slots", Demand { n_ctx: 512, slots: 4, ..base.clone() }),
        ("guesses", Demand { n_ctx: 512, slots: 3, draft_max: 7, ..base.clone() }),
        ("guesses that fill the batch", Demand { n_ubatch: 32, slots: 4, draft_max: 15, ..base.clone() }),
        ("no flash attention", Demand { flash_attention: false, ..base.clone() }),
        ("full windows", Demand { swa_full: true, ..base.clone() }),
        ("q8_0 cache", Demand { kv_type_k: GgmlType::Q8_0, kv_type_v: GgmlType::Q8_0, ..base.clone() }),
        ("f32 cache", Demand { kv_type_k: GgmlType::F32, kv_type_v: GgmlType::F32, ..base.clone() }),
        ("q4_0 keys", Demand { kv_type_k: GgmlType::Q4_0, ..base.clone() }),
        ("odd, no mmap", Demand { n_ctx: 700, n_ubatch: 100, slots: 3, use_mmap: false, ..base.clone() }),
        ("as in the file", Demand { use_repack: false, ..base }),
    ]
}

/// What llama.cpp allocates for one worker; `None` where it refuses the combination.
fn allocated(model: &Arc<Model>, demand: &Demand) -> Option<MemoryUse> {
    let params = ContextParams {
        n_ctx: demand.n_ctx,
        n_seq: demand.slots,
        n_ubatch: demand.n_ubatch,
        n_outputs: u32::try_from(demand.outputs()).unwrap(),
        n_threads: 1,
        flash_attention: demand.flash_attention,
        kv_type_k: demand.kv_type_k,
        kv_type_v: demand.kv_type_v,
        swa_full: demand.swa_full,
    };
    let context = Context::new(model.clone(), &params, Arc::new(AtomicI32::new(0))).ok()?;
    Some(context.memory(None).unwrap())
}

/// Never below what was allocated, and at most so many hundredths above it.
fn assert_within(percent: u64, planned: u64, used: u64, what: &str) {
    assert!(planned >= used, "{what}: {planned} bytes planned, {used} allocated");
    assert!(planned <= used + used * percent / 100, "{what}: {planned} bytes planned for {used} allocated");
}

/// Compares one model under every demand; returns its architecture and how many demands llama.cpp took.
fn compare(path: &Path) -> (String, usize) {
    let header = Header::open(&[path]).unwrap_or_else(|(path, error)| panic!("{}: {error}", path.display()));
    let architecture = header.info().architecture.clone();
    let mirrored = MIRRORED.contains(&architecture.as_str());
    let mut compared = 0;
    let load = |use_mmap, use_repack| {
        let params = LoadParams { use_mmap, use_repack, ..LoadParams::default() };
        Arc::new(Model::load(path, &params, |_| true).unwrap())
    };
    let (mapped, read, as_in_the_file) = (load(true, true), load(false, true), load(true, false));
    for (name, demand) in demands() {
        let demand = Demand { n_ctx: demand.n_ctx.min(header.info().n_ctx_train), ..demand };
        let plan = on_host(&header, &demand);
        let model = match (demand.use_mmap, demand.use_repack) {
            (_, false) => &as_in_the_file,
            (true, true) => &mapped,
            (false, true) => &read,
        };
        let Some(used) = allocated(model, &demand) else {
            continue;
        };
        compared += 1;
        let host = plan.host();
        println!(
            "{architecture:14} {name:18} weights {}/{} cache {}/{} compute {}/{}",
            host.weights + host.weights_mapped,
            used.weights,
            host.cache,
            used.cache,
            host.compute,
            used.compute
        );
        let what = |part: &str| format!("{architecture}, {name}: {part}");
        assert_within(5, host.weights + host.weights_mapped, used.weights, &what("weights"));
        assert_eq!(host.cache, used.cache, "{}", what("cache"));
        assert_within(if mirrored { 0 } else { 150 }, host.compute, used.compute, &what("compute"));
        // What is not exact must say so.
        assert_eq!(plan.estimates.is_empty(), mirrored, "{architecture}: {:?}", plan.estimates);
    }
    (architecture, compared)
}

#[test]
fn the_plan_is_what_llama_cpp_allocates() {
    init_backend().unwrap();
    let folder = std::env::var_os("LLAMAPEN_SYNTHETIC_MODELS")
        .expect("LLAMAPEN_SYNTHETIC_MODELS names the folder that scripts/synthetic.py prints");
    let synthetic = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = synthetic.filter(|path| path.extension().is_some()).collect();
    files.push(crate::test_model());
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in tiny_models() {
        let path = dir.path().join(format!("{name}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        // The others are refused by prepare(), and some of them end llama.cpp with more than one slot.
        if !Header::open(&[&path]).unwrap().info().reads_as_a_whole() {
            files.push(path);
        }
    }
    let seen: Vec<_> = files.iter().map(|path| compare(path)).collect();
    for architecture in MIRRORED {
        let compared = seen.iter().filter(|(seen, _)| seen == architecture).map(|(_, n)| n).sum::<usize>();
        assert!(compared >= 8, "{architecture}: only {compared} combinations compared");
    }
    let estimated: BTreeSet<_> = seen.iter().filter(|(name, _)| !MIRRORED.contains(&name.as_str())).collect();
    assert!(estimated.len() >= 9, "{estimated:?}");
}

#[test]
fn two_plans_fit_beside_each_other_by_place_and_by_what_is_free() {
    let place = |place: &str, cache, capacity| PlacePlan { place: place.into(), cache, capacity, ..Default::default() };
    let plan = |places: &[PlacePlan]| MemoryPlan { places: places.to_vec(), estimates: vec![] };
    let running = plan(&[place("host", 40, Some(100)), place("GPU0", 50, Some(100))]);
    let next = |host, gpu| plan(&[place("host", host, Some(100)), place("GPU0", gpu, Some(100))]);
    assert!(next(60, 50).fits_beside(&running, Some(60)));
    assert!(!next(60, 50).fits_beside(&running, Some(59)), "not free now");
    assert!(!next(61, 50).fits_beside(&running, Some(100)), "too much for the host");
    assert!(!next(60, 51).fits_beside(&running, Some(100)), "too much for the device");
    assert!(!next(60, 50).fits_beside(&running, None), "nobody knows");
    assert!(!plan(&[place("host", 1, None)]).fits_beside(&running, Some(100)), "nobody knows");
    assert!(plan(&[place("host", 1, Some(100)), place("GPU1", 100, Some(100))]).fits_beside(&running, Some(100)));
}
