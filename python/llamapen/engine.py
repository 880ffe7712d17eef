"""`prepare` and `PreparedEngine`: the checked configuration of one model on this machine."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, Optional, Tuple, Union

from ._library import Handle, call_json, create, encode


class PreparedEngine:
    """What `prepare` decided: plain, immutable data. Any thread may use it; it can be pickled.

    Supervisors keep what they need of it, so it may go before them.
    """

    def __init__(self, handle: Handle) -> None:
        """Takes over ``handle``; use `prepare` or `from_json` instead."""
        self._handle = handle
        self._json = call_json("llamapen_engine_json", handle.pointer)

    @classmethod
    def from_json(cls, text: str) -> PreparedEngine:
        """Reads what `json` gave. Whether it fits this build, machine and file is checked when it is started."""
        encoded = text.encode()
        return cls(create("llamapen_engine_from_json", "llamapen_engine_free", encoded, len(encoded)))

    def json(self) -> str:
        """All of it as JSON: equal engines give equal text."""
        return self._json

    @property
    def info(self) -> Dict[str, Any]:
        """What the model's header says: ``architecture``, ``n_ctx_train``, ``n_vocab``, ``chat_template``..."""
        info: Dict[str, Any] = json.loads(self._json)["info"]
        return info

    def __reduce__(self) -> Tuple[Callable[[str], PreparedEngine], Tuple[str]]:
        return type(self).from_json, (self._json,)


def prepare(model: Union[str, os.PathLike[str]], *, n_ctx: Optional[int] = None, **config: Any) -> PreparedEngine:
    """Checks a GGUF file and a configuration, and chooses what is left open. Loads no weights, starts no threads.

    ``n_ctx``: positions (prompt and generated tokens) per slot. Further options: ``n_ubatch`` (tokens per micro-batch),
    ``workers``, ``threads`` (per worker), ``slots`` (requests that one worker runs at a time), ``use_mmap`` (default
    true), ``use_mlock`` (default false).

    Raises `ModelNotFound`, `ModelInvalid` or `InvalidParams`.
    """
    options = encode({"model": os.fsdecode(model), "n_ctx": n_ctx, **config})
    return PreparedEngine(create("llamapen_prepare", "llamapen_engine_free", options, len(options)))
