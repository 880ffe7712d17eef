"""The machine, as far as this process may use it."""

from __future__ import annotations

import json
from typing import Any, Dict

from ._library import call_text


def machine(*, devices: bool = True) -> Dict[str, Any]:
    """The stable facts of this machine: CPUs, memory and limits in bytes (None: none, or unknown), GPUs.

    ``cpu_level``, which only a library with several levels of CPU kernels gives, is the level that runs here.

    It can be kept, changed, and given to `prepare`, `plan` and `preflight` as ``machine``.

    ``devices``: whether the GPU driver is asked, in a build that can use GPUs. After that, a child made by ``os.fork()``
    cannot use CUDA.
    """
    found: Dict[str, Any] = json.loads(call_text("llamapen_machine", devices))
    return found


def devices() -> Dict[str, Any]:
    """The GPUs that this process sees: ``driver`` (``state`` and more), ``devices`` and ``broken``.

    Asks NVIDIA's driver, in any build; a child made by ``os.fork()`` afterwards cannot use CUDA. No driver is no error.
    """
    found: Dict[str, Any] = json.loads(call_text("llamapen_devices"))
    return found
