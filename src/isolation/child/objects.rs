//! What is loaded in this process: the program, and the libraries, with the files that they are from.
//!
//! The loader's own names may be relative to a folder that the host has left since; the kernel's are absolute and tell what
//! was deleted.

use std::ffi::{CStr, OsString, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The first page of a file: its headers, in which two builds differ.
pub(super) const HEAD_BYTES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// `None`: not known, or not within this process's root.
    pub path: Option<PathBuf>,
    /// The file is not there any more, or another one is in its place.
    pub deleted: bool,
    /// The first bytes of the file as they were loaded.
    pub head: Vec<u8>,
    /// It is the program, not a library.
    pub is_program: bool,
    /// This code is in it.
    pub is_ours: bool,
}

/// All of them, in the order in which names are looked up.
pub(super) fn loaded() -> Vec<Object> {
    let mut found: Vec<Found> = Vec::new();
    // SAFETY: the callback has the signature that is wanted, and the vector is there for as long as the call takes.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut found).cast()) };
    let maps = maps();
    let objects = found.into_iter().enumerate().map(|(index, found)| {
        let (path, deleted) = match file_at(&maps, found.start) {
            Some((path, deleted)) => (Some(path), deleted),
            None => (Path::new(&found.name).is_absolute().then(|| found.name.into()), false),
        };
        Object { path, deleted, head: found.head, is_program: index == 0, is_ours: found.is_ours }
    });
    objects.collect()
}

/// The file that this code is in: the library, or the program that it is linked into.
pub(crate) fn own_file() -> Option<PathBuf> {
    loaded().into_iter().find(|object| object.is_ours)?.path
}

/// The loader that runs this process, which its children need too: a system without the usual folders has it elsewhere.
pub(super) fn interpreter() -> Option<PathBuf> {
    // SAFETY: a call without memory.
    let base = unsafe { libc::getauxval(libc::AT_BASE) } as usize;
    match base {
        // The loader was started by name, as the program.
        0 => std::fs::read_link("/proc/self/exe").ok(),
        _ => file_at(&maps(), base).filter(|(_, deleted)| !deleted).map(|(path, _)| path),
    }
}

struct Found {
    name: OsString,
    start: usize,
    head: Vec<u8>,
    is_ours: bool,
}

unsafe extern "C" fn add(info: *mut libc::dl_phdr_info, _size: usize, found: *mut c_void) -> c_int {
    // SAFETY: the loader gives a valid entry, and `loaded` its vector.
    let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<Found>>()) };
    // SAFETY: its name is NULL or ends with NUL, and it has so many headers.
    let (name, headers) = unsafe {
        let name = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
        (name, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    let at = |address: u64| (info.dlpi_addr as usize).wrapping_add(address as usize);
    let here = loaded as *const () as usize;
    let parts = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let is_ours = parts().any(|part| (at(part.p_vaddr)..at(part.p_vaddr + part.p_memsz)).contains(&here));
    let Some(first) = parts().next() else { return 0 };
    let start = at(first.p_vaddr);
    let head = match first.p_offset {
        0 => HEAD_BYTES.min(first.p_filesz as usize),
        _ => 0,
    };
    // SAFETY: the first part of an object is loaded, may be read, and nobody writes to it.
    let head = unsafe { std::slice::from_raw_parts(start as *const u8, head) }.to_vec();
    found.push(Found { name: OsString::from_vec(name.to_bytes().to_vec()), start, head, is_ours });
    0
}

/// The kernel's list of what is mapped; empty where there is no `/proc`.
fn maps() -> Vec<u8> {
    std::fs::read("/proc/self/maps").unwrap_or_default()
}

/// The file that is mapped at an address, and whether it was deleted.
fn file_at(maps: &[u8], address: usize) -> Option<(PathBuf, bool)> {
    let line = maps.split(|&byte| byte == b'\n').find(|line| {
        let range = line.split(|&byte| byte == b' ').next().and_then(|range| std::str::from_utf8(range).ok());
        let ends =
            range.and_then(|range| range.split_once('-')).map(|(a, b)| [a, b].map(|n| usize::from_str_radix(n, 16)));
        matches!(ends, Some([Ok(start), Ok(end)]) if (start..end).contains(&address))
    })?;
    // Nothing before the path has a slash.
    let path = &line[line.iter().position(|&byte| byte == b'/')?..];
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (path, false),
    };
    Some((PathBuf::from(std::ffi::OsStr::from_bytes(path)), deleted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_first_and_this_code_is_in_it() {
        let objects = loaded();
        let (program, libraries) = objects.split_first().unwrap();
        assert_eq!(program.path, Some(std::env::current_exe().unwrap()));
        assert!(program.is_program && program.is_ours && !program.deleted);
        let file = std::fs::read(program.path.as_ref().unwrap()).unwrap();
        assert_eq!(program.head, file[..program.head.len()]);
        assert!(program.head.starts_with(b"\x7fELF"));
        assert!(libraries.iter().all(|library| !library.is_program && !library.is_ours));
        let c = |library: &Object| library.path.as_ref().is_some_and(|path| path.to_string_lossy().contains("libc.so"));
        assert!(libraries.iter().any(c), "{libraries:?}");
    }

    #[test]
    fn the_loader_is_a_file() {
        let loader = interpreter().unwrap();
        assert!(loader.is_file() && loader.to_string_lossy().contains("ld-"), "{loader:?}");
    }

    #[test]
    fn paths_with_spaces_and_what_was_deleted() {
        let maps = b"\
            00400000-00452000 r--p 00000000 08:02 1 /opt/my app/lib (old).so\n\
            7f00000000-7f00001000 r-xp 00000000 08:02 2                /lib/a.so (deleted)\n\
            7f00001000-7f00002000 rw-p 00000000 00:00 0 \n\
            7f00002000-7f00003000 rw-p 00000000 00:00 0                [stack]\n";
        assert_eq!(file_at(maps, 0x451fff), Some(("/opt/my app/lib (old).so".into(), false)));
        assert_eq!(file_at(maps, 0x7f00000000), Some(("/lib/a.so".into(), true)));
        for nothing in [0x452000, 0x7f00001000, 0x7f00002000] {
            assert_eq!(file_at(maps, nothing), None);
        }
        assert_eq!(file_at(b"", 1), None);
    }
}
