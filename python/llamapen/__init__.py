"""llama.cpp behind a supervisor that keeps a failing engine from taking its host along.

    import llamapen

    engine = llamapen.prepare("model.gguf", n_ctx=2048)
    with llamapen.Supervisor(engine) as supervisor:
        stream = supervisor.submit(messages=[{"role": "user", "content": "Why is the sky blue?"}], max_tokens=100)
        for piece in stream.pieces():
            print(piece, end="", flush=True)

Importing loads nothing; the shared library is found and loaded by the first call. Waiting releases the GIL and can be
interrupted with Ctrl-C. Nothing here survives ``os.fork()``: in the child, methods raise ``Forked``; use ``spawn``. Workers are
threads of this process, or with ``prepare(..., isolation="process")`` child processes.
"""

from __future__ import annotations

from .build import build_info
from .engine import PreparedEngine, config_from_flags, prepare
from .errors import (
    Busy,
    Cancelled,
    ContextOverflow,
    DeadlineUnmet,
    DecodeTimeout,
    DeviceError,
    DigestMismatch,
    Draining,
    Forked,
    InvalidParams,
    LlamapenError,
    LoadFailed,
    ModelInvalid,
    ModelNotFound,
    OutOfMemory,
    PoisonedRequest,
    PoolUnavailable,
    PoolUnready,
    QueueFull,
    QueueFullDropLru,
    StaleEngine,
    Unsupported,
    WorkerReset,
)
from .events import Event, Failed, Finished, Logprobs, Restarted, Started, Token, TokenLogprob
from .handoff import HandoffChange, HandoffWatcher
from .lease import Lease
from .machines import devices, machine
from .models import digest, model_info
from .planning import Check, Plan, Preflight, Step, plan, preflight
from .stream import TokenStream
from .supervisor import Supervisor

__version__ = "0.1.0"

__all__ = [
    "Busy", "Cancelled", "Check", "ContextOverflow", "DeadlineUnmet", "DecodeTimeout", "DeviceError", "DigestMismatch", "Draining",
    "Event", "Failed", "Finished", "Forked", "HandoffChange", "HandoffWatcher", "InvalidParams",
    "Lease", "LlamapenError", "LoadFailed", "Logprobs", "ModelInvalid", "ModelNotFound",
    "OutOfMemory", "Plan",
    "PoisonedRequest", "PoolUnavailable", "PoolUnready", "Preflight", "PreparedEngine", "QueueFull", "QueueFullDropLru", "Restarted", "StaleEngine", "Started", "Step",
    "Supervisor", "Token", "TokenLogprob", "TokenStream", "Unsupported", "build_info", "config_from_flags", "devices",
    "digest", "machine", "model_info", "plan", "preflight", "prepare",
    "WorkerReset",
]
