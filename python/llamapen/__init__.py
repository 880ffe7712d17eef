"""llama.cpp behind a supervisor that keeps a failing engine from taking its host along.

    import llamapen

    engine = llamapen.prepare("model.gguf", n_ctx=2048)
    with llamapen.Supervisor(engine) as supervisor:
        stream = supervisor.submit(messages=[{"role": "user", "content": "Why is the sky blue?"}], max_tokens=100)
        for piece in stream.pieces():
            print(piece, end="", flush=True)

Importing loads nothing; the shared library is found and loaded by the first call. Waiting releases the GIL and can be
interrupted with Ctrl-C. Nothing here survives ``os.fork()``: in the child, methods raise ``Forked``; use ``spawn``.
"""

from __future__ import annotations

from .build import build_info
from .engine import PreparedEngine, prepare
from .errors import (
    Busy,
    Cancelled,
    ContextOverflow,
    Forked,
    InvalidParams,
    LlamapenError,
    ModelInvalid,
    ModelNotFound,
    PoolUnavailable,
    QueueFull,
)
from .events import Event, Failed, Finished, Restarted, Started, Token
from .stream import TokenStream
from .supervisor import Supervisor

__version__ = "0.1.0"

__all__ = [
    "Busy", "Cancelled", "ContextOverflow", "Event", "Failed", "Finished", "Forked", "InvalidParams", "LlamapenError",
    "ModelInvalid", "ModelNotFound", "PoolUnavailable", "PreparedEngine", "QueueFull", "Restarted", "Started",
    "Supervisor", "Token", "TokenStream", "build_info", "prepare",
]
