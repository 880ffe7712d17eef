"""What a request reports: `Started`, then `Token`s, then `Finished` or `Failed`, once and last."""

from __future__ import annotations

import ctypes
import dataclasses
import json
from array import array
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple, Union

from ._library import CEvent
from .errors import LlamapenError, error_class


@dataclass(frozen=True)
class Started:
    """A worker took the request and read its prompt."""

    #: Which worker, from 0.
    worker: int
    #: Waiting requests that were to be taken before it when it was submitted.
    queue_position: int
    #: Tokens of the prompt, after the chat template.
    prompt_tokens: int
    #: How many of them were already in the KV cache.
    cached_tokens: int
    #: Seed in use, given or drawn: submit it again for the same text.
    seed: int
    #: With ``echo``: the prompt as the model reads it, with special tokens written out.
    prompt: Optional[str]


@dataclass(frozen=True)
class TokenLogprob:
    """A token that might have come."""

    #: Id in the vocabulary.
    token: int
    #: Natural logarithm of its probability.
    logprob: float
    #: Its own text; U+FFFD stands for bytes that are no whole character by themselves.
    text: str


@dataclass(frozen=True)
class Logprobs:
    """Probabilities as the model gave them: the softmax of the raw logits, before all sampling parameters."""

    #: Natural logarithm of the probability of the token that was picked.
    logprob: float
    #: The likeliest tokens, likeliest first, as many as the request asked for.
    top: Tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Token:
    """One token was generated."""

    #: Counted from 0.
    index: int
    #: Id in the vocabulary.
    token: int
    #: Its text, always whole characters: bytes of an incomplete one come with the token that completes it. May be empty.
    #: Text that may begin a stop string is held back too.
    text: str
    #: Logits before sampling, one per vocabulary entry, where the request asked for them.
    logits: Optional[array[float]] = field(default=None, repr=False)
    #: How likely it was, and what else was, where the request asked for it.
    logprobs: Optional[Logprobs] = None


@dataclass(frozen=True)
class Restarted:
    """The worker failed and the request goes on in another; nothing that was given is taken back."""

    #: Counted from 1.
    attempt: int
    #: Tokens that were kept.
    tokens_kept: int
    #: What happened to the worker.
    reason: str


@dataclass(frozen=True)
class Finished:
    """The request came to its end. The last event."""

    #: ``stop`` (the model ended its text), ``length`` (``max_tokens`` or the context is used up), ``stop_string`` or
    #: ``stop_token`` (one of the request's).
    reason: str
    #: Which one, for that reason.
    stop_string: Optional[str]
    #: Which one, for that reason.
    stop_token: Optional[int]
    #: Text held back: it might have become a stop string, or its last character never became complete (U+FFFD stands for
    #: it). Mostly empty.
    text: str
    #: ``prompt_tokens``, ``completion_tokens``, ``draft_tokens`` (guessed ahead), ``draft_accepted`` (that came true),
    #: ``shifted_tokens`` (taken out of a full context).
    usage: Dict[str, int]
    #: Milliseconds: ``queued_ms``, ``prefill_ms``, ``decode_ms``, ``first_token_ms``.
    timings: Dict[str, float]


@dataclass(frozen=True)
class Failed:
    """The request failed or was cancelled. The last event."""

    #: Why, as an exception; not raised by iterating over events.
    error: LlamapenError


Event = Union[Started, Token, Restarted, Finished, Failed]

_TOKEN, _FAILED = 2, 5
_KINDS: Dict[int, Any] = {1: Started, 3: Restarted, 4: Finished}


def event_from_c(event: CEvent) -> Event:
    """Copies ``event``, whose pointers live only until the next call on its request."""
    if event.kind == _TOKEN:
        # The event of which there are many: mostly without going through JSON.
        text = ctypes.string_at(event.text, event.text_len).decode() if event.text_len else ""
        return Token(event.index, event.token, text, _logits(event), _logprobs(event))
    fields = json.loads(ctypes.string_at(event.json, event.json_len))
    if event.kind == _FAILED:
        rest = (fields[name] for name in ("status", "message", "retriable", "retry_after_ms"))
        return Failed(error_class(event.status)(event.status, *rest))
    if event.kind in _KINDS:
        kind = _KINDS[event.kind]
        # By name: a later version may report more.
        made: Event = kind(**{known.name: fields[known.name] for known in dataclasses.fields(kind)})
        return made
    raise RuntimeError(f"unknown event: {fields}")


def _logits(event: CEvent) -> Optional[array[float]]:
    if not event.logits:
        return None
    logits = array("f")
    logits.frombytes(ctypes.string_at(event.logits, event.logits_len * logits.itemsize))
    return logits


def _logprobs(event: CEvent) -> Optional[Logprobs]:
    encoded = ctypes.string_at(event.json, event.json_len)
    # A key for sure: the quotes in a text are escaped.
    if b'"logprobs":' not in encoded:
        return None
    fields = json.loads(encoded)["logprobs"]
    return Logprobs(fields["logprob"], tuple(TokenLogprob(**top) for top in fields["top"]))
