"""What `prepare`, `plan`, `preflight` and `model_info` are given, as the library takes it."""

from __future__ import annotations

import os
from typing import Any, Mapping, Optional, Tuple, Union

from ._library import encode

#: Text, or something that has a path.
Path = Union[str, "os.PathLike[str]"]
#: A machine as `machine` gives it, or as somebody made it up.
Machine = Mapping[str, Any]


def config_json(model: Path, config: Mapping[str, Any]) -> Tuple[bytes, int]:
    """The configuration and its length."""
    if config.get("tuning_cache") is not None:
        config = {**config, "tuning_cache": os.fsdecode(config["tuning_cache"])}
    return _with_length({"model": os.fsdecode(model), **config})


def options_json(
    machine: Optional[Machine] = None, hub: Optional[Path] = None, digest_cache: Optional[Path] = None
) -> Tuple[bytes, int]:
    """What accompanies it, and its length."""
    folder = None if hub is None else os.fsdecode(hub)
    cache = None if digest_cache is None else os.fsdecode(digest_cache)
    return _with_length({"machine": machine, "hub": folder, "digest_cache": cache})


def _with_length(options: Mapping[str, Any]) -> Tuple[bytes, int]:
    encoded = encode(options)
    return encoded, len(encoded)
