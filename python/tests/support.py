"""What the tests share. The model is named by the environment variable LLAMAPEN_TEST_MODEL."""

import atexit
import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

PYTHON = Path(__file__).resolve().parent.parent
# The package of this tree, also where another one is installed.
sys.path.insert(0, str(PYTHON))

import llamapen  # noqa: E402

# Never an end of its own: what has to be interrupted, cancelled or stopped. The context would end it after a long time.
ENDLESS = {"prompt": "Once upon a time", "ignore_eos": True}


def model() -> str:
    # Not a skip: a run without a model would pass and have tested nothing.
    path = os.environ.get("LLAMAPEN_TEST_MODEL")
    if not path:
        raise RuntimeError("set LLAMAPEN_TEST_MODEL to the path of a small chat model (GGUF)")
    return path


def synthetic() -> Path:
    """Models of many architectures, without sense: ``scripts/synthetic.py`` prints their folder."""
    folder = os.environ.get("LLAMAPEN_SYNTHETIC_MODELS")
    if not folder:
        raise RuntimeError("set LLAMAPEN_SYNTHETIC_MODELS to what scripts/synthetic.py prints")
    return Path(folder)


def engine(**config):
    return llamapen.prepare(model(), **{"n_ctx": 2048, **config})


@functools.lru_cache(maxsize=None)
def supervisor():
    """One for all tests that leave it as they found it: loading takes longer than most of them."""
    shared = llamapen.Supervisor(engine())
    atexit.register(shared.close)
    shared.wait_ready(60)
    return shared


def start_of(supervisor, **params):
    """A stream of a request that runs, and its `Started`."""
    stream = supervisor.submit(**params)
    return stream, stream.next(60)


def until_token(stream):
    """Reads up to and including the first token."""
    for event in stream:
        if isinstance(event, llamapen.Token):
            return event
        assert not isinstance(event, (llamapen.Failed, llamapen.Finished)), event
    raise AssertionError("the stream ended without a token")


def run_script(script: str, *arguments: str, timeout: float = 120, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python code in a process of its own, with `support` at hand. Its exit status must be 0."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    path = os.pathsep.join([str(PYTHON), str(PYTHON / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, **env}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
