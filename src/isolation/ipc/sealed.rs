//! Files in memory that nobody can change any more.

use super::error::IpcError;
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What keeps bytes and length as they are.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// A sealed file and its length. It is read, never mapped: whatever the other side does, that is an error and no SIGBUS.
#[derive(Debug, Clone)]
pub(super) struct SealedFile {
    file: Arc<File>,
    len: u64,
}

impl SealedFile {
    pub(super) fn new(bytes: &[u8]) -> io::Result<Self> {
        let mut file = File::from(create()?);
        file.write_all(bytes)?;
        fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
        Ok(Self { file: Arc::new(file), len: bytes.len() as u64 })
    }

    /// Of a descriptor that the other side sent: only if it is sealed, and as long as was announced.
    pub(super) fn receive(file: OwnedFd, len: u64) -> Result<Self, IpcError> {
        let wrong = |text: String| Err(IpcError::Descriptor(text));
        match fcntl_get_seals(&file) {
            Ok(seals) if seals.contains(SEALS) => {}
            Ok(_) => return wrong("it is not sealed, so it could change at any time".into()),
            Err(error) => return wrong(format!("it is no file in memory ({error})")),
        }
        let stat = fstat(&file).map_err(|error| IpcError::io("the state of a file that was sent along", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return wrong("it is no regular file".into());
        }
        if u64::try_from(stat.st_size) != Ok(len) {
            return wrong(format!("it has {} bytes, {len} were announced", stat.st_size));
        }
        Ok(Self { file: Arc::new(file.into()), len })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// All of it. Both sides share the offset of the file, so each read says where.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        while bytes.len() < len {
            let at = bytes.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }
}

/// An empty file that can be sealed, and not executed where the kernel (6.3) knows of that.
pub(super) fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("llamapen", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create("llamapen", flags)?),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn unsealed(bytes: &[u8]) -> File {
        let mut file = File::from(create().unwrap());
        file.write_all(bytes).unwrap();
        file
    }

    fn refusal(file: impl Into<OwnedFd>, len: u64) -> String {
        match SealedFile::receive(file.into(), len) {
            Err(IpcError::Descriptor(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_sealed_is_read_again_and_cannot_change() {
        let sealed = SealedFile::new(b"state").unwrap();
        assert_eq!(sealed.read().unwrap(), b"state");
        let file = sealed.file();
        assert!(file.write_all_at(b"x", 0).is_err() && file.set_len(1).is_err() && file.set_len(9).is_err());
        let received = SealedFile::receive(file.try_clone().unwrap().into(), 5).unwrap();
        assert_eq!(received.read().unwrap(), b"state");
    }

    #[test]
    fn only_sealed_files_of_the_announced_length_are_taken() {
        assert!(refusal(unsealed(b"state"), 5).contains("not sealed"));
        for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW] {
            let file = unsealed(b"state");
            fcntl_add_seals(&file, SEALS.difference(missing)).unwrap();
            assert!(refusal(file, 5).contains("not sealed"), "{missing:?}");
        }
        let sealed = SealedFile::new(b"state").unwrap();
        for len in [0, 4, 6, u64::MAX] {
            assert!(refusal(sealed.file().try_clone().unwrap(), len).contains("it has 5 bytes"));
        }
        for path in ["/dev/null", "/proc/self/exe", "/"] {
            assert!(refusal(File::open(path).unwrap(), 0).contains("no file in memory"), "{path}");
        }
        assert!(refusal(io::pipe().unwrap().0, 0).contains("no file in memory"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let sealed = SealedFile::new(b"state").unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&**sealed.file()));
        // Sealed, so it can be opened for writing, though not written to.
        let blind = File::options().write(true).open(path).unwrap();
        assert!(SealedFile::receive(blind.into(), 5).unwrap().read().is_err());
    }
}
