//! [`DigestCache`]: digests that were verified once, so that a large file is not read again at every start.

use super::digest::Digest;
use super::open::open_regular;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Larger than any entry: a path has at most 4096 bytes, and JSON writes one in at most six.
const MAX_ENTRY_BYTES: u64 = 64 << 10;
/// A file must have been left alone for this long to be remembered: a later write within the step of the file system's
/// clock (2 s on the coarsest) would leave its size and time as they are.
const SETTLED: Duration = Duration::from_secs(2);

/// A folder of verified digests. Nothing is written unless a caller makes one and passes it on.
///
/// Each file has one small entry, readable by its owner only, with the file's absolute path, size, time of change in
/// nanoseconds, inode and digest. The digest counts only as long as all of these are the file's; an entry that is damaged
/// in any way counts as none. A file changed less than two seconds ago is not remembered yet. Failing to write an entry
/// fails nothing, and is logged.
///
/// What this does not protect from: someone who may write the file can set its size and time back after changing it, as
/// may a fault of the disk, and someone who may write to the folder can add an entry of their own. Where that matters,
/// verify without a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestCache {
    folder: PathBuf,
}

impl DigestCache {
    /// The cache in `folder`, which is made when the first digest is stored.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The digest that the file at `path` had when it was last verified, if the file is unchanged since.
    #[must_use]
    pub fn find(&self, path: &Path) -> Option<Digest> {
        let path = path.canonicalize().ok()?;
        let (file, _) = open_regular(&self.entry(&path)).ok()?;
        let mut json = Vec::new();
        file.take(MAX_ENTRY_BYTES).read_to_end(&mut json).ok()?;
        let entry: Entry = serde_json::from_slice(&json).ok()?;
        let stamp = Stamp::of(&fs::metadata(&path).ok()?);
        (entry.path == path && entry.file == stamp).then_some(entry.sha256)
    }

    /// Remembers that the file at `path`, read from `started` on, had this digest while it was `stamp`.
    pub(super) fn store(&self, path: &Path, stamp: &Stamp, sha256: Digest, started: SystemTime) {
        if stamp.is_settled(started)
            && let Err(e) = self.write(path, stamp, sha256)
        {
            tracing::warn!(folder = %self.folder.display(), error = %e, "a verified digest could not be stored");
        }
    }

    fn write(&self, path: &Path, stamp: &Stamp, sha256: Digest) -> io::Result<()> {
        let path = path.canonicalize()?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        // Complete or not at all: it gets its name when it is written. Its mode is 0600.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        let to = self.entry(&path);
        let entry = Entry { path, file: stamp.clone(), sha256 };
        file.write_all(&serde_json::to_vec(&entry)?)?;
        file.persist(to)?;
        Ok(())
    }

    /// Where the entry of the file at `path` is: one place per path, so that a changed file replaces its entry.
    fn entry(&self, path: &Path) -> PathBuf {
        let name: [u8; 32] = Sha256::digest(path.as_os_str().as_encoded_bytes()).into();
        let name = Digest::Sha256(name).to_string();
        self.folder.join(format!("{}.json", name.trim_start_matches("sha256:")))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: PathBuf,
    file: Stamp,
    sha256: Digest,
}

/// By what a change of a file is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    /// Size.
    pub(super) bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    mtime_ns: i64,
    inode: u64,
}

impl Stamp {
    pub(super) fn of(found: &Metadata) -> Self {
        let mtime_ns = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
        Self { bytes: found.len(), mtime_ns, inode: found.ino() }
    }

    /// Whether a change from `now` on is sure to get another time.
    fn is_settled(&self, now: SystemTime) -> bool {
        let before = now.checked_sub(SETTLED).and_then(|before| before.duration_since(UNIX_EPOCH).ok());
        before.is_some_and(|before| i128::from(self.mtime_ns) < before.as_nanos().cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::model::verify_digests;
    use std::ops::ControlFlow;
    use std::os::unix::fs::PermissionsExt;

    struct Case {
        dir: tempfile::TempDir,
        file: PathBuf,
        cache: DigestCache,
    }

    const LONG_AGO: Duration = Duration::from_secs(3600);

    fn case() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.gguf");
        let cache = DigestCache::at(dir.path().join("a/cache"));
        let case = Case { file, cache, dir };
        case.write("one", SystemTime::now() - LONG_AGO);
        case
    }

    impl Case {
        fn write(&self, text: &str, mtime: SystemTime) {
            fs::write(&self.file, text).unwrap();
            fs::File::options().append(true).open(&self.file).unwrap().set_modified(mtime).unwrap();
        }

        /// Verifies that the file is `text`; gives the bytes that were read for it.
        fn verify(&self, text: &str) -> Result<u64, Error> {
            let expected = Digest::Sha256(Sha256::digest(text).into());
            let mut hashed = false;
            // Progress before the first byte is told only by hashing.
            verify_digests(std::slice::from_ref(&self.file), &[expected], Some(&self.cache), &mut |p| {
                hashed |= p.done_bytes == 0;
                ControlFlow::Continue(())
            })?;
            Ok(if hashed { fs::metadata(&self.file).unwrap().len() } else { 0 })
        }

        fn entries(&self) -> Vec<PathBuf> {
            fs::read_dir(&self.cache.folder).map_or(vec![], |all| all.map(|entry| entry.unwrap().path()).collect())
        }
    }

    #[test]
    fn an_unchanged_file_is_read_once() {
        let case = case();
        assert_eq!(case.verify("one").unwrap(), 3);
        assert_eq!(case.verify("one").unwrap(), 0);
        let [entry] = &case.entries()[..] else { panic!("{:?}", case.entries()) };
        assert_eq!(fs::metadata(entry).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&case.cache.folder).unwrap().permissions().mode() & 0o777, 0o700);
        let digest = case.cache.find(&case.file).unwrap();
        let break_off = &mut |_| ControlFlow::Break(());
        let error = verify_digests(std::slice::from_ref(&case.file), &[digest], Some(&case.cache), break_off);
        assert!(matches!(error, Err(Error::Cancelled(_))), "{error:?}");
        // By a link it is the same file.
        let link = case.dir.path().join("link");
        std::os::unix::fs::symlink(&case.file, &link).unwrap();
        assert_eq!(case.cache.find(&link), Some(Digest::Sha256(Sha256::digest("one").into())));
    }

    #[test]
    fn any_difference_makes_it_read_again() {
        let case = case();
        let then = SystemTime::now() - LONG_AGO;
        case.write("one", then);
        case.verify("one").unwrap();
        // Its time alone, by one nanosecond.
        case.write("one", then + Duration::from_nanos(1));
        assert_eq!(case.verify("one").unwrap(), 3);
        // Its size alone.
        case.write("four", then + Duration::from_nanos(1));
        assert_eq!(case.verify("four").unwrap(), 4);
        // Its inode alone: another file in its place, with its time.
        let other = case.dir.path().join("other");
        fs::write(&other, "FOUR").unwrap();
        let mtime = fs::metadata(&case.file).unwrap().modified().unwrap();
        fs::File::options().append(true).open(&other).unwrap().set_modified(mtime).unwrap();
        fs::rename(&other, &case.file).unwrap();
        assert!(matches!(case.verify("four"), Err(Error::DigestMismatch { .. })));
        assert_eq!(case.entries().len(), 1, "a changed file replaces its entry");
    }

    #[test]
    fn a_known_digest_never_says_no() {
        let case = case();
        case.verify("one").unwrap();
        assert!(matches!(case.verify("two"), Err(Error::DigestMismatch { .. })));
        assert_eq!(case.verify("one").unwrap(), 0, "the entry is still there");
    }

    #[test]
    fn a_file_that_was_just_written_is_not_remembered() {
        let case = case();
        for mtime in [SystemTime::now(), SystemTime::now() + LONG_AGO] {
            case.write("one", mtime);
            case.verify("one").unwrap();
            assert_eq!(case.entries(), Vec::<PathBuf>::new());
        }
    }

    #[test]
    fn a_broken_entry_is_replaced_and_never_trusted() {
        let case = case();
        case.verify("one").unwrap();
        let entry = case.entries().remove(0);
        let good = fs::read_to_string(&entry).unwrap();
        let wrong_path = good.replace("m.gguf", "n.gguf");
        let more = good.replacen('{', r#"{"more":1,"#, 1);
        let no_algorithm = good.replace("sha256:", "");
        for broken in ["", "{}", "null", "\u{0}", &good[..good.len() - 1], &wrong_path, &more, &no_algorithm] {
            assert_ne!(broken, good);
            fs::write(&entry, broken).unwrap();
            assert_eq!(case.verify("one").unwrap(), 3, "{broken}");
            assert_eq!(fs::read_to_string(&entry).unwrap(), good, "{broken}");
        }
        fs::remove_file(&entry).unwrap();
        fs::create_dir(&entry).unwrap();
        assert_eq!(case.verify("one").unwrap(), 3, "a folder in its place: verified, not stored");
    }

    #[test]
    fn without_a_place_to_write_it_still_verifies() {
        let mut case = case();
        fs::write(case.dir.path().join("file"), "").unwrap();
        case.cache = DigestCache::at(case.dir.path().join("file/cache"));
        assert_eq!(case.verify("one").unwrap(), 3);
        assert_eq!(case.verify("one").unwrap(), 3);
    }
}
