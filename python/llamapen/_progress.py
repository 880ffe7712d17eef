"""Long work that tells how far it has come, and that Ctrl-C and exceptions end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Callable, Optional, Tuple, TypeVar

from ._library import CProgress

T = TypeVar("T")
#: Told the bytes that were read and all there are. ``False`` ends the work with `Cancelled`, an exception with itself.
Progress = Callable[[int, int], object]


def run(work: Callable[[Any], T], progress: Optional[Progress]) -> T:
    """The result of ``work``, which is given the callback for the library. Calls ``progress`` on the caller's thread.

    The work has a thread of its own. On this one, Python would run signal handlers as soon as the library calls back,
    before any ``try`` of the callback's: ctypes prints such an exception and drops it, and Ctrl-C would do nothing.
    """
    reports: SimpleQueue[Optional[Tuple[int, int]]] = SimpleQueue()
    ends: SimpleQueue[bool] = SimpleQueue()

    @CProgress
    def told(done_bytes: int, total_bytes: int, _user: object) -> bool:
        reports.put((done_bytes, total_bytes))
        return ends.get()

    with ThreadPoolExecutor(1, "llamapen-digest") as pool:
        try:
            result = pool.submit(work, told)
            result.add_done_callback(lambda _: reports.put(None))
            while (report := reports.get()) is not None:
                ends.put(progress is not None and progress(*report) is False)
        except BaseException:
            # At its next report. Leaving the pool waits for that.
            ends.put(True)
            raise
        return result.result()
