"""Model files: what they say, and whether they are the right ones."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Optional

from ._inputs import Path, options_json
from ._library import call_text
from ._progress import Progress, run


def model_info(model: Path, *, hub: Optional[Path] = None) -> Dict[str, Any]:
    """What a model is: ``id``, ``files`` (``path`` and ``bytes``) and ``info`` (what its header says: ``architecture``,
    ``n_params``, ``quantization``, ``chat_template``...). Also of one that this machine could not run. Reads no weights.

    ``model`` and ``hub``: as for `prepare`. Raises `ModelNotFound`, `ModelInvalid`, `InvalidParams`, `Unsupported`.
    """
    named = os.fsencode(model)
    info: Dict[str, Any] = json.loads(call_text("llamapen_model_info", named, len(named), *options_json(hub=hub)))
    return info


def digest(path: Path, *, progress: Optional[Progress] = None) -> str:
    """The digest of a file, such as ``sha256:9f86...``: what `prepare` takes as ``digest``. Reads the whole file.

    ``progress``: as for `prepare`. Ctrl-C ends it.
    """
    named = os.fsencode(path)
    return run(lambda told: call_text("llamapen_digest", named, len(named), told, None), progress)
