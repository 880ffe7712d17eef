//! Reading the small files below `/proc` and `/sys`: any of them may be missing, hidden or odd.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longer files are cut: the kernel's are short, except for lists of mounts on large hosts.
const LONGEST: u64 = 1 << 20;

/// The text of a file, or `None` where there is none to read.
pub(crate) fn text(path: &Path) -> Option<String> {
    head(path, LONGEST)
}

/// The first bytes of a file as text.
pub(crate) fn head(path: &Path, bytes: u64) -> Option<String> {
    let mut text = vec![];
    File::open(path).ok()?.take(bytes).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The only number in a file.
pub(crate) fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

/// The value of `key` in lines such as `key: value` or `key value`.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?;
        rest.starts_with([':', ' ', '\t']).then(|| rest.trim_start_matches(['\t', ' ', ':']).trim_end())
    })
}

/// A number of kibibytes such as `Key:  123 kB`, in bytes.
pub(crate) fn kib(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
