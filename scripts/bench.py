#!/usr/bin/env python3
"""Speed of one stream through llamapen beside a plain llama.cpp loop (tests/reference), on the same engine archive.

The programs take turns (A B C A B C ...), so that a slow minute of the machine meets all of them, and the ratios of
each round are compared, by their median. The second half repeats this with a busy host: a thread that computes on
one core. Needs an otherwise idle machine; takes minutes.
"""

import argparse
import json
import re
import shlex
import subprocess
from statistics import median

import model
from benchmarks import build_reference, busy_host, columns, example
from common import ROOT, fail, say

PROMPT = ROOT / "benches" / "throughput" / "prompt.txt"
MEASURES = {"prefill": "prefill_tok_s", "decode": "decode_tok_s"}


def build():
    """The programs by name, as commands without their common options."""
    ours, engine = example("bench_stream")
    reference = build_reference(engine)
    reference = [reference, model.path(), "--prompts", PROMPT, "--bench", "--ignore-eos"]
    return {
        "llamapen": [ours, "--model", model.path(), "--prompt-file", PROMPT],
        # Its threads begin and end with each decode: what llama.h gives a program that asks for nothing else.
        "plain": reference,
        # Its threads stay and poll, as in llama.cpp's own tools.
        "pool": [*reference, "--threadpool"],
    }


def measure(command, options):
    """Tokens per second of one run, by measure."""
    common = ["--threads", options.threads, "--n-predict", options.n_predict, "--n-ctx", 2048, "--n-ubatch", 512]
    command = [str(part) for part in (*command, *common)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found = {name: re.search(rf"\b{field}=([0-9.]+)", done.stdout) for name, field in MEASURES.items()}
    if done.returncode != 0 or not all(found.values()):
        fail(f"{shlex.join(command)}\nended with {done.returncode} and printed no speed:\n{done.stdout}")
    return {name: float(match.group(1)) for name, match in found.items()}


def rounds(programs, options, what):
    """One dictionary of results per round, and the programs in turn in each."""
    results = []
    for number in range(options.rounds):
        results.append({name: measure(command, options) for name, command in programs.items()})
        shown = ", ".join(f"{name} {speed['decode']:.1f}" for name, speed in results[-1].items())
        say(f"{what}, round {number + 1} of {options.rounds}, decode tok/s: {shown}")
    return results


def summary(idle, busy):
    """The medians: speeds, llamapen's speed by each program's, and what a busy host leaves of the idle speed."""

    def speed(results, name):
        return median(r[name][measured] for r in results)

    def ours_to(results, name):
        return median(r["llamapen"][measured] / r[name][measured] for r in results)

    report = {}
    for measured in MEASURES:
        report[measured] = {
            name: {
                "idle_tok_s": round(speed(idle, name), 2),
                "busy_tok_s": round(speed(busy, name), 2),
                "busy_to_idle": round(speed(busy, name) / speed(idle, name), 3),
                "llamapen_to_this_idle": round(ours_to(idle, name), 3),
                "llamapen_to_this_busy": round(ours_to(busy, name), 3),
            }
            for name in idle[0]
        }
    return report


def table(report):
    head = ("tokens per second", "idle", "busy", "busy/idle", "llamapen/this, idle", "busy")
    return columns([head] + [
        (f"{measured}, {name}", *map(str, values.values())) for measured, by in report.items() for name, values in by.items()
    ])


def main():
    parser = argparse.ArgumentParser(description="Measures llamapen beside a plain llama.cpp loop.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n-predict", type=int, default=256, help="tokens per run")
    parser.add_argument("--json", action="store_true", help="print all rounds and the medians as JSON, not a table")
    options = parser.parse_args()

    programs = build()
    for command in programs.values():
        measure(command, options)  # The first run reads the model from the disk: not counted.
    idle = rounds(programs, options, "idle")
    with busy_host(cores=1):
        busy = rounds(programs, options, "busy")
    report = summary(idle, busy)
    print(json.dumps({"medians": report, "idle": idle, "busy": busy}, indent=2) if options.json else table(report))


if __name__ == "__main__":
    main()
