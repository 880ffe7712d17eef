#!/usr/bin/env python3
"""What it costs that workers are processes, beside workers that are threads: throughput, how soon a request is taken up, crash to
a replacement that is ready, memory.

Both tiers are in one program and take turns, so that a slow minute of the machine meets both; ratios are of one turn each, and
tables show "median (least-most)". Needs an otherwise idle machine; takes about five minutes.
"""

import argparse
import json
from pathlib import Path

import model
from benchmarks import columns, example, run_json, spread
from common import say

PARTS = ["streams", "latency", "restarts", "memory"]
TIERS = ["thread", "process"]
# Streams, workers, slots and threads of each, tokens of each stream.
STREAMS = {
    "1 stream": (1, 1, 1, 2, 192),
    "8 streams, 1 worker": (8, 1, 8, 2, 64),
    "8 streams, 2 workers": (8, 2, 4, 1, 64),
}
CRASHES = {
    "SIGKILL, cold": ["--cause", "kill"],
    "SIGKILL, warm spare": ["--cause", "kill", "--warm-spare", "true"],
    "null write, cold": ["--cause", "null-write", "--slots", 2],
    "null write, warm spare": ["--cause", "null-write", "--slots", 2, "--warm-spare", "true"],
    "null write, thread": ["--cause", "null-write", "--slots", 2, "--isolation", "thread"],
}


def streams(run, options):
    """Tokens per second, from the first submit to the last token."""
    results = {}
    for name, (n, workers, slots, threads, n_predict) in STREAMS.items():
        say(f"streams: {name}")
        results[name] = run("streams", "--streams", n, "--workers", workers, "--slots", slots, "--threads", threads,
                            "--n-predict", n_predict, "--rounds", options.rounds)
    return results


def streams_table(results):
    rows = [("", "threads, tok/s", "processes, tok/s", "processes / threads", "the same while all generate")]
    for name, of in results.items():
        speeds = [spread([r["tok_s"] for r in of[tier]], 1) for tier in TIERS]
        ratios = [[p[what] / t[what] for t, p in zip(*(of[tier] for tier in TIERS))] for what in ("tok_s", "steady_tok_s")]
        rows.append((name, *speeds, *(spread(of_turns, 3) for of_turns in ratios)))
    return columns(rows)


def latency(run, options):
    """Of a request with one token to a worker that has nothing to do; 50th, 90th and 99th percentile, in microseconds."""
    say("latency")
    return run("latency", "--requests", options.requests)


def latency_table(results):
    rows = [("from submit until", *(f"{tier}, {part}" for tier in TIERS for part in ("p50", "p90", "p99")))]
    for what, name in (("submit_us", "it returns"), ("taken_up_us", "the worker's loop has it"),
                       ("started_us", "its Started event is here"), ("token_us", "its token is here"),
                       ("event_us", "the consumer has the last event, from when the worker gave it")):
        rows.append((name, *(f"{results[tier][what][part]:.0f}" for tier in TIERS for part in ("p50", "p90", "p99"))))
    return columns(rows)


def restarts(run, options):
    """A worker dies in the middle of a stream; milliseconds from then on."""
    results = {}
    for name, how in CRASHES.items():
        say(f"restarts: {name}")
        results[name] = run("restarts", *how, "--rounds", options.crashes)
    return results


def restarts_table(results):
    rows = [("", "the stream hears of it", "a replacement is ready", "its 90th percentile", "its replay, then the next token",
             "tokens of history")]
    for name, of in results.items():
        ready = sorted(r["ready_ms"] for r in of)
        replay = [r["token_ms"] - r["ready_ms"] for r in of]
        rows.append((name, spread([r["heard_ms"] for r in of], 1), spread(ready, 0), f"{ready[(len(ready) - 1) * 9 // 10]:.0f}",
                     spread(replay, 0), spread([r["history"] for r in of], 0)))
    return columns(rows)


def memory(run, options):
    """After some requests, in MiB: each in a process of its own."""
    results = {}
    for workers in (1, 2):
        for tier in TIERS:
            say(f"memory: {tier}, {workers}")
            results[f"{tier}, workers: {workers}"] = run("memory", "--isolation", tier, "--workers", workers, "--slots", 4, "--threads", 1)
    return results


def memory_table(results):
    rows = [("", "host, RSS", "of which since it began", "host, PSS", "host and children, PSS")]
    for name, of in results.items():
        rows.append((name, *(f"{of[what] / 2**20:.1f}" for what in ("rss", "grown", "pss_host", "pss"))))
    return columns(rows)


def main():
    parser = argparse.ArgumentParser(description="Measures workers that are processes beside workers that are threads.")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=PARTS, help=f"of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each tier in `streams`")
    parser.add_argument("--requests", type=int, default=400, help="of each tier in `latency`")
    parser.add_argument("--crashes", type=int, default=20, help="of each kind in `restarts`")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    options = parser.parse_args()
    if not set(options.parts) <= set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}")

    program, _ = example("bench_process", features="fault-injection")

    def run(what, *more):
        return run_json(program, what, "--model", model.path(), *more)

    results = {}
    for part in options.parts:
        results[part] = globals()[part](run, options)
        print(f"{part}: {globals()[part].__doc__}", globals()[f"{part}_table"](results[part]), sep="\n", end="\n\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
