"""What the benchmarks share: building the programs, running them, a busy host, and tables."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from statistics import median

from common import ROOT, fail, target_dir


def example(name, features=""):
    """The optimised program of an example, and what the build says of the engine in it."""
    command = ["cargo", "build", "--release", "--example", name, "--features", features]
    command.append("--message-format=json-render-diagnostics")
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        fail(f"the example {name} does not build")
    program, engine = None, {}
    for message in map(json.loads, built.stdout.splitlines()):
        if message["reason"] == "build-script-executed":
            engine.update(message["env"])
        elif message["reason"] == "compiler-artifact" and message["target"]["name"] == name:
            program = message["executable"]
    return program, engine


def build_reference(engine, name="reference"):
    """The program of tests/reference/NAME.cpp, linked with the engine archive that `example` told of."""
    archive, llama_cpp = engine["LLAMAPEN_ENGINE_ARCHIVE"], engine["LLAMAPEN_LLAMA_CPP"]
    program = target_dir() / name
    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    includes = [f"-I{llama_cpp}/include", f"-I{llama_cpp}/ggml/include"]
    source = ROOT / "tests" / "reference" / f"{name}.cpp"
    command = [*compiler, "-O2", "-std=c++17", source, *includes, archive, "-lpthread", "-ldl", "-lm", "-o", program]
    if subprocess.run(command).returncode != 0:
        fail(f"{source.relative_to(ROOT)} does not build")
    return program


def run_json(*command):
    """What a program that prints JSON prints."""
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail(f"{shlex.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def busy_host(cores):
    """Meanwhile so many processes compute, as fast as they can."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def columns(rows):
    """The first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in rows)
    return "\n".join(lines)


def spread(values, digits=2):
    """Median, least and most: one figure says nothing of a shared machine."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({low}-{high})"
