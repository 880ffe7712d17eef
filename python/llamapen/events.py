"""What a request reports: `Started`, then `Token`s, then `Finished` or `Failed`, once and last."""

from __future__ import annotations

import ctypes
import json
from array import array
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Union

from ._library import CEvent
from .errors import LlamapenError, error_class


@dataclass(frozen=True)
class Started:
    """A worker took the request and read its prompt."""

    #: Which worker, from 0.
    worker: int
    #: Requests that were before it in the queue.
    queue_position: int
    #: Tokens of the prompt, after the chat template.
    prompt_tokens: int
    #: How many of them were still in the cache.
    cached_tokens: int
    #: Seed in use, given or drawn: submit it again for the same text.
    seed: int


@dataclass(frozen=True)
class Token:
    """One token was generated."""

    #: Counted from 0.
    index: int
    #: Id in the vocabulary.
    token: int
    #: Its text, whole characters only: bytes of an unfinished one are held back for the next token. May be empty.
    text: str
    #: Logits before sampling, one per vocabulary entry, where the request asked for them.
    logits: Optional[array[float]] = field(default=None, repr=False)


@dataclass(frozen=True)
class Restarted:
    """The worker that ran the request failed, and the request goes on in another."""

    #: The event as it came.
    detail: Dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """The request came to its end. The last event."""

    #: ``stop`` (the model ended its text) or ``length`` (``max_tokens`` or the context is used up).
    reason: str
    #: Text that was held back until the end.
    text: str
    #: ``prompt_tokens``, ``completion_tokens``.
    usage: Dict[str, int]
    #: ``queued_ms``, ``prefill_ms``, ``decode_ms``...
    timings: Dict[str, float]


@dataclass(frozen=True)
class Failed:
    """The request failed or was cancelled. The last event."""

    #: Why, as an exception; not raised by iterating over events.
    error: LlamapenError


Event = Union[Started, Token, Restarted, Finished, Failed]

_STARTED, _TOKEN, _RESTARTED, _FINISHED, _FAILED = 1, 2, 3, 4, 5


def event_from_c(event: CEvent) -> Event:
    """Copies ``event``, whose pointers live only until the next call on its request."""
    if event.kind == _TOKEN:
        # The event of which there are many: without going through JSON.
        text = ctypes.string_at(event.text, event.text_len).decode() if event.text_len else ""
        return Token(event.index, event.token, text, _logits(event))
    fields = json.loads(ctypes.string_at(event.json, event.json_len))
    if event.kind == _STARTED:
        names = ("worker", "queue_position", "prompt_tokens", "cached_tokens", "seed")
        return Started(*(fields[name] for name in names))
    if event.kind == _FINISHED:
        return Finished(*(fields[name] for name in ("reason", "text", "usage", "timings")))
    if event.kind == _FAILED:
        rest = (fields[name] for name in ("status", "message", "retriable", "retry_after_ms"))
        return Failed(error_class(event.status)(event.status, *rest))
    if event.kind == _RESTARTED:
        return Restarted(fields)
    raise RuntimeError(f"unknown event: {fields}")


def _logits(event: CEvent) -> Optional[array[float]]:
    if not event.logits:
        return None
    logits = array("f")
    logits.frombytes(ctypes.string_at(event.logits, event.logits_len * logits.itemsize))
    return logits
