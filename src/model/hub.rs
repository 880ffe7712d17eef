//! Models in the local cache of the Hugging Face hub: how they are named, and where they lie.
//!
//! The layout is the one that all tools of the hub share: `models--ORG--REPO/refs/REV` holds the commit that a branch or
//! tag stood at when it was last fetched, `snapshots/COMMIT/` holds the files by name, as links to `blobs/`.

use super::open::open_regular;
use super::split::SplitName;
use crate::error::{Error, Result};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The revision that is meant when none is named.
const DEFAULT_REVISION: &str = "main";
/// The hub allows this many characters in a repository's whole name.
const MAX_NAME: usize = 96;
/// What would end a revision, or start an escape, inside a reference.
const IN_REVISION: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

/// A file of a model repository: `hf:org/repo@rev/file`.
///
/// * `@rev`: a branch, a tag or a commit of 40 hexadecimal digits; `main` if it is left out. A slash in it is written
///   `%2F`, except in `refs/pr/N` and `refs/convert/NAME`.
/// * `/file`: its path in the repository, taken as it is. It may name any part of a split model or a folder with one
///   model; left out, the snapshot must hold exactly one model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubReference {
    org: String,
    repo: String,
    revision: String,
    file: Option<String>,
}

impl HubReference {
    /// What follows `hf:`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = |problem: &str| {
            Err(Error::invalid("model", format!("hf:{text}: {problem}; write hf:org/repo@revision/file.gguf")))
        };
        let Some((org, rest)) = text.strip_prefix("//").unwrap_or(text).split_once('/') else {
            return invalid("names no repository");
        };
        let (repo, rest) = rest.split_at(rest.find(['@', '/']).unwrap_or(rest.len()));
        if !is_name(org) || !is_name(repo) {
            return invalid("an organisation and a repository have letters, digits and single . _ - between them");
        }
        let (revision, rest) = match rest.strip_prefix('@') {
            Some(rest) => rest.split_at(revision_length(rest)),
            None => (DEFAULT_REVISION, rest),
        };
        let Ok(revision) = percent_decode_str(revision).decode_utf8() else {
            return invalid("the revision is not UTF-8");
        };
        let file = rest.strip_prefix('/');
        if !is_relative(&revision) || !file.is_none_or(is_relative) {
            return invalid("a revision and a file have no empty, `.` or `..` segments and no control characters");
        }
        Ok(Self { org: org.into(), repo: repo.into(), revision: revision.into(), file: file.map(Into::into) })
    }

    /// Organisation or user.
    #[must_use]
    pub fn org(&self) -> &str {
        &self.org
    }

    /// Name of the repository, without the organisation.
    #[must_use]
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// Branch, tag or commit; `main` if the reference names none.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Path in the repository, if the reference names one.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The commit, if the revision is one.
    fn commit(&self) -> Option<String> {
        is_commit(&self.revision).then(|| self.revision.to_ascii_lowercase())
    }

    /// The command that puts what this names into the cache.
    pub(super) fn fetch_command(&self) -> String {
        let what = match &self.file {
            None => "--include '*.gguf'".into(),
            Some(file) => {
                let (folder, name) = file.rsplit_once('/').map_or(("", file.as_str()), |(folder, name)| (folder, name));
                match SplitName::parse(name) {
                    Some(split) if folder.is_empty() => format!("--include {}", quoted(&split.pattern())),
                    Some(split) => format!("--include {}", quoted(&format!("{folder}/{}", split.pattern()))),
                    None if name.ends_with(".gguf") => quoted(file),
                    None => format!("--include {}", quoted(&format!("{file}/*.gguf"))),
                }
            }
        };
        let revision = match self.revision.as_str() {
            DEFAULT_REVISION => String::new(),
            revision => format!(" --revision {}", quoted(revision)),
        };
        format!("hf download {}/{} {what}{revision}", self.org, self.repo)
    }
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.org, self.repo)?;
        if self.revision != DEFAULT_REVISION {
            write!(f, "@{}", utf8_percent_encode(&self.revision, IN_REVISION))?;
        }
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// How much of what follows `@` is the revision: up to the next slash, but `refs/pr/N` and `refs/convert/NAME` as a whole.
fn revision_length(text: &str) -> usize {
    let special = text.starts_with("refs/pr/") || text.starts_with("refs/convert/");
    text.match_indices('/').nth(if special { 2 } else { 0 }).map_or(text.len(), |(at, _)| at)
}

/// The hub's own rule. A double `-` would make the folder names of the cache ambiguous.
fn is_name(name: &str) -> bool {
    let (first, last) = (name.as_bytes().first(), name.as_bytes().last());
    name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && [first, last].iter().all(|end| end.is_some_and(|b| !matches!(b, b'.' | b'-')))
        && !name.contains("--")
        && !name.contains("..")
}

/// Whether joining this to a folder stays below the folder.
fn is_relative(path: &str) -> bool {
    path.split('/').all(|segment| !matches!(segment, "" | "." | "..")) && !path.contains(char::is_control)
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A word of a shell command.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    match word.bytes().all(plain) && !word.starts_with('-') {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The folder in which the tools of the hub keep what they fetched. It is only ever read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    folder: Option<PathBuf>,
}

impl HubCache {
    /// The cache of this environment: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `$HF_HOME/hub`, else
    /// `$XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`. An empty variable counts as not set, a leading
    /// `~/` stands for `$HOME`. Without any of them there is no cache, and `hf:` references are not found.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// The cache in `folder`, whatever the environment says.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = set("HOME");
        let folder = |name: &str| {
            let folder = set(name)?;
            match (folder.strip_prefix("~"), &home) {
                (Ok(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(folder),
            }
        };
        let below = |cache: PathBuf| cache.join("huggingface/hub");
        let folder = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(folder("HF_HOME")?.join("hub")))
            .or_else(|| folder("XDG_CACHE_HOME").map(below))
            .or_else(|| Some(below(home.as_ref()?.join(".cache"))));
        Self { folder }
    }

    /// The folder, if there is one to look in.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The folder of files that `reference` means, which need not exist; or what is missing on the way to it.
    pub(super) fn snapshot(&self, reference: &HubReference) -> Result<PathBuf, Absent> {
        let Some(folder) = &self.folder else {
            return Err(Absent("there is no hub cache: neither HF_HUB_CACHE nor HF_HOME nor HOME is set".into()));
        };
        let repository = folder.join(format!("models--{}--{}", reference.org, reference.repo));
        let commit = match reference.commit() {
            Some(commit) => commit,
            None => read_ref(&repository.join("refs").join(&reference.revision))?,
        };
        Ok(repository.join("snapshots").join(commit))
    }
}

/// What the cache does not have, for a message that goes on with how to get it.
pub(super) struct Absent(pub(super) String);

/// The commit that a branch or tag stood at when it was fetched.
fn read_ref(path: &Path) -> Result<String, Absent> {
    let mut commit = String::new();
    // A commit and a line end; of anything longer, enough to see that it is longer.
    match open_regular(path).and_then(|(file, _)| file.take(64).read_to_string(&mut commit)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Absent(format!("this revision is not in the hub cache (looked for {})", path.display())));
        }
        Err(e) => return Err(Absent(format!("{}: {e}", path.display()))),
    }
    let commit = commit.trim();
    match is_commit(commit) {
        true => Ok(commit.to_ascii_lowercase()),
        false => Err(Absent(format!("{} does not hold a commit of 40 hexadecimal digits", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> HubReference {
        HubReference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn revisions_and_files() {
        for (text, revision, file, shown) in [
            ("o/r", "main", None, "hf:o/r"),
            ("//o/r@main", "main", None, "hf:o/r"),
            ("o/r/f.gguf", "main", Some("f.gguf"), "hf:o/r/f.gguf"),
            ("o/r@v1/s/f@1.gguf", "v1", Some("s/f@1.gguf"), "hf:o/r@v1/s/f@1.gguf"),
            ("o/r@refs/pr/7/s/f.gguf", "refs/pr/7", Some("s/f.gguf"), "hf:o/r@refs%2Fpr%2F7/s/f.gguf"),
            ("o/r@refs/pr/7", "refs/pr/7", None, "hf:o/r@refs%2Fpr%2F7"),
            ("o/r@a%2Fb%25/f%2F", "a/b%", Some("f%2F"), "hf:o/r@a%2Fb%25/f%2F"),
        ] {
            let hub = parse(text);
            assert_eq!((hub.org(), hub.repo(), hub.revision(), hub.file()), ("o", "r", revision, file), "{text}");
            assert_eq!(hub.to_string(), shown);
        }
    }

    #[test]
    fn nothing_leads_out_of_the_cache() {
        for text in [
            "",
            "o",
            "o/",
            "/r",
            "/o/r",
            "../r",
            "o/..",
            "./r",
            "o/r--s",
            "o--p/r",
            "o-/r",
            "o/-r",
            "o/r..s",
            "o/r s",
            "ö/r",
            "o/r@",
            "o/r@/f",
            "o/r@../f",
            "o/r@..%2F..%2Fx/f",
            "o/r@%2Fetc/f",
            "o/r@a%2F%2Fb/f",
            "o/r@%ff/f",
            "o/r@a%00b/f",
            "o/r/",
            "o/r//f",
            "o/r//etc/passwd",
            "o/r/../f",
            "o/r/a/../../f",
            "o/r/./f",
            "o/r/f/",
            "o/r/a\nb",
            "o/r@refs/pr//f",
        ] {
            let error = HubReference::parse(text).expect_err(text);
            assert!(error.to_string().contains("write hf:org/repo@revision/file.gguf"), "{error}");
        }
        assert!(HubReference::parse(&format!("o/{}", "r".repeat(MAX_NAME))).is_ok());
        assert!(HubReference::parse(&format!("o/{}", "r".repeat(MAX_NAME + 1))).is_err());
    }

    #[test]
    fn commands_can_be_pasted_into_a_shell() {
        for (text, command) in [
            ("o/r", "hf download o/r --include '*.gguf'"),
            ("o/r/f.gguf", "hf download o/r f.gguf"),
            ("o/r@v1/s/it's.gguf", r"hf download o/r 's/it'\''s.gguf' --revision v1"),
            ("o/r/s/m-00002-of-00003.gguf", "hf download o/r --include 's/m-*-of-00003.gguf'"),
            ("o/r/m-00002-of-00003.gguf", "hf download o/r --include 'm-*-of-00003.gguf'"),
            ("o/r/Q4_K_M", "hf download o/r --include 'Q4_K_M/*.gguf'"),
        ] {
            assert_eq!(parse(text).fetch_command(), command);
        }
    }

    #[test]
    fn the_environment_names_the_folder() {
        let all = [
            ("HF_HUB_CACHE", "/1"),
            ("HUGGINGFACE_HUB_CACHE", "/2"),
            ("HF_HOME", "~/3"),
            ("XDG_CACHE_HOME", "/4"),
            ("HOME", "/5"),
        ];
        let expected = ["/1", "/2", "/5/3/hub", "/4/huggingface/hub", "/5/.cache/huggingface/hub"];
        for (first, expected) in expected.iter().enumerate() {
            let cache = HubCache::from_variables(|name| {
                let at = all.iter().position(|(known, _)| *known == name)?;
                Some(if at < first { "" } else { all[at].1 }.into())
            });
            assert_eq!(cache, HubCache::at(expected));
        }
        assert_eq!(HubCache::from_variables(|_| None).folder(), None);
    }
}
