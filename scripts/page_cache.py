"""Whether a file is in the page cache, and making it so."""

import contextlib
import ctypes
import mmap
import os
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def own_copy(path):
    """A copy that no other process has open: what is mapped stays in the cache."""
    with tempfile.TemporaryDirectory(dir=Path(path).parent, prefix="bench-") as folder:
        copy = Path(folder) / Path(path).name
        shutil.copyfile(path, copy)
        yield copy


def drop(path):
    """How much of it stays all the same, 0 to 1: what somebody has mapped."""
    with open(path, "rb") as file:
        # What was not written yet cannot be dropped.
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_share(path)


def fill(path):
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def cached_share(path):
    """How much of the file is in the page cache, 0 to 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapped)), pages)
        # The mapping cannot be closed while it is referred to.
        del first
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(page & 1 for page in pages) / len(pages)
