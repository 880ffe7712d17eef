"""What the library was built from."""

from __future__ import annotations

import json
from typing import Any, Dict

from ._library import call_text


def build_info() -> Dict[str, Any]:
    """Versions, compiler, flags and features of the loaded library.

    ``cpu_levels``: what its CPU kernels were compiled for, from the least to the best, each with ``name``, ``flags`` and
    ``features``; empty if they were compiled once. `machine` says which of them runs here.
    """
    info: Dict[str, Any] = json.loads(call_text("llamapen_build_info_json"))
    return info
