"""`HandoffWatcher`: the handoff records in a directory, as they appear, change and disappear."""

from __future__ import annotations

import ctypes
import json
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Dict, List, Optional, Type, Union

from ._library import Handle, call, call_text, create, take_text
from ._wait import wait
from .errors import InvalidParams


@dataclass(frozen=True)
class HandoffChange:
    """What became of a handoff record."""

    #: ``appeared``, ``changed`` (the same pool and replica is ready anew), ``gone`` (the file is removed, or the process has
    #: ended) or ``problem`` (a file of that name is no record; what was known stays).
    change: str
    #: What it says, as `Supervisor.handoff` gives it; ``None`` of a problem.
    record: Optional[Dict[str, Any]] = None
    #: The file of a problem.
    path: Optional[str] = None
    #: What is wrong with it.
    problem: Optional[str] = None


class HandoffWatcher:
    """Watches a directory that supervisors write their handoff records to (``handoff_dir``); a context manager.

    It has no thread: it looks while `next` is called. One thread at a time: a second one gets `Busy`. It must see the same
    processes as those that write there (the same PID namespace).
    """

    def __init__(self, directory: Union[str, "os.PathLike[str]"]) -> None:
        """Raises `InvalidParams` if there is no such directory."""
        path = os.fspath(directory).encode()
        self._handle: Optional[Handle] = create(
            "llamapen_handoff_watcher_open", "llamapen_handoff_watcher_free", path, len(path)
        )

    def next(self, timeout: Optional[float] = None) -> HandoffChange:
        """The next change, each once. Raises ``TimeoutError`` when there is none within ``timeout`` seconds (``None``: no
        limit); Ctrl-C ends the waiting."""
        handle = self._open()
        text = ctypes.c_void_p()
        wait(lambda ms: call("llamapen_handoff_watcher_next", handle.pointer, ms, ctypes.byref(text)), timeout)
        return HandoffChange(**json.loads(take_text(text)))

    def bind(self, record: Dict[str, Any]) -> bool:
        """Takes note of a record that came another way. True if it is newer than what is known of its pool and replica, and
        its process lives: then it is not given as a change any more. The same record again is no news. Raises
        `InvalidParams` for one that is not valid."""
        handle, news, text = self._open(), ctypes.c_int32(), json.dumps(record).encode()
        call("llamapen_handoff_watcher_bind", handle.pointer, text, len(text), ctypes.byref(news))
        return bool(news.value)

    def records(self) -> List[Dict[str, Any]]:
        """What is known and not gone, by pool and replica, as of the last look."""
        handle = self._open()
        records: List[Dict[str, Any]] = json.loads(call_text("llamapen_handoff_watcher_records_json", handle.pointer))
        return records

    def close(self) -> None:
        """Frees it."""
        self._handle = None

    def __enter__(self) -> HandoffWatcher:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _open(self) -> Handle:
        handle = self._handle
        if handle is None:
            raise InvalidParams(100, "INVALID_PARAMS", "the watcher is closed")
        return handle
