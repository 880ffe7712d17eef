"""`Supervisor`: runs the requests of one prepared engine."""

from __future__ import annotations

import atexit
import json
import os
import weakref
from types import TracebackType
from typing import Any, Dict, Optional, Sequence, Type

from ._library import Handle, call, call_text, call_text_if_any, create, encode
from ._wait import in_thread, milliseconds, wait
from .engine import PreparedEngine
from .errors import LlamapenError, PoolUnavailable
from .lease import Lease, acquire
from .stream import TokenStream, submit

_running: weakref.WeakSet[Supervisor] = weakref.WeakSet()


class Supervisor:
    """Loads a model and runs requests on it, in threads or child processes of its own; a context manager. Any thread may use
    it.

    It starts loading at once. Requests that are submitted before it is ready wait in its queue.
    """

    def __init__(self, engine: PreparedEngine, **config: Any) -> None:
        """``config``: ``queue_capacity`` (waiting requests, default 256), ``queue_full`` (``reject``, or
        ``drop_oldest_batch``: the batch request that has waited longest ends with `QueueFullDropLru`, if one waits),
        ``stall_limit_ms`` (30000), ``max_stall_ms``: longest time that running streams wait for a piece of another request's
        prompt (10 to 60000; 100), ``idle_unload_ms``: after so long without a request memory is given back as by `unload` (0,
        never), ``handoff_dir`` (an existing directory for a file that says what is ready, see `handoff`).

        Restarts of workers that failed, times in milliseconds: the first one of a worker that had been ready is immediate,
        the next waits ``backoff_initial_ms`` (1000), each further one twice as long up to ``backoff_max_ms`` (60000), give
        or take ``backoff_jitter_percent`` (10), ``backoff_device_factor`` (2) times as long after a fault of a device; all
        is forgotten once it was ready for ``backoff_reset_ms`` (300000). A worker's circuit breaker opens after
        ``breaker_failures`` (5) in a row, or when ``max_restarts`` (10) within ``restart_window_ms`` (60000), over all
        workers, are used up. Then the worker is left alone for ``breaker_open_ms`` (300000) and tried once. Ready for
        ``breaker_stable_ms`` (60000), its breaker closes; failing before, it opens for twice as long, up to
        ``breaker_open_max_ms`` (3600000). While all workers are out of service that way, the state is CIRCUIT_OPEN and
        requests are refused with a retriable `PoolUnavailable`.

        ``contain_faults`` (true): handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL are installed once per process, which
        contain what the engine's own threads raise in its code and hand everything else on to those that were there before
        (faulthandler, for one). ``taint``: what follows a contained memory fault of a worker that is a thread:
        ``"escalate_to_process"`` (from then on workers are child processes, as with ``isolation="process"`` of `prepare`; the
        default where one can be started), ``"stop"`` (the supervisor, never the host; the default elsewhere) or
        ``"continue"``.

        ``child``: how workers that are child processes are run, a dictionary: ``sandbox`` (``"off"``; ``"strict"``: it opens
        no file but the model's, and reaches no network, starts no program and sees no other process, by Landlock and seccomp
        where the kernel has them; the health says so. Refused for threads), ``memory_limit_bytes`` (none; at least 16777216), ``cpus`` (numbers
        of those that it may run on; this process's), ``nice`` (added to this process's, -20 to 19; 0), ``worker`` (path of the
        llamapen-worker to start; default: the library starts itself), ``pid_dir`` and ``log_dir`` (existing directories for
        files with the processes' numbers, and with what they print; none), ``stop_grace_ms`` (how long one that was told to
        end has for it; 5000).

        ``snapshot_tokens`` (32; 0: never) tokens after which the state of a request is copied into the host's
        memory, for another worker to go on from, in 2 % of a worker's time at most, within ``snapshot_bytes`` (134217728) in all. ``quarantine_ms`` (600000; 0:
        nobody is blamed) is how long a request that workers died of is refused. A worker that does not turn for
        ``stall_limit_ms`` is replaced; a load without progress for ``load_stall_limit_ms`` (600000) is ended."""
        _texts_of_paths(config, "handoff_dir")
        if isinstance(config.get("child"), dict):
            config["child"] = {key: value for key, value in config["child"].items() if value is not None}
            _texts_of_paths(config["child"], "worker", "pid_dir", "log_dir")
        options = encode(config)
        pointer = engine._handle.pointer
        self._handle: Optional[Handle] = create(
            "llamapen_supervisor_start", "llamapen_supervisor_free", pointer, options, len(options)
        )
        _running.add(self)

    def wait_ready(self, timeout: Optional[float] = None) -> None:
        """Waits until requests are run.

        Raises ``TimeoutError`` after ``timeout`` seconds (``None``: no limit), `LlamapenError` if loading fails. The states
        BACKOFF and CIRCUIT_OPEN pass, and are waited for.
        """
        handle = self._open()
        wait(lambda ms: call("llamapen_supervisor_wait_ready", handle.pointer, ms), timeout)

    def health(self) -> Dict[str, Any]:
        """``state`` (STARTING, READY, DEGRADED, BACKOFF, CIRCUIT_OPEN, UNLOADING, UNLOADED, DRAINING, FAILED, STOPPED), ``live``, ``ready``,
        ``load_progress`` (0 to 1), ``queue_depth``,
        ``queue_depth_by_priority``, ``leases``, ``reloading`` (all else is of the engine that requests go to), ``workers``, ``last_error``, ``last_error_status``, ``tainted``
        (a memory fault was contained), ``taint`` (what follows one), ``isolation`` (where workers are started now: ``thread``,
        ``process``), ``contains_faults``.

        Of each worker among others ``memory`` (by place, such as ``host`` and ``GPU0``: ``planned_bytes`` and ``allocated_bytes`` of
        cache and compute buffers, ``weights_planned_bytes``, and ``weights`` by kind in bytes), ``breaker`` (CLOSED, OPEN, HALF_OPEN: on trial) and ``last_crash``: ``None``, or
        ``reason`` (PANIC, CPP_EXCEPTION, ABORT, SIGNAL, STALL, HOST_OUT_OF_MEMORY, KILLED, EXITED, PROTOCOL, LOAD_FAILED,
        ENGINE_ERROR, CUDA_ERROR, DEVICE_OUT_OF_MEMORY; there may be more), ``message``, ``at_ms`` since the start, and ``exit``: ``None``, or of a child process
        ``pid``, ``how``, ``rss_bytes`` (of memory) and ``output`` (the last lines that it printed).

        ``load_phases``: ``None``, or where the time of the load went that workers share who are threads: ``header_ms``, ``mapping_ms`` (a file
        that is not in the page cache is read here, with ``use_mmap``), ``weights_ms`` (copied, repacked, uploaded). ``start_phases`` of each
        worker: ``None`` until it is ready, then ``load`` (``None``, or the same of a process, which loads for itself), ``context_ms``,
        ``warm_up_ms``.

        ``calibration``: ``None``, or with ``tuning="auto"`` and several workers ``state`` (PENDING, RUNNING, DONE, GIVEN_UP), ``from_cache``,
        ``rates`` (of ``workers`` side by side with ``streams`` each: ``step_us`` until each stream has a token) and ``spread``: over how many
        workers 1, 2, 3 and more requests are spread, empty until it is done.

        ``process`` of each: ``None`` for a thread, or once it has loaded ``pid``, ``rss_bytes`` and ``confinement``: ``landlock`` and
        ``seccomp`` (``"off"``, ``{"on": form}`` or ``{"missing": why}``), ``no_new_privs``, ``dumpable``, ``memory``, ``cpus``,
        ``nice``, ``oom_score_adj``."""
        handle = self._open()
        health: Dict[str, Any] = json.loads(call_text("llamapen_supervisor_health_json", handle.pointer))
        return health

    def metrics(self) -> Dict[str, Any]:
        """What was counted since the start: ``requests`` (``accepted_total``, ``rejected_total`` and ``failed_total`` by
        status, ``finished_total`` by reason, ``cancelled_total``), ``queue_depth``,
        ``queue_depth_by_priority``, ``leases``, ``load_ms``, ``load_phases`` (and ``start_phases`` of workers, as in `health`), ``vram_used_bytes`` (0
        where no GPU computes), ``last_error``, ``last_error_status``, and per worker tokens, slots, restarts, crashes by
        reason, memory and histograms."""
        handle = self._open()
        metrics: Dict[str, Any] = json.loads(call_text("llamapen_supervisor_metrics_json", handle.pointer))
        return metrics

    def prometheus(self) -> str:
        """The same in Prometheus' text format, version 0.0.4: serve it as ``text/plain; version=0.0.4``. Of the last
        error, it has the status only."""
        handle = self._open()
        return call_text("llamapen_supervisor_metrics_text", handle.pointer)

    def handoff(self) -> Optional[Dict[str, Any]]:
        """What is ready, for those who are to bind to it: ``pool_id``, ``replica_id``, ``pid``, versions, digests,
        ``model_id``, ``model_files``, ``device_mask``, ``workers``, ``slots``, ``flags``, ``worker`` and ``ready_at_ms``
        (since 1970). ``None`` until a worker is ready, and once the supervisor was stopped or gave up.

        With ``handoff_dir``, the same lies there in ``llamapen-POOL-REPLICA.json`` as long, written whole or not at all.
        After a kill it stays, with a ``pid`` that is gone."""
        handle = self._open()
        record = call_text_if_any("llamapen_supervisor_handoff_json", handle.pointer)
        return None if record is None else json.loads(record)

    def cancel_load(self) -> None:
        """Gives up loading, if it is not done yet."""
        handle = self._open()
        call("llamapen_supervisor_cancel_load", handle.pointer)

    def reset_breaker(self) -> None:
        """Closes the circuit breakers of all workers and forgets the failures and restarts that were counted: workers that
        wait for a restart are started at once. Raises `PoolUnavailable` if it was stopped, or failed for good."""
        handle = self._open()
        call("llamapen_supervisor_reset_breaker", handle.pointer)

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

        Of the queue: ``priority`` (``interactive``; ``batch`` is taken up when no interactive request waits, and once after
        every 8 interactive ones in a row that were taken before it).

        Limits in milliseconds: ``timeout_ms`` (in all), ``first_token_timeout_ms`` (both from now on),
        ``inter_token_timeout_ms`` (between two tokens); past one the stream ends with `Failed`: `DeadlineUnmet` if no
        worker had taken the request up, else `DecodeTimeout`.

        Of crashes: ``max_resumes`` (3, 0 to 1000): how often it may go on in another worker when its own dies, with
        `Restarted` and then the next token; bit by bit as it would have gone on if the engine is ``deterministic``. 0: it
        fails with `WorkerReset`. One that workers die of fails with `PoisonedRequest`, and is refused for a while.

        Raises `LlamapenError` where the request is refused: `InvalidParams`, `QueueFull`, `ContextOverflow`...
        """
        handle = self._open()
        return submit("llamapen_submit", handle, {"prompt": prompt, "messages": messages, "tokens": tokens, **params})

    def lease(self) -> Lease:
        """A lease, for a session that will submit several requests: until it is given back, `drain` waits for it.

        Raises `Draining` while the supervisor drains, `PoolUnavailable` once it is stopped.
        """
        return acquire(self._open())

    def reload(self, engine: PreparedEngine, timeout: Optional[float] = None) -> Dict[str, Any]:
        """Puts another engine in the place of the one that runs. Returns when it runs, and the old one is gone; nobody's request
        is lost on the way. One that would run the same files in the same way changes nothing.

        Where memory allows, the new engine is loaded beside the old one, which serves until the new one has decoded a token;
        then requests go to the new one, and the old one finishes what it has accepted. Does the new one fail, or is it not
        ready in time, the old one goes on as if nothing had happened. Where memory does not allow that, the old one
        finishes first. Requests that come meanwhile must be such as both would accept, and wait, with their limits, for
        whichever comes up: if the new one does not, the old one is loaded again, and is ready when this raises the error.

        ``timeout`` in seconds (``None``: no limit) is for each of two steps: for the new engine to become ready, and for the old
        one to finish; what it still has then ends with `Draining`. Leases stay, and so do the counts of requests; those of
        workers begin anew. `drain` and `stop` end a reload. Other threads run meanwhile; Ctrl-C ends the waiting, not the
        reload.

        Returns ``changed``, ``beside``, ``duration_ms``, ``requests_failed``. Raises `StaleEngine`, `Busy` while another reload is
        in progress, `Draining`, `PoolUnavailable`, or what made the new engine fail (`LoadFailed`, `OutOfMemory`, `Cancelled` by
        `cancel_load`, `PoolUnready`: not ready in time), whose text says that the old one runs, or why it does not.
        """
        handle, new = self._open(), engine._handle
        ms = milliseconds(timeout)
        report: Dict[str, Any] = json.loads(
            in_thread(lambda: call_text("llamapen_supervisor_reload", handle.pointer, new.pointer, ms))
        )
        return report

    def unload(self, timeout: Optional[float] = None) -> None:
        """Gives memory back: weights and contexts are freed as soon as no request waits or runs. Takes nothing from anybody:
        requests go on being accepted, what waits and runs finishes first, and a request that comes afterwards has it loaded
        again and waits in the queue, with its limits. The state is UNLOADED until then; the handoff record stays.

        Raises ``TimeoutError`` when there was no such moment within ``timeout`` seconds (``None``: no limit): then all stays
        as it is. `Draining` or `PoolUnavailable` when it drains, was stopped or failed for good.
        """
        handle = self._open()
        wait(lambda ms: call("llamapen_supervisor_unload", handle.pointer, ms), timeout)

    def wake(self) -> None:
        """Begins to load again what was unloaded, and returns at once; `wait_ready` waits. Does nothing if it is loaded.

        If it cannot be loaded, the state is FAILED, as after a first start, and what waits ends with why. Raises `Draining`
        or `PoolUnavailable` when it drains, was stopped or failed for good.
        """
        handle = self._open()
        call("llamapen_supervisor_wake", handle.pointer)

    def drain(self, timeout: Optional[float] = None) -> Dict[str, Any]:
        """Ends in order: from now on neither leases nor requests are taken (`Draining`), except requests of those who have
        a lease; what waits or runs finishes, leases are given back, and then the supervisor stops. What is left after
        ``timeout`` seconds (``None``: no limit) ends with `Draining`, and the supervisor stops then.

        Returns when it is stopped: ``forced``, ``duration_ms``, ``leases_left``, ``requests_failed``. Other threads run
        meanwhile; in a coroutine, ``await asyncio.to_thread(supervisor.drain, timeout)``. Ctrl-C ends the waiting, not the
        drain. Of several calls the earliest deadline counts, and all return the same.
        """
        handle = self._open()
        ms = milliseconds(timeout)
        report: Dict[str, Any] = json.loads(
            in_thread(lambda: call_text("llamapen_supervisor_drain", handle.pointer, ms))
        )
        return report

    def self_test(self, timeout: Optional[float] = None) -> Dict[str, Any]:
        """Tries out what a host relies on, within ``timeout`` seconds in all (``None``: no limit). ``passed``, and ``steps`` of
        ``name``, ``status`` (``pass``, ``fail``, ``skip``: one before it failed), ``message`` and ``ms``: ``load`` (a worker is
        ready), ``decode`` (a real decode gives a token whose logits are finite), ``cancel`` (ends a request and frees its
        slot), ``log`` (a line comes to the tracing subscriber; Python has none, which the step says and passes),
        ``metrics`` (have counted that: exactly, where nobody else has requests).

        It runs two short requests, which wait for a slot like any other. Other threads run meanwhile."""
        handle = self._open()
        ms = milliseconds(timeout)
        report: Dict[str, Any] = json.loads(
            in_thread(lambda: call_text("llamapen_supervisor_self_test", handle.pointer, ms))
        )
        return report

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
            raise PoolUnavailable(205, "POOL_UNAVAILABLE", "the supervisor is closed", policy="state")
        return handle


def _texts_of_paths(config: Dict[str, Any], *names: str) -> None:
    for name in names:
        if config.get(name) is not None:
            config[name] = os.fspath(config[name])


@atexit.register
def _stop_running() -> None:
    # Before the process' static data goes: a worker still computing then would crash the exit.
    for supervisor in list(_running):
        try:
            supervisor.stop()
        except LlamapenError:
            pass  # Made before a fork: its threads are in the parent.
