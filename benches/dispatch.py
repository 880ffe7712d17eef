#!/usr/bin/env python3
"""The library for every x86-64 (LLAMAPEN_TARGET_CPU=dispatch) beside the one for this machine alone, in one run: a process each, which
take turns, and what counts is the ratio of each round.

Builds both, into the target folder; wants an otherwise idle machine, and takes minutes. Prints a table. `--levels NAMES` also shows what
levels below the best are worth.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "scripts"), str(ROOT / "python")]
import model  # noqa: E402
from common import fail, target_dir  # noqa: E402

PROMPT, TOKENS = 512, 64


def words(seed, n):
    """Tokens of plain words, other ones for another seed."""
    return [1000 + (i * 7919 + seed * 7001) % 20000 for i in range(n)]


def child():
    """Measures whenever it is told a seed, and says what: tokens per second of a prompt, and of what follows."""
    import llamapen

    with llamapen.Supervisor(llamapen.prepare(str(model.path()), n_ctx=1024, streams=1)) as supervisor:
        supervisor.wait_ready(120)
        print(json.dumps(llamapen.machine(devices=False).get("cpu_level")), flush=True)
        for line in sys.stdin:
            began, times = time.monotonic(), []
            request = supervisor.submit(tokens=words(int(line), PROMPT), max_tokens=TOKENS, ignore_eos=True, temperature=0)
            for event in request:
                if isinstance(event, llamapen.Token):
                    times.append(time.monotonic())
            prefill, decode = PROMPT / (times[0] - began), (TOKENS - 1) / (times[-1] - times[0])
            print(json.dumps({"prefill": prefill, "decode": decode}), flush=True)


class Contestant:
    def __init__(self, name, library, **env):
        self.name, self.seen = name, []
        env = {**os.environ, "LLAMAPEN_LIBRARY": str(library), **env}
        command = [sys.executable, __file__, "--child"]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.level = json.loads(self.process.stdout.readline() or fail(f"{name} did not start"))

    def measure(self, seed):
        print(seed, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline() or fail(f"{self.name} ended"))


def build(cpu):
    """The library for this `LLAMAPEN_TARGET_CPU`, apart from the next."""
    command = ["cargo", "build", "--release", "--lib"]
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "LLAMAPEN_TARGET_CPU": cpu}).returncode != 0:
        fail(f"the library for {cpu} does not build")
    folder = target_dir() / "bench-dispatch" / cpu
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.copy2(target_dir() / "release" / "libllamapen.so", folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--levels", nargs="+", default=[], metavar="LEVEL", help="levels below the best that take part, too")
    parser.add_argument("--built", action="store_true", help="take the libraries of the last run")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child()

    folder = target_dir() / "bench-dispatch"
    libraries = {cpu: folder / cpu / "libllamapen.so" if options.built else Path(build(cpu)) for cpu in ("native", "dispatch")}
    native, dispatch = Contestant("native", libraries["native"]), Contestant("dispatch", libraries["dispatch"])
    levels = [Contestant(level, libraries["dispatch"], LLAMAPEN_CPU_LEVEL=level) for level in options.levels]
    others = [dispatch, *levels]
    for one in (native, *others):
        one.measure(0)
    for number in range(1, options.rounds + 1):
        # Forwards and back, so that nobody is always the first.
        order = [native, *others][:: 1 if number % 2 else -1]
        for one in order:
            one.seen.append(one.measure(number))
    print(f"{model.path().name}, {options.rounds} rounds; ratio to native: median (least to most)")
    for one in (native, *others):
        row = f"{one.name:16} {one.level or '':15} {libraries['native' if one is native else 'dispatch'].stat().st_size / 1e6:5.1f} MB"
        for what in ("decode", "prefill"):
            ratios = [mine[what] / its[what] for mine, its in zip(one.seen, native.seen)]
            row += f"   {what} {median(mine[what] for mine in one.seen):6.1f}/s  {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(row)


if __name__ == "__main__":
    main()
