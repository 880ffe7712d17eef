//! The embedded launcher as a file that can be executed: in memory, or on disk where the system executes nothing else.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// Compiled by `build/launcher.rs`.
static LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/llamapen-launcher"));

/// Where the launcher is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Memory,
    Folder(PathBuf),
    /// A folder of its own below this one.
    Private(PathBuf),
}

/// In the order in which they are tried for a library.
pub(super) fn places(library: &Path) -> Vec<Place> {
    // Beside the library something is executed already; a temporary folder may be mounted without that.
    let beside = library.parent().map(|folder| Place::Folder(folder.into()));
    [Some(Place::Memory), beside, Some(Place::Private(std::env::temp_dir()))].into_iter().flatten().collect()
}

/// Is there until it is dropped, which may be as soon as it is running.
pub(super) struct Executable {
    pub(super) path: PathBuf,
    _keeps: Keeps,
}

#[allow(dead_code, reason = "kept for what dropping them does")]
enum Keeps {
    Memory(OwnedFd),
    File(TempPath, Option<tempfile::TempDir>),
}

impl Executable {
    /// `interpreter`: the loader to run it under, where it is known.
    pub(super) fn new(place: &Place, interpreter: Option<&Path>) -> io::Result<Self> {
        let program = with_interpreter(LAUNCHER, interpreter);
        match place {
            Place::Memory => in_memory(&program),
            Place::Folder(folder) => Ok(Self::on_disk(on_disk(&program, folder)?, None)),
            Place::Private(below) => {
                let folder = tempfile::Builder::new().prefix("llamapen-").tempdir_in(below)?;
                Ok(Self::on_disk(on_disk(&program, folder.path())?, Some(folder)))
            }
        }
    }

    fn on_disk(file: TempPath, private: Option<tempfile::TempDir>) -> Self {
        Self { path: file.to_path_buf(), _keeps: Keeps::File(file, private) }
    }
}

fn in_memory(program: &[u8]) -> io::Result<Executable> {
    let mut file = std::fs::File::from(memory()?);
    file.write_all(program)?;
    // Nobody changes what is about to run. Where that cannot be had, it is as safe as a file.
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: a system call without memory on a descriptor that is ours.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    Ok(Executable { path, _keeps: Keeps::Memory(file.into()) })
}

/// A new file in memory, closed on exec.
fn memory() -> io::Result<OwnedFd> {
    let create = |flags| {
        // SAFETY: the name ends with NUL; the new descriptor is nobody else's.
        unsafe {
            let fd = libc::memfd_create(c"llamapen-worker".as_ptr(), flags);
            if fd >= 0 { Ok(OwnedFd::from_raw_fd(fd)) } else { Err(io::Error::last_os_error()) }
        }
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Older kernels do not know that a file may be said to be executable, which all are there.
    let made = match create(flags | libc::MFD_EXEC) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => create(flags),
        made => made,
    }?;
    // A host without stdin: the child's would take this one's number before it is executed.
    match made.as_raw_fd() {
        ..=libc::STDERR_FILENO => made.as_fd().try_clone_to_owned(),
        _ => Ok(made),
    }
}

fn on_disk(program: &[u8], folder: &Path) -> io::Result<TempPath> {
    let mut file = tempfile::Builder::new()
        .prefix(".llamapen-worker-")
        .permissions(Permissions::from_mode(0o700))
        .tempfile_in(folder)?;
    file.write_all(program)?;
    // Closed: what is open for writing is not executed.
    Ok(file.into_temp_path())
}

/// The launcher with another loader than the one it was built for. The build leaves room for that: slashes in front of the
/// path, which mean nothing.
fn with_interpreter(launcher: &[u8], interpreter: Option<&Path>) -> Vec<u8> {
    const SLASHES: usize = 200;
    let mut program = launcher.to_vec();
    let room = program.windows(SLASHES).position(|bytes| bytes.iter().all(|&byte| byte == b'/'));
    let path = interpreter.map(Path::as_os_str).map(OsStr::as_bytes);
    if let (Some(start), Some(path)) = (room, path) {
        let length = program[start..].iter().position(|&byte| byte == 0).unwrap_or(0);
        // It ends with NUL, and more of them are ignored.
        if !path.is_empty() && path.len() <= length {
            program[start..start + length].fill(0);
            program[start..start + path.len()].copy_from_slice(path);
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn says_what_it_is(executable: &Executable) {
        let output = Command::new(&executable.path).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("part of llamapen"), "{output:?}");
    }

    #[test]
    fn it_runs_from_memory_and_from_folders_and_leaves_nothing_there() {
        let folder = tempfile::tempdir().unwrap();
        for place in [Place::Memory, Place::Folder(folder.path().into()), Place::Private(folder.path().into())] {
            for interpreter in [None, super::super::objects::interpreter().as_deref()] {
                says_what_it_is(&Executable::new(&place, interpreter).unwrap());
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Executable::new(&Place::Folder(folder.path().join("none")), None).is_err());
    }

    #[test]
    fn it_runs_under_the_loader_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let loader = folder.path().join("a loader");
        let executable = Executable::new(&Place::Memory, Some(&loader)).unwrap();
        let missing = Command::new(&executable.path).output().unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink(super::super::objects::interpreter().unwrap(), &loader).unwrap();
        says_what_it_is(&executable);
        // One that is too long is left out.
        let long = PathBuf::from(format!("/{}", "x".repeat(1000)));
        says_what_it_is(&Executable::new(&Place::Memory, Some(&long)).unwrap());
    }

    #[test]
    fn nobody_can_change_it() {
        let executable = Executable::new(&Place::Memory, None).unwrap();
        let open = std::fs::File::options().write(true).open(&executable.path);
        assert!(open.and_then(|mut file| file.write_all(b"x")).is_err());
    }
}
