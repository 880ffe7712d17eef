//! Opening a file that somebody named, without ever waiting for it.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens the regular file at `path` for reading, and says what it is.
///
/// Opening a named pipe would wait for a writer, and opening some devices does something, so it is looked at first. It
/// may be replaced between the two steps: then `O_NONBLOCK` keeps the opening from waiting, and a second look refuses it.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let regular = |found: Metadata| match found.is_file() {
        true => Ok(found),
        false if found.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory")),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")),
    };
    regular(fs::metadata(path)?)?;
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let found = regular(file.metadata()?)?;
    Ok((file, found))
}
