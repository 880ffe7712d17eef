"""What is measured, a function each: it gets the file and a table, and adds rows."""

import contextlib
import functools
import json
import os
import signal
import threading
import time
from statistics import median

import page_cache
from benchmarks import busy_host, example, run_json
from sides import Asker, Ours, Server, bench, llamapen, prompt, share_of_memory, together
from table import LeftOut, Quantity

CORES = os.cpu_count()
# Times llama-server's throughput, by streams.
WANTED = {2: 1.7, 4: 1.2, 8: 1.2, 32: 1.1}
BINDINGS = ("llama-cpp-python", "xllamacpp", "node-llama-cpp")


def with_side(make, use):
    """A measurement with a side of its own."""
    def measure(round_):
        with contextlib.closing(make()) as side:
            return use(side, round_)

    return measure


def decode_rate(side, _):
    side.ask(prompt(1, 16), 8)
    answer = side.ask(prompt(3, 1), 129)
    return (answer.count - 1) / (answer.last - answer.first)


def prefill_rate(side, round_):
    side.ask(prompt(1, 16), 8)
    return 512 / side.ask(prompt(round_ + 2, 512), 1).first


def llama_bench(path, *tests):
    return lambda _: json.loads(bench("llama-bench", path, *tests, "-r", 1, "-o", "json"))[0]["avg_ts"]


def decode(path, table):
    """One stream, generating, beside llama-bench with as many threads."""
    table.measure([Quantity("decode, one stream", "tokens/s", wanted={"llama-bench": 1.05})], {
        "llamapen": with_side(lambda: Ours(path), decode_rate),
        "llama-bench": {f"-t {CORES}": llama_bench(path, "-p", 0, "-n", 128)},
    })


def prefill(path, table):
    """A prompt of 512 tokens until its first token, beside llama-bench with as many threads."""
    table.measure([Quantity("prefill 512", "tokens/s", wanted={"llama-bench": 0.97})], {
        "llamapen": with_side(lambda: Ours(path, n_ubatch=512), prefill_rate),
        "llama-bench": {f"-t {CORES}": llama_bench(path, "-p", 512, "-n", 0)},
    })


def bindings(path, table):
    """Decode and prefill beside what embeds llama.cpp in other ways, by the API of each that is closest to its loop."""
    for quantity, rate in (("decode, one stream", decode_rate), ("prefill 512", prefill_rate)):
        sides = {name: with_side(lambda name=name: Asker(name, path), rate) for name in BINDINGS}
        table.measure([Quantity(quantity, "tokens/s")], {"llamapen": with_side(lambda: Ours(path, n_ubatch=512), rate), **sides})


def streams(path, table, counts=(2, 4, 8, 32)):
    """Requests that come at once, beside llama-server with the best of three settings."""
    for n in counts:
        tokens = 96 if n < 32 else 32

        def of(side, round_, n=n, tokens=tokens):
            together(side, min(n, 2), 8, 99)
            return together(side, n, tokens, round_)

        settings = dict.fromkeys([(n, CORES), (n, 1), (max(n // 2, 1), CORES)])
        servers = {f"-np {slots} -t {threads}": with_side(lambda s=slots, t=threads: Server(path, s, t), of) for slots, threads in settings}
        quantity = Quantity(f"{n} streams", "tokens/s", wanted={"llama-server": WANTED.get(n)})
        with contextlib.closing(Ours(path, n)) as ours:
            table.measure([quantity], {"llamapen": lambda r: of(ours, r), "llama-server": servers})


def batched(path, table, counts=(1, 2, 4, 8, 16, 32)):
    """Requests that come at once, beside llama.cpp's batched loop, which samples nothing."""
    for n in counts:
        tokens = 96 if n < 32 else 32

        def loop(*options, n=n, tokens=tokens):
            sizes = ["-c", n * (32 + tokens), "-npp", 32, "-ntg", tokens, "-npl", n, "--output-format", "jsonl", *options]
            lines = bench("llama-batched-bench", path, *sizes).splitlines()
            result = next(json.loads(line) for line in lines if line.startswith("{"))
            return n * tokens / result["t"]

        with contextlib.closing(Ours(path, n)) as ours:
            together(ours, min(n, 2), 8, 99)
            table.measure([Quantity("1 stream with its prompt" if n == 1 else f"{n} streams", "tokens/s")], {
                "llamapen": lambda r, n=n, tokens=tokens: together(ours, n, tokens, r),
                "llama-batched-bench": {f"-t {CORES}": lambda _: loop(), f"-t {CORES} -kvu": lambda _: loop("-kvu")},
            })


def prefix(path, table):
    """Time to the first token of a prompt of 1,500 tokens, with an empty cache, and with the first 1,500 known."""
    shared = prompt(5, 1500)

    def first_token(side, round_):
        new = side.ask([*shared, *prompt(round_ + 50, 8)], 2).first
        known = median(side.ask([*shared, *prompt(round_ + 60 + i, 8)], 2).first for i in range(3))
        return new * 1e3, known * 1e3

    new, known = (Quantity(f"first token, 1,500 {kind} tokens", "ms", True, wanted)
                  for kind, wanted in (("new", {}), ("known", {"llama-server": 0.97})))
    table.measure([new, known], {
        "llamapen": with_side(lambda: Ours(path, 2, n_ctx=2048), first_token),
        "llama-server": {f"-np 2 -t {CORES}": with_side(lambda: Server(path, 2, context=2048), first_token)},
    })


def busy(path, table):
    """One stream while the host burns all cores with a process each."""
    def beside(side, round_):
        side.ask(prompt(1, 16), 4)
        with busy_host(CORES):
            return together(side, 1, 48, round_)

    table.measure([Quantity("one stream beside a busy host", "tokens/s", wanted={"llama-server": 1.2})], {
        "llamapen": with_side(lambda: Ours(path), beside),
        "llama-server": {f"-np 1 -t {CORES}": with_side(lambda: Server(path), beside)},
    })


bench_process = functools.cache(lambda: example("bench_process", features="fault-injection")[0])


def process_bench(what, path, *options):
    """One of the measurements of examples/bench_process: a host without Python."""
    return run_json(bench_process(), what, "--model", path, *options)


def memory(path, table):
    """After eight requests at once, with workers that are threads, and with workers that are processes."""
    def of_ours(tier):
        sizes = ["--expected-streams", 8, "--n-prompt", 32, "--n-predict", 32]
        found = process_bench("memory", path, "--isolation", tier, *sizes)
        return found["pss"] / 2**20, found["rss"] / 2**20

    def of_server(side, round_):
        together(side, 8, 32, round_)
        return share_of_memory(side.process.pid), None

    server = {f"-np 8 -t {CORES}": with_side(lambda: Server(path, 8), of_server)}
    for tier, name in (("thread", "threads"), ("process", "processes")):
        what = f"memory at 8 streams, {name}"
        quantities = [Quantity(f"{what}: all together, PSS", "MiB", True, {"llama-server": 1.0 if tier == "thread" else None}),
                      Quantity(f"{what}: the host, RSS", "MiB", True, alone=True)]
        table.measure(quantities, {"llamapen": lambda _, tier=tier: of_ours(tier), "llama-server": server})


def load(path, table):
    """From the start until it is ready, and then until the first token of a short prompt; the file is in the page cache, or not.

    Bindings are imported before."""
    with page_cache.own_copy(path) as copy:
        def times(cold):
            def of(make):
                def measure(round_):
                    stayed = page_cache.drop(copy) if cold else page_cache.fill(copy)
                    if cold and stayed > 0.01:
                        raise LeftOut(f"{stayed:.0%} of the file stayed in the page cache")
                    with contextlib.closing(make()) as side:
                        return side.load * 1e3, (side.load + side.ask(prompt(round_, 16), 1).first) * 1e3

                return measure

            return of

        for cold in (True, False):
            of, cached = times(cold), "not cached" if cold else "cached"
            peers = {name: of(lambda name=name: Asker(name, copy)) for name in BINDINGS}
            quantities = [Quantity(f"{what}, file {cached}", "ms", True) for what in ("loading", "loading to first token")]
            table.measure(quantities, {"llamapen": of(lambda: Ours(copy)), "llama-server": of(lambda: Server(copy)), **peers})


def crash(path, table):
    """From the death of what computes, in the middle of a stream, until the first token of a new request."""
    after = {"backoff_initial_ms": 1, "quarantine_ms": 0, "taint": "continue", "max_restarts": 1000}

    def dies_of(kill):
        def measure(side, round_):
            # A warm spare is loaded after the worker is ready.
            time.sleep(2)
            stream = iter(side.submit(prompt(1, 64), 400, max_resumes=0))
            for _ in zip(range(10), stream):
                pass
            reader = threading.Thread(target=lambda: list(stream))
            reader.start()
            began = time.monotonic()
            kill(side)
            side.ask(prompt(round_ + 2, 8), 1)
            took = time.monotonic() - began
            reader.join()
            return took * 1e3

        return measure

    def kill_child(side):
        os.kill(side.supervisor.health()["workers"][0]["process"]["pid"], signal.SIGKILL)

    def write_to_null(side):
        if "fault-injection" not in llamapen.build_info()["features"]:
            raise LeftOut("it takes a library that was built with the feature fault-injection")
        side.submit(prompt(9, 1), 8, max_resumes=0, fault="null_write")

    def server_again(round_):
        with contextlib.closing(Server(path)) as server:
            events = server.events(prompt(1, 64), 400)
            for _ in zip(range(10), events):
                pass
            began = time.monotonic()
            server.kill()
        with contextlib.closing(Server(path)) as server:
            server.ask(prompt(round_ + 2, 8), 1)
            return (time.monotonic() - began) * 1e3

    for what, kill, config in (
        ("SIGKILL of the worker process", kill_child, {"isolation": "process"}),
        ("the same with a warm spare", kill_child, {"isolation": "process", "warm_spare": True}),
        ("a null write in a worker thread", write_to_null, {"isolation": "thread", "streams": 2}),
    ):
        ours = with_side(lambda config=config: Ours(path, supervisor=after, **config), dies_of(kill))
        server = {"killed, started again": server_again}
        table.measure([Quantity(f"crash to next token: {what}", "ms", True)], {"llamapen": ours, "llama-server": server})


def overhead(path, table):
    """What the library adds to a request of one token to a worker that has nothing to do."""
    names = {"submit_us": "submit until it returns", "taken_up_us": "submit until the worker has it", "event_us": "last event until the consumer has it"}
    tiers = {"thread": "threads", "process": "processes"}

    def medians(_):
        found = process_bench("latency", path, "--requests", 100)
        return [found[tier][what]["p50"] for tier in tiers for what in names]

    quantities = [Quantity(f"{what}, {tier}", "µs", True) for tier in tiers.values() for what in names.values()]
    table.measure(quantities, {"llamapen": medians})


# In the order of a run.
PARTS = {part.__name__: part for part in (decode, prefill, streams, prefix, busy, memory, batched, bindings, load, crash, overhead)}
# What a run measures that is asked for nothing else.
USUAL = ["decode", "prefill", "streams", "prefix", "busy", "memory"]
