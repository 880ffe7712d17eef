"""Waiting that Ctrl-C can interrupt."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Callable, List, Optional

from ._library import TIMEOUT

# A signal is noticed by Python only between two calls into the library: longer slices would delay Ctrl-C.
SLICE_S = 0.2


def wait(step: Callable[[int], int], timeout: Optional[float]) -> int:
    """Calls ``step`` with milliseconds until it returns another status than TIMEOUT, and returns that.

    Raises ``TimeoutError`` after ``timeout`` seconds; ``None`` waits without a limit.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = SLICE_S if deadline is None else max(0.0, deadline - time.monotonic())
        status = step(math.ceil(min(SLICE_S, left) * 1000))
        if status != TIMEOUT:
            return status
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"nothing happened within {timeout} s")


def milliseconds(timeout: Optional[float]) -> int:
    """A limit in seconds as the library takes it; ``None``: none."""
    return -1 if timeout is None else max(0, math.ceil(min(timeout, 1e9) * 1000))


def in_thread(function: Callable[[], Any]) -> Any:
    """Runs a call that waits as a whole in a thread of its own. Ctrl-C ends the wait for it, and it goes on."""
    results: List[Any] = []
    errors: List[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="llamapen-wait", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(SLICE_S)
    if errors:
        raise errors[0]
    return results[0]
