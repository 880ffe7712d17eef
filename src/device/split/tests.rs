use super::*;
use crate::status::Status;
use proptest::prelude::*;

fn rooms(bytes: &[u64]) -> Vec<DeviceRoom> {
    (0..).zip(bytes).map(|(index, bytes)| DeviceRoom::new(index, *bytes)).collect()
}

fn counts(split: &LayerSplit) -> Vec<u32> {
    split.shares.iter().map(|share| share.layers).collect()
}

/// What llama.cpp (`llama_model::load_tensors`) makes of a `tensor_split`, in its own arithmetic.
fn llama_cpp(tensor_split: &[f32], n_layers: usize) -> Vec<u32> {
    let mut total = 0.0f32;
    let cumulated: Vec<f32> = tensor_split
        .iter()
        .map(|part| {
            total += part;
            total
        })
        .collect();
    let splits: Vec<f32> = cumulated.iter().map(|sum| sum / total).collect();
    let mut counts = vec![0; splits.len()];
    for layer in 0..n_layers {
        counts[splits.partition_point(|split| *split <= layer as f32 / n_layers as f32)] += 1;
    }
    counts
}

#[test]
fn layers_follow_the_memory() {
    let layers = [10; 12];
    assert_eq!(counts(&split_layers(&rooms(&[1000, 1000]), &layers, None).unwrap()), [6, 6]);
    assert_eq!(counts(&split_layers(&rooms(&[3000, 1000]), &layers, None).unwrap()), [9, 3]);
    assert_eq!(counts(&split_layers(&rooms(&[500, 500, 500]), &[10; 10], None).unwrap()), [3, 3, 4]);
    // One large layer decides for the fullest device; the others still share evenly.
    assert_eq!(counts(&split_layers(&rooms(&[50, 50, 50]), &[10, 1, 1, 1, 1], None).unwrap()), [1, 2, 2]);
    // A large output layer goes with fewer others.
    let split = split_layers(&rooms(&[1000, 1000]), &[10, 10, 10, 10, 40], None).unwrap();
    assert_eq!(counts(&split), [4, 1]);
    assert_eq!(split.shares[1], DeviceShare { index: 1, layers: 1, required_bytes: 40, available_bytes: 1000 });
}

#[test]
fn ratios_of_the_caller_are_kept_or_refused() {
    let ratios: SplitRatios = "3,1".parse().unwrap();
    assert_eq!(counts(&split_layers(&rooms(&[1000, 1000]), &[10; 12], Some(&ratios)).unwrap()), [9, 3]);
    for (ratios, rooms, layers, part) in [
        ("3,1", rooms(&[80, 1000]), vec![10; 12], "GPU0 needs 90 bytes for 9 layers and has 80"),
        ("3,1,1", rooms(&[80, 1000]), vec![10; 12], "3 ratios for 2 devices"),
        ("99,1", rooms(&[1000, 1000]), vec![10; 12], "none of 12 layers for GPU1"),
    ] {
        let error = split_layers(&rooms, &layers, Some(&ratios.parse().unwrap())).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn the_smallest_must_hold_its_share() {
    let error = split_layers(&rooms(&[100, 4]), &[10; 5], None).unwrap_err();
    assert_eq!(error.status(), Status::DeviceError);
    let Error::Device { shares, problem } = error else { panic!("{error}") };
    assert_eq!(shares[1], DeviceShare { index: 1, layers: 1, required_bytes: 10, available_bytes: 4 });
    assert!(problem.contains("GPU1 needs 10 bytes for 1 layers and has 4"), "{problem}");
    for (bytes, layers) in [(vec![], 3), (vec![100, 100, 100], 2), (vec![100, 0], 3)] {
        assert!(split_layers(&rooms(&bytes), &vec![1; layers], None).is_err(), "{bytes:?}");
    }
}

#[test]
fn the_context_is_capped_by_the_fullest_device() {
    // Weights of 100 and 2 bytes per position and layer: 2 layers on each device.
    let split = split_layers(&rooms(&[4000, 1000]), &[100; 4], Some(&"1,1".parse().unwrap())).unwrap();
    let bytes = |_, n_ctx: u32| 100 + 2 * u64::from(n_ctx);
    assert_eq!(split.largest_ctx(16..=4096, bytes).unwrap(), 200);
    assert_eq!(split.largest_ctx(16..=150, bytes).unwrap(), 150);
    assert_eq!(split.largest_ctx(1..=u32::MAX, |_, _| 1).unwrap(), u32::MAX);
    let error = split.largest_ctx(201..=4096, bytes).unwrap_err();
    assert!(error.to_string().contains("a context of 201 do not fit"), "{error}");
    assert!(error.to_string().contains("GPU1 needs 1004 bytes for 2 layers and has 1000"), "{error}");
}

#[test]
fn ratios_have_one_form_and_bad_ones_are_refused() {
    for (text, form) in
        [("3,1", "0.750,0.250"), ("1,1,1", "0.334,0.333,0.333"), (" 5 ", "1.000"), ("1e3,1", "0.999,0.001")]
    {
        assert_eq!(text.parse::<SplitRatios>().unwrap().to_string(), form);
    }
    for text in ["", "1,", "0,1", "-1,2", "NaN,1", "inf,1", "1,x", "1e308,1e308", "1e9,1"] {
        let error = text.parse::<SplitRatios>().unwrap_err();
        assert_eq!(error.status(), Status::InvalidParams, "{text:?}");
    }
    assert_eq!(serde_json::to_string(&"3,1".parse::<SplitRatios>().unwrap()).unwrap(), r#""0.750,0.250""#);
}

/// Every division of `layers` into runs, one per room: for comparison.
fn any_fits(rooms: &[u64], layers: &[u64]) -> bool {
    match rooms {
        [] => layers.is_empty(),
        [room, rest @ ..] => (1..=layers.len()).any(|n| sum(&layers[..n]) <= *room && any_fits(rest, &layers[n..])),
    }
}

proptest! {
    #[test]
    fn a_split_holds_all_layers_and_llama_cpp_computes_the_same(
        memory in prop::collection::vec(1u64..2000, 1..7), layers in prop::collection::vec(0u64..100, 1..140),
    ) {
        if let Ok(split) = split_layers(&rooms(&memory), &layers, None) {
            let counts = counts(&split);
            prop_assert_eq!(counts.iter().sum::<u32>() as usize, layers.len());
            prop_assert!(counts.iter().all(|n| *n >= 1));
            prop_assert_eq!(split.shares.iter().map(|s| s.required_bytes).sum::<u64>(), sum(&layers));
            prop_assert!(split.shares.iter().all(|s| s.required_bytes <= s.available_bytes));
            prop_assert_eq!(split.ratios().thousandths().iter().sum::<u16>(), 1000);
            prop_assert_eq!(llama_cpp(&split.tensor_split(), layers.len()), counts);
        }
    }

    #[test]
    fn what_can_fit_does_and_what_cannot_is_refused(
        memory in prop::collection::vec(1u64..150, 1..4), layers in prop::collection::vec(1u64..40, 1..10),
    ) {
        prop_assert_eq!(split_layers(&rooms(&memory), &layers, None).is_ok(), any_fits(&memory, &layers));
    }

    #[test]
    fn any_counts_of_layers_survive_llama_cpp(counts in prop::collection::vec(1u32..200, 1..16)) {
        let as_f32: Vec<f32> = counts.iter().map(|n| *n as f32).collect();
        prop_assert_eq!(llama_cpp(&as_f32, counts.iter().sum::<u32>() as usize), counts);
    }

    #[test]
    fn ratios_sum_to_one_and_round_trip(parts in prop::collection::vec(1e-3f64..1e3, 1..17)) {
        let text = parts.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        if let Ok(ratios) = text.parse::<SplitRatios>() {
            prop_assert_eq!(ratios.thousandths().iter().sum::<u16>(), 1000);
            prop_assert_eq!(ratios.to_string().parse::<SplitRatios>().unwrap(), ratios.clone());
            let layers = vec![1; 1000 * parts.len()];
            let split = split_layers(&rooms(&vec![1 << 40; parts.len()]), &layers, Some(&ratios)).unwrap();
            prop_assert_eq!(split.ratios(), ratios);
        }
    }

    #[test]
    fn the_largest_context_fits_and_the_next_does_not(
        memory in prop::collection::vec(200u64..5000, 1..5), n_layers in 5usize..20, per_position in 1u64..5,
    ) {
        let layer = |_, n_ctx: u32| 10 + per_position * u64::from(n_ctx);
        if let Ok(split) = split_layers(&rooms(&memory), &vec![layer(0, 1); n_layers], None) {
            let n_ctx = split.largest_ctx(1..=100_000, layer).unwrap();
            let holds = |n_ctx| split.shares.iter().all(|s| u64::from(s.layers) * layer(0, n_ctx) <= s.available_bytes);
            prop_assert!(holds(n_ctx) && !holds(n_ctx + 1));
        }
    }
}
