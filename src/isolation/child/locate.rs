//! What a worker's process would run. Decides and does nothing: `prepare` asks, too.

use super::entry;
use super::objects::{self, HEAD_BYTES, Object};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Names the program to run as a worker.
pub(crate) const VARIABLE: &str = "LLAMAPEN_WORKER";
const PROGRAM: &str = "llamapen-worker";
const SELF: &str = "/proc/self/exe";

/// What a worker's process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Located {
    /// The library that this code is in, by the embedded launcher.
    Library(Library),
    /// A program, or this one again.
    Program(PathBuf),
}

/// A library as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Library {
    pub(super) path: PathBuf,
    identity: Identity,
    /// The loader that this process runs under.
    pub(super) interpreter: Option<PathBuf>,
    /// What it needs and the launcher may not find by itself.
    pub(super) needs: Vec<PathBuf>,
}

/// Device, inode, size and time of the last change.
type Identity = (u64, u64, u64, i64, i64);

/// Why nothing can be run as a worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotLocated {
    #[error("{by} names {}, which cannot be used as a worker: {problem}", path.display())]
    Unusable { by: &'static str, path: PathBuf, problem: String },
    #[error(
        "{} was deleted or replaced on disk after this process had loaded it, so no worker can be started from it",
        path.display()
    )]
    Replaced { path: PathBuf },
    #[error("the library {} cannot be read, so no worker can be started from it: {problem}", path.display())]
    Unreadable { path: PathBuf, problem: String },
    #[error("the file that llamapen was loaded from is unknown (is /proc mounted?)")]
    UnknownLibrary,
    #[error("llamapen is linked into this program, and there is no worker for it: no {}", list(looked))]
    NoWorker { looked: Vec<PathBuf> },
}

impl NotLocated {
    /// What to do about it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Unusable { .. } => "name the llamapen-worker of the same version",
            Self::Replaced { .. } => "restart the program",
            Self::Unreadable { .. } => "let this user read it, or set LLAMAPEN_WORKER to a llamapen-worker",
            Self::UnknownLibrary => "set LLAMAPEN_WORKER to a llamapen-worker",
            Self::NoWorker { .. } => {
                "call llamapen_worker_main_if_child() (in Rust llamapen::worker_main_if_child()) at the top of main, put the \
                 llamapen-worker of the same version there, or name one in LLAMAPEN_WORKER"
            }
        }
    }

    /// With what to do.
    pub(crate) fn in_full(&self) -> String {
        format!("{self}; {}", self.remedy())
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", no ")
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(library) => write!(f, "{}, by the embedded launcher", library.path.display()),
            Self::Program(path) if path == Path::new(SELF) => f.write_str("this program again"),
            Self::Program(path) => path.display().fmt(f),
        }
    }
}

/// `configured`: a program that the configuration names.
pub(crate) fn locate(configured: Option<&Path>) -> Result<Located, NotLocated> {
    let loaded = objects::loaded();
    let here = Here {
        configured,
        variable: std::env::var_os(VARIABLE).filter(|value| !value.is_empty()),
        loaded: &loaded,
        program: std::fs::read_link(SELF).ok(),
        asked: entry::is_asked(),
    };
    here.decide()
}

/// What the decision is made of.
struct Here<'a> {
    configured: Option<&'a Path>,
    variable: Option<OsString>,
    loaded: &'a [Object],
    /// The file that this process was started from.
    program: Option<PathBuf>,
    asked: bool,
}

impl Here<'_> {
    fn decide(&self) -> Result<Located, NotLocated> {
        if let Some(path) = self.configured {
            return named("the configuration", path);
        }
        if let Some(path) = &self.variable {
            return named(VARIABLE, Path::new(path));
        }
        match self.loaded.iter().find(|object| object.is_ours) {
            Some(ours) if !ours.is_program => self.library(ours).map(Located::Library),
            Some(ours) => self.linked(ours),
            None => Err(NotLocated::UnknownLibrary),
        }
    }

    fn library(&self, ours: &Object) -> Result<Library, NotLocated> {
        let path = ours.path.clone().ok_or(NotLocated::UnknownLibrary)?;
        if ours.deleted {
            return Err(NotLocated::Replaced { path });
        }
        let unreadable = |e: io::Error| NotLocated::Unreadable { path: path.clone(), problem: e.to_string() };
        let mut head = Vec::new();
        let file = File::open(&path).map_err(unreadable)?;
        (&file).take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
        // Numbers of files are no help here: overlays and snapshots tell others of what is mapped.
        if !head.starts_with(&ours.head) {
            return Err(NotLocated::Replaced { path });
        }
        let identity = identity(&path).map_err(unreadable)?;
        Ok(Library { path, identity, interpreter: objects::interpreter(), needs: needs(self.loaded) })
    }

    fn linked(&self, ours: &Object) -> Result<Located, NotLocated> {
        if self.asked {
            // Under a loader that was started by name, the program is another file.
            let other =
                ours.path.as_ref().filter(|path| self.program.as_ref().is_none_or(|p| p != *path) && !ours.deleted);
            return Ok(Located::Program(other.cloned().unwrap_or(SELF.into())));
        }
        // Tests and examples of Cargo are a folder below.
        let folders = self.program.iter().chain(&ours.path).next().map(|path| path.ancestors().skip(1).take(2));
        let looked: Vec<_> = folders.into_iter().flatten().map(|folder| folder.join(PROGRAM)).collect();
        match looked.iter().find(|path| usable(path).is_ok()) {
            Some(path) => Ok(Located::Program(path.clone())),
            None => Err(NotLocated::NoWorker { looked }),
        }
    }
}

impl Library {
    /// It is still the file that was found.
    pub(super) fn check(&self) -> Result<(), NotLocated> {
        match identity(&self.path) {
            Ok(found) if found == self.identity => Ok(()),
            _ => Err(NotLocated::Replaced { path: self.path.clone() }),
        }
    }
}

fn named(by: &'static str, path: &Path) -> Result<Located, NotLocated> {
    let unusable = |problem| NotLocated::Unusable { by, path: path.into(), problem };
    // The host may change its working directory.
    let path = std::path::absolute(path).map_err(|e| unusable(e.to_string()))?;
    usable(&path).map_err(unusable)?;
    Ok(Located::Program(path))
}

fn usable(path: &Path) -> Result<(), String> {
    let found = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !found.is_file() {
        return Err("it is not a file".into());
    }
    match found.permissions().mode() & 0o111 {
        0 => Err("it is not executable (chmod +x)".into()),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

/// The compilers' libraries that the host uses, in the order in which one needs the other.
fn needs(loaded: &[Object]) -> Vec<PathBuf> {
    let first = |name: &str| {
        let mut paths =
            loaded.iter().filter(|object| !object.is_program && !object.deleted).filter_map(|o| o.path.as_ref());
        paths.find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))).cloned()
    };
    ["libgcc_s.so", "libstdc++.so"].into_iter().filter_map(first).collect()
}

#[cfg(test)]
impl Library {
    /// As if this process had loaded it.
    pub(super) fn at(path: &Path) -> Self {
        let loaded = objects::loaded();
        let mut ours = loaded[0].clone();
        (ours.path, ours.head) = (Some(path.into()), vec![]);
        Here { configured: None, variable: None, loaded: &loaded, program: None, asked: false }.library(&ours).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};

    fn program(path: &Path) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(path, "#!").unwrap();
        set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        path.into()
    }

    fn object(path: &Path, is_program: bool) -> Object {
        Object { path: Some(path.into()), deleted: false, head: b"head".into(), is_program, is_ours: true }
    }

    fn here(loaded: &[Object]) -> Here<'_> {
        Here { configured: None, variable: None, loaded, program: None, asked: false }
    }

    #[test]
    fn what_is_named_comes_first_and_must_be_a_program() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| program(&folder.path().join(name)));
        let mut here = here(&[]);
        here.variable = Some(two.clone().into());
        assert_eq!(here.decide(), Ok(Located::Program(two)));
        here.configured = Some(&one);
        assert_eq!(here.decide(), Ok(Located::Program(one.clone())));

        let text = |path: &Path| named("the configuration", path).unwrap_err().to_string();
        let (here_folder, none, plain) = (folder.path(), folder.path().join("none"), folder.path().join("plain"));
        write(&plain, "").unwrap();
        assert!(text(here_folder).contains("not a file"));
        assert!(text(&none).contains("the configuration names") && text(&none).contains("No such file"));
        assert!(text(&plain).contains("chmod +x"));
    }

    #[test]
    fn a_library_is_run_again_unless_it_is_another_file_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libllamapen.so");
        write(&path, "head, body").unwrap();
        let mut ours = object(&path, false);
        let decide = |ours: &Object| here(std::slice::from_ref(ours)).decide();
        let Ok(Located::Library(library)) = decide(&ours) else { panic!("{:?}", decide(&ours)) };
        assert_eq!((&library.path, library.check()), (&path, Ok(())));
        assert!(library.interpreter.unwrap().is_file());

        let error = NotLocated::Replaced { path: path.clone() };
        let replaced = Err(error.clone());
        ours.deleted = true;
        assert_eq!(decide(&ours), replaced);
        ours.deleted = false;
        let other = folder.path().join("other");
        write(&other, "hear, body").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(decide(&ours), replaced);
        assert!(error.in_full().ends_with("; restart the program"));

        std::fs::remove_file(&path).unwrap();
        assert!(matches!(decide(&ours), Err(NotLocated::Unreadable { .. })));
        ours.path = None;
        assert_eq!(decide(&ours), Err(NotLocated::UnknownLibrary));
        assert_eq!(here(&[]).decide(), Err(NotLocated::UnknownLibrary));
    }

    #[test]
    fn a_library_that_is_replaced_later_is_noticed_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libllamapen.so");
        write(&path, "same").unwrap();
        let library = Library::at(&path);
        assert_eq!(library.check(), Ok(()));
        let other = folder.path().join("other");
        write(&other, "same").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(library.check(), Err(NotLocated::Replaced { path: path.clone() }));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(library.check(), Err(NotLocated::Replaced { path }));
    }

    #[test]
    fn a_program_is_its_own_worker_if_it_said_so_or_has_one_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target/deps/host");
        let ours = [object(&path, true)];
        let mut here = Here { program: Some(path.clone()), ..here(&ours) };
        let missing = here.decide().unwrap_err();
        assert!(matches!(&missing, NotLocated::NoWorker { looked } if looked.len() == 2), "{missing}");
        for worker in ["target/llamapen-worker", "target/deps/llamapen-worker"] {
            let worker = program(&folder.path().join(worker));
            assert_eq!(here.decide(), Ok(Located::Program(worker)));
        }
        here.asked = true;
        assert_eq!(here.decide(), Ok(Located::Program(SELF.into())));
        here.program = Some("/lib/ld.so".into());
        assert_eq!(here.decide(), Ok(Located::Program(path)));
    }

    #[test]
    fn the_compilers_libraries_are_the_host_s() {
        let objects = ["/host", "/env/lib/libstdc++.so.6.0.33", "/lib/libstdc++.so.6", "/env/lib/libgcc_s.so.1"];
        let mut objects = objects.map(|path| object(Path::new(path), path == "/host"));
        let found = |objects: &[Object]| needs(objects).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(found(&objects), ["/env/lib/libgcc_s.so.1", "/env/lib/libstdc++.so.6.0.33"]);
        objects[3].deleted = true;
        assert_eq!(found(&objects), ["/env/lib/libstdc++.so.6.0.33"]);
        let here = locate(None);
        assert!(matches!(here, Ok(Located::Program(_)) | Err(NotLocated::NoWorker { .. })), "{here:?}");
    }
}
