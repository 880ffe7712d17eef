"""What the scripts share."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"


def fail(text):
    sys.exit(f"llamapen: {text}")


def say(text):
    """To stderr: a script's stdout is its result."""
    print(f"llamapen: {text}", file=sys.stderr, flush=True)


def as_root(command):
    """The command as a user would type it here."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def cache_dir():
    """Engines and models live here, outside the target folder. The build script has the same rule."""
    own = os.environ.get("LLAMAPEN_CACHE_DIR")
    if own:
        return Path(own).absolute()
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "llamapen"


@functools.lru_cache(maxsize=None)
def cargo_metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def target_dir():
    return Path(cargo_metadata()["target_directory"])
