"""`Supervisor`: runs the requests of one prepared engine."""

from __future__ import annotations

import atexit
import json
import weakref
from types import TracebackType
from typing import Any, Dict, Optional, Sequence, Type

from ._library import Handle, call, call_text, create, encode
from ._wait import wait
from .engine import PreparedEngine
from .errors import LlamapenError, PoolUnavailable
from .stream import TokenStream

_running: weakref.WeakSet[Supervisor] = weakref.WeakSet()


class Supervisor:
    """Loads a model and runs requests on it, in threads of its own; a context manager. Any thread may use it.

    It starts loading at once. Requests that are submitted before it is ready wait in its queue.
    """

    def __init__(self, engine: PreparedEngine, **config: Any) -> None:
        """``config``: ``queue_capacity`` (waiting requests, default 256), ``max_restarts`` (of workers, default 10)
        within ``restart_window_ms`` (60000), ``stall_limit_ms`` (30000), ``max_stall_ms``: longest time that running
        streams wait for a piece of another request's prompt (10 to 60000; 100).

        ``contain_faults`` (true): handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL are installed once per process, which
        contain what the engine's own threads raise in its code and hand everything else on to those that were there before
        (faulthandler, for one). ``taint``: what follows a contained memory fault, ``"stop"`` (the supervisor, never the
        host; default) or ``"continue"``. A worker that does not turn for ``stall_limit_ms`` is replaced."""
        options = encode(config)
        pointer = engine._handle.pointer
        self._handle: Optional[Handle] = create(
            "llamapen_supervisor_start", "llamapen_supervisor_free", pointer, options, len(options)
        )
        _running.add(self)

    def wait_ready(self, timeout: Optional[float] = None) -> None:
        """Waits until requests are run.

        Raises ``TimeoutError`` after ``timeout`` seconds (``None``: no limit), `LlamapenError` if loading fails.
        """
        handle = self._open()
        wait(lambda ms: call("llamapen_supervisor_wait_ready", handle.pointer, ms), timeout)

    def health(self) -> Dict[str, Any]:
        """``state``, ``live``, ``ready``, ``load_progress`` (0 to 1), ``queue_depth``, ``workers``, ``last_error``,
        ``last_error_status``, ``tainted``, ``contains_faults``."""
        handle = self._open()
        health: Dict[str, Any] = json.loads(call_text("llamapen_supervisor_health_json", handle.pointer))
        return health

    def metrics(self) -> Dict[str, Any]:
        """What was counted since the start: ``requests`` (``accepted_total``, ``rejected_total`` and ``failed_total`` by
        status, ``finished_total`` by reason, ``cancelled_total``), ``queue_depth``, ``load_ms``, ``vram_used_bytes`` (0
        where no GPU computes), ``last_error``, ``last_error_status``, and per worker tokens, slots, restarts, memory and
        histograms."""
        handle = self._open()
        metrics: Dict[str, Any] = json.loads(call_text("llamapen_supervisor_metrics_json", handle.pointer))
        return metrics

    def prometheus(self) -> str:
        """The same in Prometheus' text format, version 0.0.4: serve it as ``text/plain; version=0.0.4``. Of the last
        error, it has the status only."""
        handle = self._open()
        return call_text("llamapen_supervisor_metrics_text", handle.pointer)

    def cancel_load(self) -> None:
        """Gives up loading, if it is not done yet."""
        handle = self._open()
        call("llamapen_supervisor_cancel_load", handle.pointer)

    def submit(
        self,
        prompt: Optional[str] = None,
        *,
        messages: Optional[Sequence[Dict[str, str]]] = None,
        tokens: Optional[Sequence[int]] = None,
        **params: Any,
    ) -> TokenStream:
        """Queues a request and returns at once. Exactly one of ``prompt`` (text to go on from), ``messages`` (of
        ``role`` and ``content``, rendered in the format that llama.cpp recognises in the model's chat template) and ``tokens`` (ids) is given.

        ``params`` that end it: ``max_tokens`` (default: what the context holds), ``stop`` (texts, which are not given),
        ``stop_tokens`` (ids), ``ignore_eos`` (false).

        Past the end of the context: ``context_shift`` (false; true needs ``max_tokens``: half of the tokens behind the first
        ``n_keep`` (0) are taken out whenever it is full. Not with every model and KV cache: `Unsupported`).

        Of the speed: ``draft_max`` (tokens to guess ahead, at most the engine's; default: the engine's).

        Of the sampling, in the order of use: ``logit_bias`` (``{id: bias}``, -1000 to 1000, or false for never),
        ``repeat_penalty`` (1.0), ``frequency_penalty`` (0), ``presence_penalty`` (0), ``penalty_last_n`` (64),
        ``dry_multiplier`` (0, off), ``dry_base`` (1.75), ``dry_allowed_length`` (2), ``dry_penalty_last_n`` (64),
        ``dry_sequence_breakers``, ``top_n_sigma`` (-1, off), ``top_k`` (40), ``typical_p`` (1, off), ``top_p`` (0.95),
        ``min_p`` (0.05), ``xtc_probability`` (0, off), ``xtc_threshold`` (0.1), ``min_keep`` (0), ``temperature`` (0 to
        100, default 0.8; 0 is greedy), ``dynatemp_range`` (0, off), ``dynatemp_exponent`` (1). Or ``mirostat`` (1 or 2)
        with ``mirostat_tau`` (5) and ``mirostat_eta`` (0.1), beside which only ``logit_bias`` and ``temperature`` count.
        ``seed``: drawn by default; equal seeds give equal texts.

        Of what is reported: ``logprobs`` (of each token and of this many likeliest, 0 to 20), ``logits`` (false), ``echo``
        (false: the prompt's text in `Started`).

        Limits in milliseconds: ``timeout_ms`` (in all), ``first_token_timeout_ms`` (both from now on),
        ``inter_token_timeout_ms`` (between two tokens); past one the stream ends with `Failed`: `DeadlineUnmet` if no
        worker had taken the request up, else `DecodeTimeout`.

        Raises `LlamapenError` where the request is refused: `InvalidParams`, `QueueFull`, `ContextOverflow`...
        """
        handle = self._open()
        request = encode({"prompt": prompt, "messages": messages, "tokens": tokens, **params})
        return TokenStream(create("llamapen_submit", "llamapen_request_free", handle.pointer, request, len(request)))

    def stop(self) -> None:
        """Ends all requests (`Failed`, DRAINING) and all threads; returns when they are gone. May be repeated."""
        handle = self._handle
        if handle is not None:
            call("llamapen_supervisor_stop", handle.pointer)

    def close(self) -> None:
        """Stops and frees it. Streams stay usable: they give their last events."""
        self.stop()
        self._handle = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _open(self) -> Handle:
        # Callers keep what they get in a variable: it keeps the supervisor from being freed under them.
        handle = self._handle
        if handle is None:
            raise PoolUnavailable(205, "POOL_UNAVAILABLE", "the supervisor is closed")
        return handle


@atexit.register
def _stop_running() -> None:
    # Before the process' static data goes: a worker still computing then would crash the exit.
    for supervisor in list(_running):
        try:
            supervisor.stop()
        except LlamapenError:
            pass  # Made before a fork: its threads are in the parent.
