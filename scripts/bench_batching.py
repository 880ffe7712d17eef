#!/usr/bin/env python3
"""What continuous batching gives and costs: many streams at once beside llama.cpp's own batched benchmark
(tests/reference/batched.cpp, on the same engine archive), known beginnings, a stream beside a long prompt, and guessing ahead.

Programs take turns within each round, so that a slow minute of the machine meets all of them; ratios are of one round,
and tables show "median (least-most)" over the rounds. Needs an otherwise idle machine; takes about eight minutes.
"""

import argparse
import json
from pathlib import Path
from statistics import median

import model
from benchmarks import build_reference, columns, example, run_json, spread
from common import say

# `why` and `holes` are not measured unless asked for: they explain what the others show.
PARTS = ["streams", "prefix", "fairness", "guesses", "holes", "why"]
ALWAYS = PARTS[:4]


class Programs:
    def __init__(self, options):
        self.ours, engine = example("bench_batching")
        self.batched = build_reference(engine, "batched")
        self.threads = ["--threads", options.threads]

    def llamapen(self, what, *options):
        return run_json(self.ours, what, "--model", model.path(), *self.threads, *options)

    def reference(self, *options, env=()):
        return run_json("env", *env, self.batched, model.path(), *self.threads, *options)


def rounds(options, what, programs, times=1):
    """The results of each round: one by name, from programs that take turns."""
    results = []
    for number in range(options.rounds * times):
        say(f"{what}, round {number + 1} of {options.rounds * times}")
        results.append({name: program() for name, program in programs.items()})
    return results


def streams(programs, options):
    """Requests that all come at once, by how many. The reference has its two kinds of KV buffers."""
    results = {}
    for n in options.streams:
        sizes = ["--streams", n, "--n-prompt", options.n_prompt, "--n-predict", options.n_predict]
        results[n] = rounds(options, f"{n} streams", {
            "llamapen": lambda: programs.llamapen("streams", *sizes),
            "apart": lambda: programs.reference(*sizes),
            "unified": lambda: programs.reference(*sizes, "--unified"),
        }, times=max(1, 4 // n))  # Few streams take so little time that one round says little.
    return results


def streams_table(results):
    head = ("streams", "llamapen, tok/s", "/ KV apart", "/ KV unified", "generating, tok/s", "/ KV apart", "/ KV unified")
    rows = [head]
    for n, of_n in results.items():
        cells = [str(n)]
        for measured in ("tok_s", "generate_tok_s"):
            cells.append(spread([r["llamapen"][measured] for r in of_n], 1))
            cells += [spread(ratios(of_n, "llamapen", other, measured)) for other in ("apart", "unified")]
        rows.append(tuple(cells))
    return columns(rows)


def ratios(results, one, other, measured):
    pairs = [(r[one][measured], r[other][measured]) for r in results]
    return [a / b for a, b in pairs if a is not None and b is not None]


def why(programs, options):
    """The same with one thing changed at a time, to see what it costs."""
    sizes = ["--streams", 16, "--n-prompt", options.n_prompt, "--n-predict", options.n_predict]
    return rounds(options, "why", {
        "llamapen": lambda: programs.llamapen("streams", *sizes),
        "prompts whole (max_stall_ms 60000)": lambda: programs.llamapen("streams", *sizes, "--max-stall-ms", 60000),
        "one thread reads all streams": lambda: programs.llamapen("streams", *sizes, "--readers", "one"),
        "reference, KV apart": lambda: programs.reference(*sizes),
        "reference, and sampling": lambda: programs.reference(*sizes, "--greedy"),
        "reference, one prompt at a time": lambda: programs.reference(*sizes, "--piece", options.n_prompt),
        "reference, pieces of 16": lambda: programs.reference(*sizes, "--piece", 16),
        "reference, each graph anew": lambda: programs.reference(*sizes, env=["LLAMA_GRAPH_REUSE_DISABLE=1"]),
    })


def why_table(results):
    rows = [("16 streams", "tok/s", "to llamapen", "calls", "tokens per call", "share of time in calls")]
    for name in results[0]:
        measured = (spread([r[name].get(key) for r in results], digits)
                    for key, digits in (("decode_calls", 0), ("tokens_per_call", 1), ("decode_share", 3)))
        speed = spread([r[name]["tok_s"] for r in results], 1)
        rows.append((name, speed, spread(ratios(results, name, "llamapen", "tok_s")), *measured))
    return columns(rows)


def holes(programs, options):
    """Half of the slots become free: the last ones, or every other one."""
    short = ["--n-prompt", 16, "--n-predict", 96]
    return {n: rounds(options, f"holes, {n} slots", {
        kind: lambda kind=kind: programs.llamapen("streams", "--streams", n, *short, "--short", kind)
        for kind in ("last", "alternate")
    }) for n in (8, 32)}


def holes_table(results):
    rows = [("slots, half of them run", "neighbours, tok/s", "every other one", "ratio")]
    for n, of_n in results.items():
        speed = [spread([r[kind]["generate_tok_s"] for r in of_n], 1) for kind in ("last", "alternate")]
        rows.append((f"{n}", *speed, spread(ratios(of_n, "alternate", "last", "generate_tok_s"))))
    return columns(rows)


def prefix(programs, options):
    sizes = ["--n-shared", options.n_shared, "--n-tail", options.n_tail]
    return rounds(options, "prefix", {"llamapen": lambda: programs.llamapen("prefix", *sizes)})


def prefix_table(results):
    rows = [("first token", "empty cache, ms", "known beginning, ms", "ratio")]
    for what, where, known in (
        ("the same slot", "one", "same_slot_ms"),
        ("the store in host memory", "one", "store_ms"),
        ("another slot, which generates", "busy", "copied_ms"),
    ):
        of_all = [(r["llamapen"][where]["cold_ms"], r["llamapen"][where][known]) for r in results]
        cold, warm = (spread(times, 0) for times in zip(*of_all))
        rows.append((what, cold, warm, spread([w / c for c, w in of_all], 3)))
    return columns(rows)


def fairness(programs, options):
    """With the default limit, and with none that is felt, for comparison."""
    def beside(stall):
        return lambda: programs.llamapen("fairness", "--n-long", options.n_long, "--max-stall-ms", stall)

    return rounds(options, "fairness", {str(stall): beside(stall) for stall in options.stalls})


def fairness_table(results):
    head = ("max_stall_ms", "piece", "prompt, s", "plain gap, ms", "gap beside, ms", "p99", "worst", "worst - (limit + plain)", "over it")
    rows = [head]
    for stall in results[0]:
        of_stall = [r[stall] for r in results]
        # What was promised: the limit, which has one decode in it. A plain decode more is what the table allows.
        limits = [float(stall) + median(r["plain"]) for r in of_stall]
        beside = [gap for r in of_stall for gap in r["beside"]]
        over = sum(gap > limit for r, limit in zip(of_stall, limits) for gap in r["beside"])
        rows.append((
            stall,
            "/".join(sorted({str(size) for r in of_stall for size in r["piece"]}, key=int)),
            spread([r["prompt_s"] for r in of_stall], 1),
            spread([gap for r in of_stall for gap in r["plain"]], 1),
            spread(beside, 0),
            spread([sorted(r["beside"])[int(len(r["beside"]) * 0.99)] for r in of_stall], 0),
            spread([max(r["beside"]) for r in of_stall], 0),
            spread([max(r["beside"]) - limit for r, limit in zip(of_stall, limits)], 0),
            f"{over} of {len(beside)}",
        ))
    return columns(rows) + "\n\n" + distribution(results)


def distribution(results):
    """How many gaps of the running stream fell where, while the prompt was decoded."""
    bounds = [20, 40, 60, 80, 90, 100, 110, 120, 150, 200, 500, 1000]
    rows = [("gaps of at most, ms", *map(str, bounds), "more")]
    for stall in results[0]:
        counts = [0] * (len(bounds) + 1)
        for gap in (gap for r in results for gap in r[stall]["beside"]):
            counts[next((i for i, bound in enumerate(bounds) if gap <= bound), len(bounds))] += 1
        rows.append((f"max_stall_ms {stall}", *map(str, counts)))
    return columns(rows)


def guesses(programs, options):
    """One stream with `draft_max` of several sizes beside none."""
    return rounds(options, "guesses", {"llamapen": lambda: programs.llamapen("guesses")})


def guesses_table(results):
    first = results[0]["llamapen"]
    sizes = [size for size in next(iter(first.values())) if size != "0"]
    rows = [("text", "tok/s without", *(f"draft_max {size}" for size in sizes), f"right of guessed, {sizes[-1]}")]
    for text, of_sizes in first.items():
        def speeds(size):
            return [r["llamapen"][text][size]["tok_s"] for r in results]

        gains = (spread([a / b for a, b in zip(speeds(size), speeds("0"))]) for size in sizes)
        last = of_sizes[sizes[-1]]
        rows.append((text, spread(speeds("0"), 1), *gains, f"{last['right']} of {last['guessed']}"))
    return columns(rows)


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description="Measures many requests in one worker.")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=ALWAYS, help=f"of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", type=numbers, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--n-prompt", type=int, default=64, help="tokens of each prompt of `streams`")
    parser.add_argument("--n-predict", type=int, default=48, help="tokens that each of them generates")
    parser.add_argument("--n-shared", type=int, default=1500, help="tokens that the prompts of `prefix` share")
    parser.add_argument("--n-tail", type=int, default=32, help="tokens that they do not share")
    parser.add_argument("--n-long", type=int, default=2000, help="tokens of the long prompt of `fairness`")
    parser.add_argument("--stalls", type=numbers, default=[100, 60000], help="values of max_stall_ms for `fairness`")
    parser.add_argument("--json", type=Path, help="also write all results of all rounds to this file")
    options = parser.parse_args()
    if not set(options.parts) <= set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}")

    programs = Programs(options)
    results = {}
    for part in options.parts:
        results[part] = globals()[part](programs, options)
        print(f"{part}: {globals()[part].__doc__ or ''}".strip(), globals()[f"{part}_table"](results[part]), sep="\n", end="\n\n", flush=True)
    if options.json:
        sizes = {name: value for name, value in vars(options).items() if name not in ("json", "parts")}
        options.json.write_text(json.dumps({"options": sizes, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
