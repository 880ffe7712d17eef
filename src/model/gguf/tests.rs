//! Syntax: what is read, and every way in which reading fails.

use std::io::Cursor;

use super::builder::{ARRAY, BOOL, Builder, F32, STRING, U32, U64, string};
use super::*;
use crate::model::types::GgmlType;

fn read(bytes: &[u8]) -> Result<Gguf, GgufError> {
    Gguf::read(Cursor::new(bytes))
}

/// The offset and text of the error that a malformed file must give.
#[track_caller]
fn malformed(builder: &Builder) -> (u64, String) {
    let error = builder.read().expect_err("the file should be refused");
    assert!(matches!(error, GgufError::Malformed { .. }), "{error}");
    (error.offset(), error.to_string())
}

#[track_caller]
fn refused(builder: &Builder, fragment: &str) {
    let (_, message) = malformed(builder);
    assert!(message.contains(fragment), "{message:?} should contain {fragment:?}");
}

#[test]
fn reads_metadata_tensors_and_layout() {
    let builder = Builder::llama();
    let gguf = builder.read().unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.alignment(), 32);
    assert_eq!(gguf.get("llama.block_count"), Some(&Value::U32(2)));
    assert_eq!(gguf.get("general.name"), Some(&Value::String("tiny".to_owned())));
    assert_eq!(gguf.get("absent"), None);
    assert_eq!(gguf.keys().len(), 15);
    assert_eq!(gguf.file_bytes(), builder.build().len() as u64);
    assert_eq!(gguf.split(), None);

    let data = (builder.header().len() as u64).next_multiple_of(32);
    assert_eq!(gguf.data_offset(), data);
    let [embeddings, norm, _] = gguf.tensors() else { panic!("three tensors") };
    assert_eq!(embeddings.name, "token_embd.weight");
    assert_eq!(embeddings.ggml_type, GgmlType::Q8_0);
    assert_eq!(embeddings.dims, [64, 4]);
    assert_eq!(embeddings.elements(), 256);
    assert_eq!(embeddings.bytes, 8 * 34);
    assert_eq!(embeddings.offset, data);
    assert_eq!(norm.offset, data + 288);
    assert_eq!(gguf.tensor_bytes(), 8 * 34 + 2 * 256);
}

#[test]
fn version_2_reads_the_same() {
    let mut builder = Builder::llama();
    let three = builder.read().unwrap();
    builder.version = 2;
    let two = builder.read().unwrap();
    assert_eq!(two.version(), 2);
    assert_eq!(two.tensors(), three.tensors());
}

#[test]
fn reads_every_value_type() {
    let n = 0x8877_6655_4433_2211_u64.to_le_bytes();
    let cases: &[(u32, &[u8], Value)] = &[
        (0, &n[..1], Value::U8(0x11)),
        (1, &[0xff], Value::I8(-1)),
        (2, &n[..2], Value::U16(0x2211)),
        (3, &[0xff; 2], Value::I16(-1)),
        (4, &n[..4], Value::U32(0x4433_2211)),
        (5, &[0xff; 4], Value::I32(-1)),
        (6, &1.5f32.to_le_bytes(), Value::F32(1.5)),
        (7, &[1], Value::Bool(true)),
        (8, &string("é"), Value::String("é".to_owned())),
        (10, &n, Value::U64(0x8877_6655_4433_2211)),
        (11, &[0xff; 8], Value::I64(-1)),
        (12, &(-0.25f64).to_le_bytes(), Value::F64(-0.25)),
    ];
    for (version, (number, bytes, expected)) in
        [2, 3].iter().flat_map(|version| cases.iter().map(move |c| (version, c)))
    {
        let read = |mut builder: Builder| {
            builder.version = *version;
            builder.read()
        };
        let gguf = read(Builder::new().raw("k", *number, bytes)).unwrap();
        assert_eq!(gguf.get("k"), Some(expected));

        // The same bytes as an array of two.
        let twice = [*bytes, *bytes].concat();
        let gguf = read(Builder::new().array("k", *number, 2, &twice)).unwrap();
        let Some(value @ Value::Array(array)) = gguf.get("k") else { panic!("an array") };
        assert_eq!(array.len(), 2);
        assert!(!array.is_empty());
        assert_eq!(value.type_name(), format!("arr[{}]", expected.type_name()));

        // An array of none, and that array in another.
        let gguf = read(Builder::new().array("k", *number, 0, &[])).unwrap();
        assert!(matches!(gguf.get("k"), Some(Value::Array(array)) if array.is_empty()));
        let inner = [&number.to_le_bytes()[..], &1u64.to_le_bytes(), bytes].concat();
        let error = read(Builder::new().array("k", ARRAY, 1, &inner)).unwrap_err().to_string();
        assert!(error.contains("expected a scalar type, found an array of arrays"), "{error}");
    }
}

#[test]
fn long_arrays_are_read_whole() {
    // More than the buffer they are read through holds, and not a multiple of it.
    let numbers: Vec<u32> = (0..5000).collect();
    let gguf = Builder::new().u32s("k", &numbers).read().unwrap();
    assert_eq!(gguf.get("k"), Some(&Value::Array(Array::U32(numbers))));
}

#[test]
fn string_arrays_keep_texts_and_measures() {
    let gguf = Builder::new().texts("k", &["ab", "", "é\0x"]).read().unwrap();
    let Some(Value::Array(Array::String(texts))) = gguf.get("k") else { panic!("texts") };
    assert_eq!(texts.iter().collect::<Vec<_>>(), ["ab", "", "é\0x"]);
    assert_eq!((texts.len(), texts.total_bytes(), texts.longest_bytes()), (3, 6, 4));
    assert!(!texts.is_empty());
}

#[test]
fn not_gguf() {
    for bytes in [&b"GGML\x03\0\0\0"[..], b"PK\x03\x04", b"X", b"\x7fELF"] {
        let error = read(bytes).unwrap_err();
        let GgufError::NotGguf { offset: 0, found } = &error else { panic!("{error}") };
        assert!(bytes.starts_with(found));
    }
    let message = read(b"\x7fELF").unwrap_err().to_string();
    assert_eq!(message, "not a GGUF file: expected \"GGUF\" at byte 0, found \"\\x7fELF\"");
}

#[test]
fn unsupported_versions() {
    for (version, swapped) in [(0, false), (1, false), (4, false), (3u32.swap_bytes(), true), (u32::MAX, false)] {
        let mut builder = Builder::llama();
        builder.version = version;
        let error = builder.read().unwrap_err();
        assert_eq!(error.offset(), 4);
        let GgufError::UnsupportedVersion { found, big_endian, .. } = error else { panic!("{error}") };
        assert_eq!((found, big_endian), (version, swapped));
    }
}

#[test]
fn every_truncation_is_told_as_such() {
    let builder = Builder::llama();
    let whole = builder.build();
    for length in 0..whole.len() {
        let error = read(&whole[..length]).unwrap_err();
        let GgufError::Truncated { offset, required, available, .. } = error else {
            panic!("cut to {length}: {error}")
        };
        assert!(required > available, "cut to {length}");
        assert_eq!(offset.saturating_add(available).max(length as u64), offset.max(length as u64));
    }
    assert!(read(&whole).is_ok());
}

#[test]
fn truncated_tensor_data_names_the_tensor() {
    let whole = Builder::llama().build();
    let error = read(&whole[..whole.len() - 100]).unwrap_err();
    let expected_offset = whole.len() as u64 - 256;
    assert_eq!(error.offset(), expected_offset);
    assert_eq!(
        error.to_string(),
        format!(
            "truncated at byte {expected_offset}: the data of tensor 'output_norm.weight' takes 256 bytes, \
             156 are left"
        )
    );
}

#[test]
fn huge_counts_in_tiny_files() {
    // The published shapes: 37 bytes with a count far beyond the file, and 88 bytes with a vast tensor.
    let mut thirty_seven = Builder::new();
    thirty_seven.entry_count = Some(1 << 62);
    let mut bytes = thirty_seven.header();
    bytes.resize(37, 0xff);
    assert!(read(&bytes).is_err());
    bytes[8..16].fill(0xff);
    assert!(read(&bytes).is_err());

    for dims in [&[1 << 62, 1 << 62][..], &[u64::MAX], &[0], &[1 << 31, 1 << 31, 2]] {
        let builder = Builder::new().raw_tensor(b"t", dims, 0, 0, 0);
        let mut bytes = builder.header();
        bytes.resize(88, 0);
        assert!(matches!(read(&bytes).unwrap_err(), GgufError::Malformed { .. }));
    }

    for (number, size) in [(0u32, 1), (6, 4), (8, 8), (10, 8)] {
        for count in [u64::MAX, u64::MAX / size, 1 << 61, 1 << 33] {
            let error = Builder::new().array("k", number, count, &[]).read().unwrap_err();
            let GgufError::Truncated { required, available: 0, .. } = error else { panic!("{error}") };
            assert_eq!(required, count.saturating_mul(size));
        }
    }
    let long = Builder::new().raw("k", STRING, &u64::MAX.to_le_bytes());
    assert!(matches!(long.read().unwrap_err(), GgufError::Truncated { required: u64::MAX, .. }));
}

#[test]
fn counts_beyond_the_limits() {
    let mut builder = Builder::new();
    builder.tensor_count = Some(MAX_TENSORS + 1);
    assert_eq!(malformed(&builder).0, 8);
    builder.tensor_count = Some(MAX_TENSORS);
    assert!(matches!(builder.read().unwrap_err(), GgufError::Truncated { .. }));
    let mut builder = Builder::new();
    builder.entry_count = Some(MAX_ENTRIES + 1);
    assert_eq!(malformed(&builder).0, 16);
}

#[test]
fn headers_beyond_the_limit() {
    // A sparse reader: nothing is there to be read, only to be counted.
    struct Endless(Cursor<Vec<u8>>);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Seek for Endless {
        fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
            match to {
                io::SeekFrom::End(_) => Ok(1 << 40),
                to => self.0.seek(to),
            }
        }
    }
    let header = Builder::new().array("k", 0, 1 << 35, &[]).header();
    let error = Gguf::read(Endless(Cursor::new(header))).unwrap_err();
    assert!(error.to_string().contains("a header of at most 268435456 bytes"), "{error}");

    // A file that turns out shorter than it said is truncated.
    let header = Builder::new().array("k", 0, 100, &[]).header();
    let error = Gguf::read(Endless(Cursor::new(header))).unwrap_err();
    assert!(matches!(error, GgufError::Truncated { .. }), "{error}");
}

#[test]
fn metadata_keys() {
    refused(&Builder::llama().again("general.name"), "a duplicate");
    refused(&Builder::new().again(""), "1 to 65535 bytes");
    refused(&Builder::new().again("a\0b"), "without NUL");
    refused(&Builder::new().again(&"k".repeat(70_000)), "1 to 65535 bytes");

    let mut bytes = Builder::new().u32("key", 1).header();
    bytes[33] = 0xff;
    let error = read(&bytes).unwrap_err();
    assert_eq!(error.offset(), 33);
    assert!(error.to_string().contains("UTF-8"), "{error}");
}

#[test]
fn metadata_values() {
    refused(&Builder::new().raw("k", 13, &[0; 8]), "a type from 0 to 12, found 13");
    refused(&Builder::new().raw("k", u32::MAX, &[0; 8]), "a type from 0 to 12");
    refused(&Builder::new().raw("k", BOOL, &[2]), "a truth value");
    refused(&Builder::new().array("k", BOOL, 2, &[1, 9]), "a truth value");
    refused(&Builder::new().array("k", ARRAY, 1, &[0; 12]), "an array of arrays");
    refused(&Builder::new().array("k", 99, 1, &[0; 12]), "the element type of 'k'");
    refused(&Builder::new().text("k", "a\0b"), "without NUL");
    refused(&Builder::new().raw("k", STRING, &string([b'a', 0xc3])), "UTF-8");
    refused(&Builder::new().array("k", STRING, 1, &string([0xf5])), "element 0 of 'k'");
}

#[test]
fn faults_are_located() {
    let builder = Builder::new().u32("first", 1).raw("second", BOOL, &[7]);
    let (offset, message) = malformed(&builder);
    // magic, version, counts; first key, its type and value; second key and its type.
    assert_eq!(offset, 24 + (8 + 5 + 4 + 4) + (8 + 6 + 4));
    assert_eq!(message, "malformed at byte 63: 'second': expected a truth value, 0 or 1, found 7");
}

#[test]
fn messages_stay_short_and_printable() {
    let name = format!("\u{1b}[31m{}", "x".repeat(5000));
    let (_, message) = malformed(&Builder::new().raw(&name, BOOL, &[7]));
    assert!(message.len() < 200 && !message.contains('\u{1b}'), "{message}");
}

#[test]
fn alignment() {
    let mut builder = Builder::llama().without_tensors().u32("general.alignment", 4096);
    builder.alignment = 4096;
    let gguf = builder.clone().tensor("a", GgmlType::F32, &[8]).read().unwrap();
    assert_eq!((gguf.alignment(), gguf.data_offset()), (4096, 4096));

    for alignment in [0, 3, 48, u32::MAX] {
        refused(&Builder::new().u32("general.alignment", alignment), "a power of two");
    }
    refused(&Builder::new().raw("general.alignment", U64, &[32, 0, 0, 0, 0, 0, 0, 0]), "u32");
    // A vast alignment moves the data beyond the file.
    let vast = Builder::new().u32("general.alignment", 1 << 31).tensor("a", GgmlType::F32, &[8]);
    assert!(matches!(vast.read().unwrap_err(), GgufError::Truncated { .. }));
}

#[test]
fn tensor_names() {
    let name = "n".repeat(63);
    assert!(Builder::new().tensor(&name, GgmlType::F32, &[1]).read().is_ok());
    refused(&Builder::new().tensor(&"n".repeat(64), GgmlType::F32, &[1]), "at most 63 bytes");
    refused(&Builder::new().tensor("a", GgmlType::F32, &[8]).tensor("a", GgmlType::F32, &[8]), "a duplicate");
    refused(&Builder::new().tensor("a\0", GgmlType::F32, &[8]), "without NUL");
    refused(&Builder::new().raw_tensor(&[0xff], &[8], 0, 0, 32), "UTF-8");
}

#[test]
fn tensor_shapes() {
    assert!(Builder::new().tensor("a", GgmlType::F32, &[]).read().is_ok());
    assert!(Builder::new().tensor("a", GgmlType::F32, &[1, 1, 1, 8]).read().is_ok());
    refused(&Builder::new().tensor("a", GgmlType::F32, &[1; 5]), "at most 4");
    for dims in [&[0][..], &[8, 0], &[1 << 63], &[1 << 32, 1 << 31], &[u64::MAX, 2]] {
        refused(&Builder::new().raw_tensor(b"a", dims, 0, 0, 0), "at least 1");
    }
    // As many elements as can be counted, but more bytes.
    refused(&Builder::new().raw_tensor(b"a", &[1 << 62], 0, 0, 0), "at most 2^63-1 bytes");
    refused(&Builder::new().raw_tensor(b"a", &[33], 8, 0, 0), "a multiple of 32");
    refused(&Builder::new().raw_tensor(b"a", &[128], 12, 0, 0), "a multiple of 256");
}

#[test]
fn tensor_types() {
    refused(&Builder::new().raw_tensor(b"a", &[32], 4, 0, 0), "Q4_2, which was removed");
    refused(&Builder::new().raw_tensor(b"a", &[32], 31, 0, 0), "Q4_0_4_4, which was removed");
    refused(&Builder::new().raw_tensor(b"a", &[32], 43, 0, 0), "a current ggml type, found 43");
    refused(&Builder::new().raw_tensor(b"a", &[32], u32::MAX, 0, 0), "a current ggml type");
    for &ggml_type in GgmlType::ALL {
        let gguf = Builder::new().tensor("a", ggml_type, &[256, 2]).read().unwrap();
        let expected = 512 / ggml_type.block_elements() * ggml_type.block_bytes();
        assert_eq!(gguf.tensor_bytes(), expected, "{ggml_type}");
    }
}

#[test]
fn tensor_offsets() {
    let one = || Builder::new().tensor("a", GgmlType::F32, &[9]);
    let second = |offset| one().raw_tensor(b"b", &[8], 0, offset, 32);
    assert!(second(64).read().is_ok());
    refused(&second(36), "not aligned");
    refused(&second(32), "overlapping");
    refused(&second(0), "overlapping");
    refused(&second(96), "leaving a gap");
    let far = one().raw_tensor(b"b", &[8], 0, u64::MAX, 0).header();
    assert!(read(&[far, vec![0; 4096]].concat()).unwrap_err().to_string().contains("not aligned"));
    // Sizes that add up beyond what can be counted.
    let mut bytes = Builder::new()
        .raw_tensor(b"a", &[(1 << 61) - 8], 0, 0, 0)
        .raw_tensor(b"b", &[8], 0, (1 << 63) - 32, 0)
        .header();
    bytes.resize(4096, 0);
    assert!(read(&bytes).is_err());
}

#[test]
fn split_keys() {
    let part =
        |number, count| Builder::new().u16("split.no", number).u16("split.count", count).i32("split.tensors.count", 5);
    let split = part(1, 3).read().unwrap().split().unwrap();
    assert_eq!((split.number, split.count, split.tensors), (1, 3, 5));
    // What merging and not splitting leave behind.
    assert_eq!(part(0, 0).read().unwrap().split(), None);
    assert_eq!(part(0, 1).read().unwrap().split(), None);

    refused(&part(3, 3), "less than 3 parts");
    refused(&part(0, 2).without("split.no"), "a part number");
    refused(&part(0, 2).without("split.tensors.count"), "a count");
    refused(&part(0, 2).i32("split.tensors.count", -1), "at least the 0");
    refused(&part(0, 2).u32("split.no", 0), "expected u16, found u32");
    refused(&part(0, 2).raw("split.count", F32, &[0; 4]), "expected u16, found f32");
    // llama.cpp asserts this type in every part, so it is checked even alone.
    refused(&Builder::new().raw("split.no", U32, &[0; 4]), "expected u16");
}

#[test]
fn read_errors_keep_their_source() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    impl Seek for Broken {
        fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
            Ok(100)
        }
    }
    let error = Gguf::read(Broken).unwrap_err();
    assert!(matches!(error, GgufError::Io { offset: 0, .. }), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn only_regular_files_are_opened() {
    let io_kind = |path: &Path| match crate::model::read_header(path).unwrap_err() {
        GgufError::Io { source, .. } => source.kind(),
        other => panic!("{other}"),
    };
    assert_eq!(io_kind(&std::env::temp_dir()), io::ErrorKind::InvalidInput);
    assert_eq!(io_kind(Path::new("/nonexistent/model.gguf")), io::ErrorKind::NotFound);
}
