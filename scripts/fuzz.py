#!/usr/bin/env python3
"""Fuzzes what reads foreign bytes: accepted model files through llama.cpp's loader, then libFuzzer on each target.

`--seconds N` is for how long libFuzzer runs on each, `--mutants N` how many accepted files the loader gets.
"""

import argparse
import os
import sys

import deps
from common import ROOT, target_dir
from process import run

# Programs in fuzz/fuzz_targets.
TARGETS = ["gguf", "ipc"]

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


def build():
    """The targets; a status, and the folder that they are in."""
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
    return status, target / host / "release"


def fuzz(name, seconds, programs, seeds):
    """libFuzzer on one target. New inputs go to `seeds`: the first folder is its to write."""
    artifacts = ROOT / "fuzz" / "artifacts" / name
    for folder in (artifacts, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    status, _ = run(
        [
            programs / name,
            f"-max_total_time={seconds}",
            f"-artifact_prefix={artifacts}{os.sep}",
            "-max_len=65536",
            "-timeout=10",
            "-print_final_stats=1",
            seeds,
            ROOT / "tests" / "corpus" / name,
        ],
        minutes=seconds / 60 + 10,
    )
    return status


def main():
    parser = argparse.ArgumentParser(description="Fuzzes what reads foreign bytes.")
    parser.add_argument("--seconds", type=int, default=60, help="how long libFuzzer runs on each target")
    parser.add_argument("--mutants", type=int, default=50_000, help="accepted files for llama.cpp's loader")
    options = parser.parse_args()
    deps.check_tools()
    deps.make_environment()
    seeds = {name: ROOT / "fuzz" / "corpus" / name for name in TARGETS}
    status = loader(options.mutants, seeds["gguf"])
    if status == 0:
        status, programs = build()
    for name in TARGETS:
        status = status or fuzz(name, options.seconds, programs, seeds[name])
    return status


if __name__ == "__main__":
    sys.exit(main())
