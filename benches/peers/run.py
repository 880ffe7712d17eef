#!/usr/bin/env python3
"""llamapen beside other ways to llama.cpp, on the same files, in one run: they take turns, and what counts is the ratio of each round.

Needs a release build of the library (`cargo build --release`) and an otherwise idle machine; takes minutes. Prints tables, and
with --json puts what it measured into a file, in the place of what was there of the same parts and models. `install.py` gets
the peers; `report.py` makes tables and a chart of the file.
"""

import argparse
import datetime
import json
import os
import platform
from pathlib import Path

import sides  # First: it says where the scripts are.
import model
from measures import PARTS, USUAL
from table import HEAD, Table, versions


def machine():
    """As it tells of itself, without names."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")}
    return f"{os.cpu_count()} CPUs, {', '.join(sorted(names)) or platform.machine()}, Linux {platform.release().split('-')[0]}"


def measure(part, path, rounds):
    """One part for one file, as it is kept."""
    table = Table(rounds)
    PARTS[part](path, table)
    build = sides.llamapen.build_info()
    library = {name: build[name] for name in ("llamapen_version", "llama_cpp_version", "engine_digest", "features")}
    return {"part": part, "model": Path(path).stem, "date": datetime.date.today().isoformat(), "rounds": rounds, "machine": machine(),
            "library": library, "peers": versions(table.absent), "left_out": table.left_out, "rows": table.rows}


def keep(file, new):
    """Puts new parts into the file, which has its parts in the order of the models, then of PARTS."""
    old = json.loads(file.read_text())["parts"] if file.is_file() else []
    key = {(part["model"], part["part"]): part for part in [*old, *new]}
    models = list(dict.fromkeys(part["model"] for part in [*old, *new]))
    parts = sorted(key.values(), key=lambda part: (models.index(part["model"]), list(PARTS).index(part["part"])))
    file.write_text(json.dumps({"parts": parts}, indent=1, ensure_ascii=False) + "\n")


def main():
    parts = "\n".join(f"  {name:10}{part.__doc__.splitlines()[0]}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=f"parts:\n{parts}", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to put what was measured")
    usual = f"which parts, or all; usually {' '.join(USUAL)}"
    parser.add_argument("--only", nargs="+", default=USUAL, choices=[*PARTS, "all"], metavar="PART", help=usual)
    parser.add_argument("--models", nargs="+", help="other files than the small model, such as those of requantise.py")
    options = parser.parse_args()
    wanted = PARTS if "all" in options.only else options.only
    print(HEAD, flush=True)
    for path in options.models or [model.path()]:
        for part in (part for part in PARTS if part in wanted):
            found = measure(part, path, options.rounds)
            for name, version in found["peers"].items():
                if version.startswith("absent"):
                    print(f"| {name} | {version} |", flush=True)
            if options.json:
                keep(options.json, [found])


if __name__ == "__main__":
    main()
