//! What the fuzz target, and the tests of it, do to the decoder.
//!
//! A script is a row of steps: the length of what arrives (two bytes, little-endian), which files come along (two nibbles of
//! one byte, the first in the lower one), and the bytes that arrive.

use super::blob::Blob;
use super::decoder::Decoder;
use super::error::IpcError;
use super::frame::{Frame, INLINE, MAX_BODY};
use super::sealed::{SealedFile, create};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

/// Of the shapes that messages have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Sample {
    Ping,
    Text(String),
    Run {
        id: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tokens: Vec<i32>,
        ratio: f32,
    },
    Nested(Vec<Sample>, BTreeMap<String, bool>),
}

/// A message that travels as a file.
pub(super) fn large() -> Sample {
    Sample::Text("x".repeat(INLINE + 1))
}

/// A blob that travels as a file.
pub(super) const LARGE_BLOB: usize = INLINE + 1;

/// The files that a nibble can name, from 1 on: a large message, a large blob, one that is not sealed, one that is too
/// short, and no file in memory.
static FILES: LazyLock<Option<[File; 5]>> = LazyLock::new(|| {
    let sealed = |bytes: &[u8]| SealedFile::new(bytes).ok()?.file().try_clone().ok();
    let message = rmp_serde::to_vec_named(&large()).ok()?;
    let unsealed = File::from(create().ok()?);
    unsealed.set_len(LARGE_BLOB as u64).ok()?;
    let files = [
        sealed(&message)?,
        sealed(&[7; LARGE_BLOB])?,
        unsealed,
        sealed(&[7; LARGE_BLOB - 1])?,
        File::open("/dev/null").ok()?,
    ];
    Some(files)
});

fn files(nibbles: u8) -> Vec<OwnedFd> {
    let Some(files) = &*FILES else { return Vec::new() };
    let named = [nibbles & 15, nibbles >> 4].into_iter().filter_map(|n| files.get(usize::from(n).checked_sub(1)?));
    named.filter_map(|file| file.try_clone().ok()).map(OwnedFd::from).collect()
}

/// Runs a script: how many frames it has, and how it ends.
pub(crate) fn explore(mut script: &[u8]) -> (usize, Result<(), IpcError>) {
    let (mut decoder, mut frames) = (Decoder::new(), 0);
    let end = loop {
        let Some((&[low, high, nibbles], rest)) = script.split_first_chunk() else { break decoder.finish() };
        let (bytes, rest) = rest.split_at(rest.len().min(u16::from_le_bytes([low, high]).into()));
        script = rest;
        match feed(&mut decoder, bytes, files(nibbles), |message, blob| check(&message, blob)) {
            Ok(more) => frames += more,
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = &end {
        assert!(error.to_string().len() < 500, "{error}");
    }
    (frames, end)
}

/// As a socket would: the files come with the first byte. Returns how many frames became whole.
pub(super) fn feed(
    decoder: &mut Decoder,
    mut bytes: &[u8],
    mut files: Vec<OwnedFd>,
    mut frame: impl FnMut(Sample, Option<Blob>),
) -> Result<usize, IpcError> {
    let mut frames = 0;
    while !bytes.is_empty() {
        let space = decoder.space();
        let (now, later) = bytes.split_at(bytes.len().min(space.len()));
        assert!(!now.is_empty(), "no space, and no frame is whole");
        space[..now.len()].copy_from_slice(now);
        decoder.arrived(now.len(), std::mem::take(&mut files));
        bytes = later;
        while let Some((message, blob)) = decoder.next()? {
            frames += 1;
            frame(message, blob);
        }
    }
    Ok(frames)
}

/// What was received can be sent, and is the same then.
fn check(message: &Sample, blob: Option<Blob>) {
    let encode = |message: &Sample| rmp_serde::to_vec_named(message).unwrap_or_default();
    let encoded = encode(message);
    assert!(encoded.len() as u64 <= MAX_BODY);
    let again: Sample = rmp_serde::from_slice(&encoded).expect("it was encoded a moment ago");
    assert_eq!(encode(&again), encoded);
    if let Some(blob) = blob {
        let len = blob.len();
        let bytes = blob.into_bytes().expect("it is there");
        assert_eq!(bytes.len() as u64, len);
    }
}

/// Scripts of sound streams: the seeds of all mutations.
pub(super) fn scripts() -> Vec<Vec<u8>> {
    let run = Sample::Run { id: 7, text: Some("why".into()), tokens: vec![-1, 0, 70_000], ratio: 0.5 };
    let nested = Sample::Nested(vec![Sample::Ping, run.clone()], BTreeMap::from([("greedy".into(), true)]));
    let small = |bytes: &[u8]| Some(Blob::from_slice(bytes).expect("few bytes"));
    let blob = Some(Blob::from_slice(&[7; LARGE_BLOB]).expect("a file in memory"));
    let step = |nibbles: u8, frames: &[(&Sample, &Option<Blob>)]| {
        let frames =
            frames.iter().map(|(message, blob)| Frame::new(*message, blob.as_ref()).expect("it is sound").bytes);
        let bytes = frames.collect::<Vec<_>>().concat();
        let len = u16::try_from(bytes.len()).expect("a short step");
        [&len.to_le_bytes(), &[nibbles][..], &bytes].concat()
    };
    let many = step(0, &[(&Sample::Ping, &None), (&run, &small(b"state")), (&nested, &small(b""))]);
    let half = many.len() / 2;
    let split = [&((half - 3) as u16).to_le_bytes(), &many[2..half]].concat();
    let rest = [&((many.len() - half) as u16).to_le_bytes(), &[0][..], &many[half..]].concat();
    vec![
        [split, rest].concat(),
        step(0x01, &[(&large(), &None)]),
        [step(0x02, &[(&run, &None), (&run, &blob), (&Sample::Ping, &None)]), step(0x21, &[(&large(), &blob)])]
            .concat(),
        [many, step(0x02, &[(&nested, &blob)]), step(0, &[(&run, &None)])].concat(),
    ]
}
