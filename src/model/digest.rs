//! Digests of files: [`Digest`], and computing and comparing them.

use super::digest_cache::{DigestCache, Stamp};
use super::gguf::{Gguf, GgufError};
use super::open::open_regular;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes read at a time; progress is told, and cancelling takes effect, once for each.
const CHUNK: usize = 1 << 20;

/// What a file's content comes down to: `sha256:` and 64 hexadecimal digits, lower case when written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
}

impl FromStr for Digest {
    type Err = Error;

    /// # Errors
    /// `InvalidParams` for anything but a known algorithm and as many digits as it has; never a digest that checks nothing.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |problem: &str| Err(Error::invalid("digest", format!("'{}': {problem}", text.escape_debug())));
        let Some((algorithm, digits)) = text.split_once(':') else {
            return match decode(text) {
                Some(_) => invalid("names no algorithm; put `sha256:` before it"),
                None => invalid("is no digest; write sha256: and 64 hexadecimal digits"),
            };
        };
        if !algorithm.eq_ignore_ascii_case("sha256") {
            return invalid("its algorithm is unknown; known is sha256");
        }
        match decode(digits) {
            Some(bytes) => Ok(Self::Sha256(bytes)),
            None => invalid("sha256: is followed by 64 hexadecimal digits"),
        }
    }
}

/// The bytes that exactly 64 hexadecimal digits stand for.
fn decode(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Sha256(bytes) = self;
        f.write_str("sha256:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// How far hashing has come: told before the first byte is read, and again after at most 1 MiB each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HashProgress {
    /// Bytes behind it.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Computes the SHA-256 digest of the file at `path`, in memory of one chunk, on this thread.
///
/// # Errors
/// `Cancelled` when `progress` breaks, `ModelNotFound` where there is no readable regular file, `ModelInvalid` when the file
/// changes while it is read (by its size and time of change, so a write within the clock's step may go unseen).
pub fn hash_file(path: &Path, progress: &mut dyn FnMut(HashProgress) -> ControlFlow<()>) -> Result<Digest> {
    let total_bytes = open(path)?.1.bytes;
    hash(path, &mut |done_bytes| progress(HashProgress { done_bytes, total_bytes })).map(|(digest, _)| digest)
}

/// Compares the files at `parts` with `expected`, one digest for each part, in order.
///
/// With a `cache`, a file whose digest is known there is not read again. Progress counts the bytes of all parts together.
///
/// # Errors
/// `DigestMismatch` for the first part that is another one, `InvalidParams` when there is not one digest for each part, and as
/// for [`hash_file`].
pub fn verify_digests(
    parts: &[PathBuf],
    expected: &[Digest],
    cache: Option<&DigestCache>,
    progress: &mut dyn FnMut(HashProgress) -> ControlFlow<()>,
) -> Result<()> {
    if parts.len() != expected.len() {
        let problem = format!("{} for {} files; give one for each part, in order", expected.len(), parts.len());
        return Err(Error::invalid("digests", problem));
    }
    let sizes = parts.iter().map(|part| Ok(open(part)?.1.bytes)).collect::<Result<Vec<_>>>()?;
    let total_bytes = sizes.iter().sum();
    let mut before = 0;
    for ((path, &expected), size) in parts.iter().zip(expected).zip(sizes) {
        // Only a yes is taken from the cache: a no is worth another look.
        let known = cache.is_some_and(|cache| cache.find(path) == Some(expected));
        if !known {
            let started = SystemTime::now();
            let (found, stamp) =
                hash(path, &mut |done| progress(HashProgress { done_bytes: before + done, total_bytes }))?;
            if found != expected {
                return Err(Error::DigestMismatch { path: path.clone(), expected, found });
            }
            if let Some(cache) = cache {
                cache.store(path, &stamp, found, started);
            }
        }
        before += size;
        if known && progress(HashProgress { done_bytes: before, total_bytes }).is_break() {
            return Err(cancelled(path));
        }
    }
    Ok(())
}

/// The digest of a file's header: of everything before the weights.
pub(crate) fn header_digest(path: &Path, header: &Gguf) -> Result<Digest, GgufError> {
    let io = |source| GgufError::Io { offset: 0, source };
    let (file, _) = open_regular(path).map_err(io)?;
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; 64 << 10]);
    let mut rest = file.take(header.data_offset());
    loop {
        match rest.read(&mut chunk).map_err(io)? {
            0 => return Ok(Digest::Sha256(hasher.finalize().into())),
            read => hasher.update(&chunk[..read]),
        }
    }
}

fn open(path: &Path) -> Result<(std::fs::File, Stamp)> {
    let (file, found) = open_regular(path).map_err(|e| unreadable(path, &e))?;
    Ok((file, Stamp::of(&found)))
}

/// The digest of a file, and what the file was when it had that digest.
fn hash(path: &Path, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(Digest, Stamp)> {
    let (mut file, stamp) = open(path)?;
    let (mut hasher, mut chunk, mut done) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        if progress(done).is_break() {
            return Err(cancelled(path));
        }
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(unreadable(path, &e)),
        };
        hasher.update(&chunk[..read]);
        done += read as u64;
        // One that grows as fast as it is read would have no end.
        if done > stamp.bytes {
            break;
        }
    }
    // By what is at the path now: it may have been replaced.
    if done != stamp.bytes || open(path)?.1 != stamp {
        let source = io::Error::other("the file changed while its digest was computed; try again when it is complete");
        let source = Arc::new(GgufError::Io { offset: done, source });
        return Err(Error::ModelInvalid { path: path.to_owned(), source });
    }
    Ok((Digest::Sha256(hasher.finalize().into()), stamp))
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::ModelNotFound { path: path.to_owned(), problem: error.to_string() }
}

fn cancelled(path: &Path) -> Error {
    Error::Cancelled(format!("the digest of {} was not computed to its end", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use proptest::prelude::*;
    use std::fs;
    use std::io::Write;
    use std::time::{Duration, Instant};

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn on(_: HashProgress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn only_a_whole_digest_of_a_known_algorithm_is_one() {
        let digest: Digest = ABC.parse().unwrap();
        assert_eq!(digest.to_string(), ABC);
        assert_eq!(ABC.to_uppercase().parse::<Digest>().unwrap(), digest);
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{ABC}\""));
        assert_eq!(serde_json::from_str::<Digest>(&format!("\"{ABC}\"")).unwrap(), digest);
        let hex = &ABC[7..];
        for (text, part) in [
            (hex, "put `sha256:` before it"),
            ("", "write sha256:"),
            ("abc", "write sha256:"),
            (&format!("md5:{hex}"), "known is sha256"),
            (&format!("sha512:{hex}{hex}"), "known is sha256"),
            (&format!(":{hex}"), "known is sha256"),
            (&format!(" {ABC}"), "known is sha256"),
            ("sha256:", "64 hexadecimal"),
            (&ABC[..70], "64 hexadecimal"),
            (&format!("{ABC}0"), "64 hexadecimal"),
            (&format!("{ABC} "), "64 hexadecimal"),
            (&format!("sha256:+{}", &hex[1..]), "64 hexadecimal"),
            (&format!("sha256:{}", "ü".repeat(32)), "64 hexadecimal"),
        ] {
            let error = text.parse::<Digest>().expect_err(text);
            assert_eq!(error.status(), Status::InvalidParams);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_parses_or_is_refused(text in "(sha256:)?([0-9a-fA-F]{64}|.*)") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text.to_lowercase());
            }
        }

        #[test]
        fn display_parses_to_the_same(bytes: [u8; 32]) {
            let digest = Digest::Sha256(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
    }

    #[test]
    fn hashes_are_right_and_progress_counts_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "abc").unwrap();
        assert_eq!(hash_file(&path, &mut on).unwrap().to_string(), ABC);
        fs::write(&path, "").unwrap();
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hash_file(&path, &mut on).unwrap().to_string(), empty);

        let bytes: Vec<u8> = (0..3 * CHUNK + 5).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let mut told = vec![];
        let digest = hash_file(&path, &mut |progress| {
            assert_eq!(progress.total_bytes, bytes.len() as u64);
            told.push(progress.done_bytes);
            ControlFlow::Continue(())
        });
        assert_eq!(digest.unwrap(), Digest::Sha256(Sha256::digest(&bytes).into()));
        assert_eq!(
            told,
            [0, 1, 2, 3].map(|n| n * CHUNK as u64).into_iter().chain([bytes.len() as u64]).collect::<Vec<_>>()
        );
    }

    #[test]
    fn breaking_cancels_at_the_next_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![0; 3 * CHUNK]).unwrap();
        for after in 0..4 {
            let mut left = after;
            let error = hash_file(&path, &mut |_| match left {
                0 => ControlFlow::Break(()),
                _ => {
                    left -= 1;
                    ControlFlow::Continue(())
                }
            });
            let error = error.unwrap_err();
            assert_eq!(error.status(), Status::Cancelled, "{error}");
            assert!(error.to_string().contains("file"), "{error}");
        }
    }

    #[test]
    fn a_file_that_changes_meanwhile_has_no_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let grow = |path: &Path| fs::File::options().append(true).open(path).unwrap().write_all(b"x").unwrap();
        let shrink = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(CHUNK as u64).unwrap();
        let touch = |path: &Path| {
            let mtime = SystemTime::now() + Duration::from_secs(9);
            fs::File::options().append(true).open(path).unwrap().set_modified(mtime).unwrap();
        };
        let replace = |path: &Path| {
            let mtime = fs::metadata(path).unwrap().modified().unwrap();
            let other = path.with_extension("other");
            fs::write(&other, vec![1; 2 * CHUNK]).unwrap();
            fs::File::options().append(true).open(&other).unwrap().set_modified(mtime).unwrap();
            fs::rename(&other, path).unwrap();
        };
        for change in [&grow as &dyn Fn(&Path), &shrink, &touch, &replace] {
            fs::write(&path, vec![0; 2 * CHUNK]).unwrap();
            let error = hash_file(&path, &mut |progress| {
                if progress.done_bytes == CHUNK as u64 {
                    change(&path);
                }
                ControlFlow::Continue(())
            });
            let error = error.unwrap_err();
            assert_eq!(error.status(), Status::ModelInvalid, "{error}");
            assert!(error.to_string().contains("changed while"), "{error}");
        }
        // One that is longer than it says.
        #[cfg(target_os = "linux")]
        assert_eq!(hash_file(Path::new("/proc/version"), &mut on).unwrap_err().status(), Status::ModelInvalid);
        // One that grows with each chunk: this ends, too.
        fs::write(&path, "start").unwrap();
        let begun = Instant::now();
        let error = hash_file(&path, &mut |_| {
            assert!(begun.elapsed() < Duration::from_secs(60), "reads for ever");
            grow(&path);
            ControlFlow::Continue(())
        });
        assert_eq!(error.unwrap_err().status(), Status::ModelInvalid);
    }

    #[test]
    fn each_part_has_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let parts: Vec<_> = ["one", "two", "three"]
            .map(|text| {
                fs::write(dir.path().join(text), text).unwrap();
                dir.path().join(text)
            })
            .into();
        let right: Vec<_> = parts.iter().map(|part| hash_file(part, &mut on).unwrap()).collect();
        let mut last = None;
        verify_digests(&parts, &right, None, &mut |progress| {
            assert_eq!(progress.total_bytes, 11);
            assert!(last.is_none_or(|last| last <= progress.done_bytes), "counts backwards");
            last = Some(progress.done_bytes);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(last, Some(11));

        let error = verify_digests(&parts, &[right[0], right[2], right[1]], None, &mut on).unwrap_err();
        assert_eq!(error.status(), Status::DigestMismatch);
        let expected = format!("two: digest mismatch: expected {}, got {}", right[2], right[1]);
        assert!(error.to_string().ends_with(&expected), "{error}");

        for few in [&right[..2], &[]] {
            let error = verify_digests(&parts, few, None, &mut on).unwrap_err();
            assert_eq!(error.status(), Status::InvalidParams, "{error}");
            assert!(error.to_string().contains("for 3 files"), "{error}");
        }
        let error = verify_digests(&parts, &right, None, &mut |_| ControlFlow::Break(())).unwrap_err();
        assert_eq!(error.status(), Status::Cancelled);
    }

    #[test]
    fn only_regular_files_are_hashed() {
        for (path, part) in [("/dev/zero", "regular"), ("/", "directory"), ("/no/such", "No such file")] {
            let error = hash_file(Path::new(path), &mut on).unwrap_err();
            assert_eq!(error.status(), Status::ModelNotFound);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
