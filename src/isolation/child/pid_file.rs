//! A file that names a child's process, for those who watch from outside.

use crate::process::Process;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Removed when dropped, if it still names the same process.
pub(super) struct PidFile {
    path: PathBuf,
    text: String,
    /// Whose file it is: a forked copy of this leaves it.
    parent: Process,
}

impl PidFile {
    /// Whole or not at all: nobody reads half a number.
    pub(super) fn write(path: &Path, pid: u32) -> io::Result<Self> {
        // The host may change its working directory.
        let path = std::path::absolute(path)?;
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let text = format!("{pid}\n");
        let for_all = Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().prefix(".llamapen-pid-").permissions(for_all).tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path)?;
        Ok(Self { path, text, parent: Process::current() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = || std::fs::read_to_string(&self.path).is_ok_and(|found| found == self.text);
        if self.parent.check().is_ok() && ours() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_process_until_it_is_dropped_and_the_next_one_s_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.pid");
        let first = PidFile::write(&path, 123).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "123\n");
        let second = PidFile::write(&path, 124).unwrap();
        drop(first);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "124\n");
        drop(second);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(PidFile::write(&folder.path().join("none/worker.pid"), 1).is_err());
    }
}
