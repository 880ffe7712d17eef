"""`TokenStream`: the events of one request."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import threading
from typing import Any, AsyncIterator, Dict, Iterator, Optional

from ._library import END, TIMEOUT, CEvent, Handle, call, call_text_if_any, create, encode
from ._wait import SLICE_S, wait
from .errors import Busy, Forked
from .events import Event, Failed, Finished, Token, event_from_c


class TokenStream(Iterator[Event], AsyncIterator[Event]):
    """The events of one request, by ``for``, ``async for`` or `next`.

    One thread or task at a time takes events, another gets `Busy`; `cancel` may come from any. Letting go of a stream
    cancels its request. A stream may outlive its supervisor.
    """

    def __init__(self, handle: Handle) -> None:
        """Takes over ``handle``; use `Supervisor.submit` instead."""
        self._handle = handle
        # From the call until its event is copied: the next call would invalidate what is being read.
        self._taking = threading.Lock()
        self._process = os.getpid()

    def next(self, timeout: Optional[float] = None) -> Optional[Event]:
        """Waits for the next event; ``None`` once the last one has been given.

        ``timeout``: seconds, after which ``TimeoutError`` is raised and nothing is lost; ``None`` waits without a limit.
        """
        event = CEvent(struct_size=ctypes.sizeof(CEvent))

        def step(ms: int) -> int:
            return call("llamapen_request_next", self._handle.pointer, ms, ctypes.byref(event))

        if not self._taking.acquire(blocking=False):
            if self._process != os.getpid():
                # Held by a thread of the parent: this would stay busy for ever.
                raise Forked(102, "FORKED", "this stream was made before a fork and cannot be used in the child process")
            raise Busy(101, "BUSY", "another thread is waiting for the next event of this request", True)
        try:
            return None if wait(step, timeout) == END else event_from_c(event)
        finally:
            self._taking.release()

    def cancel(self) -> None:
        """Ends the request; its last event is `Failed` with `Cancelled`, unless it had ended before. Any thread."""
        call("llamapen_request_cancel", self._handle.pointer)

    @property
    def record(self) -> Optional[Dict[str, Any]]:
        """What ran, with which parameters, how long and how it ended: versions, digests, ``seed``, ``parameters``,
        ``usage``, ``timings``, ``reason`` or ``status``. No text of prompt or answer. ``None`` until it has ended."""
        record = call_text_if_any("llamapen_request_record_json", self._handle.pointer)
        return None if record is None else json.loads(record)

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> Event:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> Event:
        """Waits in a thread of the loop's default executor. Cancelling the task cancels the request."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                # In slices: more streams than the executor has threads take turns, and none outlives its loop.
                try:
                    event = await loop.run_in_executor(None, self.next, SLICE_S)
                except TimeoutError:
                    continue
                if event is None:
                    raise StopAsyncIteration
                return event
        except asyncio.CancelledError:
            self.cancel()
            raise

    def pieces(self) -> Iterator[str]:
        """The generated text, piece by piece. Raises `LlamapenError` where the request fails."""
        for event in self:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, (Token, Finished)) and event.text:
                yield event.text

    def text(self) -> str:
        """The whole generated text. Raises `LlamapenError` where the request fails."""
        return "".join(self.pieces())


def submit(name: str, owner: Handle, request: Dict[str, Any]) -> TokenStream:
    """Has ``name`` submit a request to ``owner``, a supervisor or a lease."""
    encoded = encode(request)
    return TokenStream(create(name, "llamapen_request_free", owner.pointer, encoded, len(encoded)))
