#!/usr/bin/env python3
"""Fuzzes the GGUF reader: accepted mutants through llama.cpp's loader, then libFuzzer on the reader itself.

`--seconds N` is for how long libFuzzer runs, `--mutants N` how many accepted files the loader gets.
"""

import argparse
import os
import sys

import deps
from common import ROOT, target_dir
from process import run

# What cargo-fuzz passes too: SanitizerCoverage, which needs no nightly, only sanitizers do.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
]


def loader(mutants, seeds):
    """Accepted mutants through the loader; leaves a sound model of each architecture in `seeds`."""
    seeds.mkdir(parents=True, exist_ok=True)
    status, _ = run(
        ["cargo", "test", "--lib", "loader_tests", "--", "--nocapture"],
        minutes=120,
        env={"LLAMAPEN_MUTANTS": str(mutants), "LLAMAPEN_SEEDS": str(seeds)},
    )
    return status


def reader(seconds, seeds):
    """libFuzzer on the reader."""
    _, version = run(["rustc", "-vV"], minutes=1)
    host = next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))
    # For the target only: with a target named, Cargo leaves build scripts as they are.
    flags = f"CARGO_TARGET_{host.upper().replace('-', '_')}_RUSTFLAGS"
    target = target_dir() / "fuzz"
    manifest = ROOT / "fuzz" / "Cargo.toml"
    status, _ = run(
        ["cargo", "build", "--release", "--manifest-path", manifest, "--target", host, "--target-dir", target],
        minutes=60,
        env={flags: " ".join(COVERAGE)},
    )
    if status != 0:
        return status
    artifacts = ROOT / "fuzz" / "artifacts" / "gguf"
    artifacts.mkdir(parents=True, exist_ok=True)
    status, _ = run(
        [
            target / host / "release" / "gguf",
            f"-max_total_time={seconds}",
            f"-artifact_prefix={artifacts}{os.sep}",
            "-max_len=65536",
            "-timeout=10",
            "-print_final_stats=1",
            seeds,
            ROOT / "tests" / "corpus" / "gguf",
        ],
        minutes=seconds / 60 + 10,
    )
    return status


def main():
    parser = argparse.ArgumentParser(description="Fuzzes the GGUF reader.")
    parser.add_argument("--seconds", type=int, default=60, help="how long libFuzzer runs")
    parser.add_argument("--mutants", type=int, default=50_000, help="accepted files for llama.cpp's loader")
    options = parser.parse_args()
    deps.check_tools()
    deps.make_environment()
    # New inputs go there: the first folder is libFuzzer's to write.
    seeds = ROOT / "fuzz" / "corpus" / "gguf"
    return loader(options.mutants, seeds) or reader(options.seconds, seeds)


if __name__ == "__main__":
    sys.exit(main())
