//! From a reference to the files of a model: [`locate`].

use super::hub::{Absent, HubCache, HubReference};
use super::open::open_regular;
use super::reference::ModelReference;
use super::split::SplitName;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// How many names a message lists.
const LISTED: usize = 8;
/// How deep the folders of a repository are searched.
const MAX_DEPTH: usize = 8;
/// What the names of GGUF files that are no models contain: projectors and importance matrices.
const NO_MODELS: [&str; 2] = ["mmproj", "imatrix"];

/// The files of one model, found on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelFiles {
    /// What to call the model: its file's name without `.gguf` and without the suffix of a split model. A model from the
    /// hub has its repository before it: `org/repo/name`, with the folders in between and without the revision.
    ///
    /// The name is that of the file itself, not of a link to it, unless the file itself is not called `*.gguf`, like the
    /// blobs of the hub cache.
    pub id: String,
    /// Absolute paths of regular, readable files, the parts of a split model in order. Never empty.
    ///
    /// A single file has no links in its path. The parts of a split model keep the names by which llama.cpp finds them,
    /// even where these are links; the folder they are in has no links in its path.
    pub parts: Vec<PathBuf>,
}

/// Finds the files that `reference` means, without reading them, writing anything or using the network.
///
/// * A file is itself, whatever its name; but one with the name of a split part, `NAME-00001-of-00003.gguf`, stands for
///   all parts, which must lie beside it. Any part may be named.
/// * A folder stands for the one model in it: a `*.gguf` file or a complete split model. Hidden files and those with
///   `mmproj` or `imatrix` in their name are not counted.
/// * A hub reference is looked up in `cache`; without a file, its snapshot is searched, including its folders.
///
/// # Errors
/// `ModelNotFound` with what is there instead or what is missing, and for a hub reference with the command that fetches it;
/// `Unsupported` for remote references; `InvalidParams` for an empty path.
pub fn locate(reference: &ModelReference, cache: &HubCache) -> Result<ModelFiles> {
    match reference {
        ModelReference::Path(path) if path.as_os_str().is_empty() => {
            Err(Error::invalid("model", "the path is empty; name a GGUF file"))
        }
        ModelReference::Path(path) => {
            let found = Found::at(path, false).map_err(|problem| {
                let hint = reference.scheme_hint().unwrap_or_default();
                Error::ModelNotFound { path: path.clone(), problem: format!("{}{hint}", problem.into_text()) }
            })?;
            let id = found.own_name().to_owned();
            Ok(ModelFiles { id, parts: found.parts })
        }
        ModelReference::Hub(hub) => in_cache(hub, cache),
        ModelReference::Remote(remote) => Err(remote.refusal()),
    }
}

fn in_cache(hub: &HubReference, cache: &HubCache) -> Result<ModelFiles> {
    let not_found = |problem| Error::ModelNotFound { path: hub.to_string().into(), problem };
    let absent = |why: String| {
        not_found(format!("{why}. This library never downloads: fetch it with `{}`", hub.fetch_command()))
    };
    let snapshot = cache.snapshot(hub).map_err(|Absent(why)| absent(why))?;
    let target = hub.file().map_or_else(|| snapshot.clone(), |file| snapshot.join(file));
    let found = Found::at(&target, hub.file().is_none()).map_err(|problem| match problem {
        Problem::Missing(_) if fs::symlink_metadata(&target).is_err() => {
            absent(format!("it is not in the hub cache (looked for {})", target.display()))
        }
        Problem::Missing(what) => absent(format!("{}: {what}", target.display())),
        Problem::Wrong(what) => not_found(format!("{}: {what}", target.display())),
    })?;
    let inner = found.named.strip_prefix(&snapshot).ok().and_then(Path::parent).and_then(Path::to_str);
    let folders = inner.filter(|folders| !folders.is_empty()).map(|folders| format!("{folders}/")).unwrap_or_default();
    let id = format!("{}/{}/{folders}{}", hub.org(), hub.repo(), base_name(file_name(&found.named)));
    Ok(ModelFiles { id, parts: found.parts })
}

/// Why there is no model. What is missing can be fetched, what is wrong cannot.
enum Problem {
    Missing(String),
    Wrong(String),
}

impl Problem {
    fn into_text(self) -> String {
        match self {
            Self::Missing(text) | Self::Wrong(text) => text,
        }
    }

    /// In a folder with several files, which one it is.
    fn of(self, name: &str) -> Self {
        match self {
            Self::Missing(text) => Self::Missing(format!("{name}: {text}")),
            Self::Wrong(text) => Self::Wrong(format!("{name}: {text}")),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(error.to_string()),
            _ => Self::Wrong(error.to_string()),
        }
    }
}

/// A model that was found.
struct Found {
    /// The file that was named, or that is the only one in the folder that was named.
    named: PathBuf,
    parts: Vec<PathBuf>,
}

impl Found {
    /// The model at `path`: a file, a part, or a folder, searched with its own folders if `deep`.
    fn at(path: &Path, deep: bool) -> Result<Self, Problem> {
        if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
            let only = only_model(path, deep)?;
            let named = path.join(&only);
            return match files(&named) {
                Ok(parts) => Ok(Self { named, parts }),
                Err(problem) => Err(problem.of(&only)),
            };
        }
        Ok(Self { parts: files(path)?, named: path.to_owned() })
    }

    /// The name of the model by its file, or by what it was called where the file's own name says nothing.
    fn own_name(&self) -> &str {
        match self.parts.first().map(|part| file_name(part)) {
            Some(name) if name.ends_with(".gguf") => base_name(name),
            _ => base_name(file_name(&self.named)),
        }
    }
}

/// All files of the model that the file at `path` belongs to.
fn files(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    if let Some(split) = SplitName::parse(file_name(path)) {
        return split_files(path, split);
    }
    // A missing file, a broken link and a path that is too long are told apart by the system's own words.
    let resolved = path.canonicalize()?;
    if let Some(split) = SplitName::parse(file_name(&resolved)) {
        return split_files(&resolved, split);
    }
    readable(&resolved)?;
    utf8(&resolved)?;
    Ok(vec![resolved])
}

/// All parts of the split model that the file at `path` is called a part of.
fn split_files(path: &Path, split: SplitName) -> Result<Vec<PathBuf>, Problem> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize()?;
    let (mut parts, mut missing) = (Vec::new(), Vec::new());
    for name in split.names() {
        let part = folder.join(&name);
        match readable(&part) {
            Ok(()) => parts.push(part),
            Err(Problem::Missing(_)) => missing.push(name),
            Err(problem) => return Err(problem.of(&name)),
        }
    }
    match parts.first() {
        // Not one: then it is the path that is wrong.
        None => return Err(path.canonicalize().err().map_or_else(|| Problem::Missing("vanished".into()), Into::into)),
        Some(part) => utf8(part)?,
    }
    if !missing.is_empty() {
        let problem = format!("of its {} parts, these are not beside it: {}", split.count, listed(missing.iter()));
        return Err(Problem::Missing(problem));
    }
    // Links whose targets are a set of their own lead to that, so that one model has one path.
    Ok(targets(&parts)?.unwrap_or(parts))
}

/// What `parts` are links to, if llama.cpp would find all of it from the first.
fn targets(parts: &[PathBuf]) -> Result<Option<Vec<PathBuf>>, Problem> {
    let targets = parts.iter().map(|part| part.canonicalize()).collect::<io::Result<Vec<_>>>()?;
    let Some((folder, split)) =
        targets.first().and_then(|first| first.parent().zip(SplitName::parse(file_name(first))))
    else {
        return Ok(None);
    };
    let is_set = split.names().map(|name| folder.join(name)).eq(targets.iter().cloned());
    Ok(is_set.then_some(targets))
}

/// Fails unless there is a regular file that can be opened.
fn readable(path: &Path) -> Result<(), Problem> {
    open_regular(path)?;
    Ok(())
}

/// llama.cpp and JSON take paths as UTF-8 text.
fn utf8(path: &Path) -> Result<(), Problem> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(Problem::Wrong("the path is not UTF-8; rename it or link to it under a UTF-8 name".into())),
    }
}

/// The only model in a folder: the path below `folder` of its file or of its first part.
fn only_model(folder: &Path, deep: bool) -> Result<String, Problem> {
    let mut models = BTreeMap::new();
    collect_models(folder, "", if deep { MAX_DEPTH } else { 0 }, &mut models)?;
    let mut names = models.into_values();
    match (names.next(), names.len()) {
        (None, _) => Err(Problem::Missing("is a directory without a model in it; name a GGUF file".into())),
        (Some(only), 0) => Ok(only),
        (Some(first), _) => {
            let all: Vec<_> = std::iter::once(first).chain(names).collect();
            Err(Problem::Wrong(format!("is a directory with several models; name one of them: {}", listed(all.iter()))))
        }
    }
}

/// Gathers the models below `folder`, which is called `inner` there, by what their parts have in common.
fn collect_models(
    folder: &Path,
    inner: &str,
    depth: usize,
    models: &mut BTreeMap<(String, u16), String>,
) -> Result<(), Problem> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // What is not UTF-8 could not be loaded anyway.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let inner_name = format!("{inner}{name}");
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                collect_models(&entry.path(), &format!("{inner_name}/"), depth - 1, models)?;
            }
            continue;
        }
        if !name.ends_with(".gguf") || NO_MODELS.iter().any(|other| name.contains(other)) {
            continue;
        }
        match SplitName::parse(&name) {
            Some(split) => {
                let first = SplitName { number: 1, ..split };
                models.insert((format!("{inner}{}", split.prefix), split.count), format!("{inner}{first}"));
            }
            None => {
                models.insert((inner_name.clone(), 0), inner_name);
            }
        }
    }
    Ok(())
}

/// The first few of `names`, and how many more there are.
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(LISTED);
    let shown: Vec<_> = names.take(LISTED).map(String::as_str).collect();
    match more {
        0 => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The last component, empty if there is none or it is not UTF-8.
fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// A file name without what only says that it is a model file, or a part of one.
fn base_name(name: &str) -> &str {
    let base = SplitName::parse(name).map_or_else(|| name.strip_suffix(".gguf").unwrap_or(name), |split| split.prefix);
    if base.is_empty() { name } else { base }
}
