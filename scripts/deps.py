#!/usr/bin/env python3
"""Checks for the build tools and makes `.venv`, the private Python environment with libclang and pytest.

Nothing is installed outside the repository, with one exception: where Python lacks its venv parts (a bare Debian) and
no pip is there to do without them, root gets them from apt-get; anyone else is told the one command that does.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys

from common import ROOT, VENV, VENV_PYTHON, as_root, fail, say

REQUIREMENTS = ROOT / "scripts" / "requirements.txt"
STAMP = VENV / "requirements.sha256"


def check_tools():
    tools = [
        ("cargo", "see https://rustup.rs"),
        (compiler("CC", "cc"), as_root("apt-get install -y gcc")),
        (compiler("CXX", "c++"), as_root("apt-get install -y g++")),
    ]
    missing = [f"{tool} is missing. This gives it:\n  {command}" for tool, command in tools if not shutil.which(tool)]
    if missing:
        fail("\n".join(missing))


def compiler(variable, default):
    """The program in CC or CXX, which may hold arguments too."""
    return (shlex.split(os.environ.get(variable, "")) or [default])[0]


def check_rust_components():
    """rustfmt and clippy: only the tests need them, and rustup's minimal profile leaves them out."""
    missing = [name for name, tool in (("rustfmt", "fmt"), ("clippy", "clippy")) if not works(["cargo", tool, "--version"])]
    command = ["rustup", "component", "add", *missing]
    if missing and not (shutil.which("rustup") and subprocess.run(command, cwd=ROOT).returncode == 0):
        fail(f"cargo has no {' and no '.join(missing)}. This gives it:\n  {' '.join(command)}")


def make_environment():
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    with open(REQUIREMENTS) as lock:
        # Two commands at once: the second waits, then finds it made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.is_file() and STAMP.read_text() == wanted and VENV_PYTHON.exists():
            return
        say("making .venv with libclang and pytest")
        shutil.rmtree(VENV, ignore_errors=True)
        installed = create() and install()
        if not installed:
            fail("could not make .venv; the lines above say why. It needs a network once.")
        STAMP.write_text(wanted)


def create():
    """An empty environment with a pip in it."""
    if not has_ensurepip() and not has_pip():
        get_ensurepip()
    if has_ensurepip():
        return run([sys.executable, "-m", "venv", VENV])
    # Python without its venv parts, but with pip: that can fill an environment from outside.
    return run([sys.executable, "-m", "venv", "--without-pip", VENV]) and run(
        [sys.executable, "-m", "pip", "--python", VENV_PYTHON, "install", "--quiet", "--disable-pip-version-check", "pip"]
    )


def install():
    pip = [VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:"]
    return run([*pip, "--requirement", REQUIREMENTS])


def has_ensurepip():
    return works([sys.executable, "-c", "import ensurepip"])


def has_pip():
    """One that knows `--python`: 22.3 or newer."""
    return works([sys.executable, "-m", "pip", "--python", sys.executable, "--version"])


def get_ensurepip():
    command = "apt-get install -y python3-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        run(["apt-get", "update", "-qq"]) and run([*command.split(), "--no-install-recommends", "-qq"])
    if not has_ensurepip():
        fail(f"{sys.executable} can make no environment (no ensurepip). This lets it:\n  {as_root(command)}")


def run(command):
    # Progress goes to stderr: stdout belongs to what called us.
    return subprocess.run(command, stdout=sys.stderr).returncode == 0


def works(command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT).returncode == 0


if __name__ == "__main__":
    check_tools()
    make_environment()
