"""The peers: programs and bindings of llama.cpp, installed in the user's cache folder, outside this repository.

Each is optional: where one cannot be installed, `Absent` says why, and what is measured against it is left out.
"""

import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "scripts"))
from common import cache_dir, say  # noqa: E402

# Its sources of llama.cpp are complete; the Cargo package that this library is built from has no tools.
LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"
XLLAMACPP = "xllamacpp==2026.10.11549"
NODE_LLAMA_CPP = "3.21.1"
CHARTS = "matplotlib==3.11.2"
TOOLS = ("llama-server", "llama-bench", "llama-batched-bench")
OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]


class Absent(Exception):
    """A peer that is not there, and why."""


def once(install):
    """Tries once: what came of it, also an `Absent`, comes again."""
    found = {}

    @functools.wraps(install)
    def cached(*key):
        if key not in found:
            try:
                found[key] = install(*key)
            except Absent as absent:
                found[key] = absent
            except (OSError, StopIteration, tarfile.TarError) as error:
                found[key] = Absent(f"{type(error).__name__}: {error}")
        if isinstance(found[key], Absent):
            raise found[key]
        return found[key]

    return cached


@once
def program(name):
    """The path of one of llama.cpp's programs, compiled for this machine."""
    home = home_of(LLAMA_CPP_PYTHON)
    path = home / "build" / "bin" / name
    if not path.is_file():
        say(f"building {', '.join(TOOLS)} from {LLAMA_CPP_PYTHON}: some minutes, once")
        sources = sources_in(home)
        python = venv(home, "cmake", "ninja")
        environment = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
        run(["cmake", "-G", "Ninja", "-S", sources / "vendor" / "llama.cpp", "-B", home / "build", *OPTIONS], environment)
        run(["cmake", "--build", home / "build", "--target", *TOOLS], environment)
    return path


@once
def llama_cpp_python():
    """The command of its asker and its environment. It calls the llama.cpp that the programs are linked with."""
    home, library = home_of(LLAMA_CPP_PYTHON), program("llama-server").parent
    python = venv(home)
    # The engine is there: nothing is compiled a second time.
    installed(python, "llama_cpp", str(sources_in(home)), {"CMAKE_ARGS": "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"})
    return [python, HERE / "askers" / "llama_cpp_python.py"], {"LLAMA_CPP_LIB_PATH": str(library)}


@once
def xllamacpp():
    python = venv(home_of(XLLAMACPP))
    installed(python, "xllamacpp", XLLAMACPP)
    return [python, HERE / "askers" / "xllamacpp_server.py"], {}


@once
def node_llama_cpp():
    """With the binary that its package ships for this kind of machine: the one without a GPU."""
    home = home_of(f"node-llama-cpp=={NODE_LLAMA_CPP}")
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Absent("node and npm are not installed (Debian: apt-get install nodejs npm)")
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    if not (home / "node_modules" / "@node-llama-cpp" / f"linux-{machine}").is_dir():
        home.mkdir(parents=True, exist_ok=True)
        packages = [f"node-llama-cpp@{NODE_LLAMA_CPP}", f"@node-llama-cpp/linux-{machine}@{NODE_LLAMA_CPP}"]
        # Scripts would compile or fetch what is not in the packages.
        run([npm, "install", "--prefix", home, "--ignore-scripts", "--omit=optional", "--save-exact", *packages])
    return [node, HERE / "askers" / "node_llama_cpp.mjs", home], {}


@once
def charts():
    """A Python that has matplotlib."""
    python = venv(home_of(CHARTS))
    installed(python, "matplotlib", CHARTS)
    return python


VERSIONS = {
    **{name: f"from the sources in {LLAMA_CPP_PYTHON}" for name in TOOLS},
    "llama-cpp-python": LLAMA_CPP_PYTHON,
    "xllamacpp": XLLAMACPP,
    "node-llama-cpp": f"node-llama-cpp=={NODE_LLAMA_CPP}",
}
BINDINGS = {"llama-cpp-python": llama_cpp_python, "xllamacpp": xllamacpp, "node-llama-cpp": node_llama_cpp}


def home_of(package):
    return cache_dir() / "peers" / package.replace("==", "-")


def sources_in(home):
    """The unpacked source package."""
    package = LLAMA_CPP_PYTHON
    found = list(home.glob("llama_cpp_python-*"))
    if not found:
        python = venv(home)
        with tempfile.TemporaryDirectory(dir=home) as folder:
            only_sources = ["--no-deps", "--no-binary", package.split("==")[0]]
            run([python, "-m", "pip", "download", "--quiet", *only_sources, "--dest", folder, package])
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as tar:
                tar.extractall(home, filter="data")
        found = list(home.glob("llama_cpp_python-*"))
    return found[0]


def venv(home, *packages):
    """The Python of a virtual environment there, with these packages."""
    python = home / "venv" / "bin" / "python"
    if not python.is_file():
        home.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "venv", home / "venv"])
    missing = [name for name in packages if not (python.parent / name).exists()]
    if missing:
        run([python, "-m", "pip", "install", "--quiet", *missing])
    return python


def installed(python, module, what, environment=None):
    looks = subprocess.run([python, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"])
    if looks.returncode != 0:
        say(f"installing {what} into {python.parents[2].name}, once")
        run([python, "-m", "pip", "install", "--quiet", what], environment)


def run(command, environment=None):
    environment = {**os.environ, **(environment or {})}
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise Absent(f"{Path(command[0]).name} ended with {done.returncode}: {last[:300]}")


def main():
    """Installs all of them, and says what is there."""
    for name, install in {**{name: functools.partial(program, name) for name in TOOLS}, **BINDINGS, "charts": charts}.items():
        try:
            install()
            print(f"{name}: there ({VERSIONS.get(name, CHARTS)})")
        except Absent as absent:
            print(f"{name}: absent: {absent}")


if __name__ == "__main__":
    main()
