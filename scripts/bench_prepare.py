#!/usr/bin/env python3
"""What `prepare` costs: time and memory, on the small model and on 40 GB models whose weights are a hole in the file.

Each model is measured in a process of its own, with its header in the page cache. Needs an otherwise idle machine; takes
seconds, and next to no disk where the file system knows holes.
"""

import argparse
import json
import tempfile
from pathlib import Path

import model
from benchmarks import columns, example, run_json
from common import say

# Milliseconds and bytes, each of them to stay under.
TARGETS = {"small": {"prepare_ms": 20, "growth_bytes": 32 << 20}, "large": {"prepare_on_ms": 50, "growth_bytes": 32 << 20}}
ROWS = [
    ("file, GB", "bytes", 1e9),
    ("header, MB", "header_bytes", 1e6),
    ("memory growth, MiB", "growth_bytes", 1 << 20),
    ("prepare, ms", "prepare_ms", 1),
    ("prepare_on a snapshot, ms", "prepare_on_ms", 1),
    ("preflight, ms", "preflight_ms", 1),
    ("observing the machine, ms", "observe_ms", 1),
    ("reading the header, ms", "header_ms", 1),
    ("hashing the file, GB/s", "hash_gb_per_s", 1),
]


def measure(program, rounds):
    """Results by model, as the example prints them."""
    results = {"SmolLM2-135M Q4_1": run_json(program, model.path(), rounds)}
    # One at a time, for file systems that know no holes.
    with tempfile.TemporaryDirectory(prefix="llamapen-bench-") as folder:
        for kind in ("f16", "q4_k"):
            file = Path(folder) / f"{kind}.gguf"
            run_json(program, "--large", kind, file)
            results[f"llama, {kind.upper()}"] = run_json(program, file, rounds)
            file.unlink()
    return results


def missed(results):
    """Targets that were not met, in words."""
    for name, result in results.items():
        for measured, target in TARGETS["small" if result["bytes"] < 1 << 30 else "large"].items():
            if result[measured] is None or result[measured] >= target:
                yield f"{name}: {measured} is {result[measured]}, the target is under {target}"


def table(results):
    def cell(result, key, unit):
        return "-" if result[key] is None else f"{result[key] / unit:.2f}"

    return columns([("", *results)] + [(what, *(cell(r, key, unit) for r in results.values())) for what, key, unit in ROWS])


def main():
    parser = argparse.ArgumentParser(description="Measures what prepare() costs.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args()

    program, _ = example("bench_prepare")
    results = measure(program, options.rounds)
    print(json.dumps(results, indent=2) if options.json else table(results))
    for name, result in results.items():
        if result["refused"]:
            say(f"{name} cannot be prepared for this machine, only for one of 64 GiB: {result['refused']}")
    for text in missed(results):
        say(f"missed: {text}")


if __name__ == "__main__":
    main()
