"""`Lease`: a promise to a session that the supervisor stays while it lasts."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Dict, Optional, Sequence, Type

from ._library import Handle, create
from .errors import PoolUnavailable
from .stream import TokenStream, submit


class Lease:
    """For a session or a connection that will submit several requests; a context manager. Any thread may use it.

    Until it is given back, `Supervisor.drain` waits for it, up to the drain's deadline, and `submit` goes on being accepted
    meanwhile. Requests need none. It may outlive its supervisor.
    """

    def __init__(self, handle: Handle) -> None:
        """Takes over ``handle``; use `Supervisor.lease` instead."""
        self._handle: Optional[Handle] = handle

    def submit(
        self,
        prompt: Optional[str] = None,
        *,
        messages: Optional[Sequence[Dict[str, str]]] = None,
        tokens: Optional[Sequence[int]] = None,
        **params: Any,
    ) -> TokenStream:
        """As `Supervisor.submit`, and accepted while the supervisor drains, too."""
        handle = self._handle
        if handle is None:
            raise PoolUnavailable(205, "POOL_UNAVAILABLE", "the lease was given back", policy="state")
        return submit("llamapen_lease_submit", handle, {"prompt": prompt, "messages": messages, "tokens": tokens, **params})

    def release(self) -> None:
        """Gives it back; once a call of `submit` in another thread has returned. May be repeated."""
        self._handle = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.release()


def acquire(supervisor: Handle) -> Lease:
    """Takes a lease on the supervisor behind a handle."""
    return Lease(create("llamapen_lease_acquire", "llamapen_lease_free", supervisor.pointer))
