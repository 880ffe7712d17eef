#!/usr/bin/env python3
"""llamapen beside llama.cpp's own programs, on the same file, in one run: they take turns, and what counts is the ratio of each round.

Needs a release build of the library (`cargo build --release`) and an otherwise idle machine; takes minutes. Prints a table and writes
what it measured as JSON. The peers are built by `install.py`.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "scripts"), str(ROOT / "python")]
import install  # noqa: E402
import model  # noqa: E402
from common import target_dir  # noqa: E402

os.environ.setdefault("LLAMAPEN_LIBRARY", str(target_dir() / "release" / "libllamapen.so"))
import llamapen  # noqa: E402
from llamapen import Token  # noqa: E402

PORT = 18080
# Times llama-server's throughput, by streams.
WANTED = {2: 1.7, 4: 1.2, 8: 1.2, 32: 1.1}
CONTEXT = 1024


def prompt(seed, n):
    """Tokens of plain words, other ones for another seed."""
    return [1000 + (i * 7919 + seed * 7001) % 20000 for i in range(n)]


class Ours:
    """A supervisor, as `streams` has it."""

    def __init__(self, path, streams, **config):
        self.supervisor = llamapen.Supervisor(llamapen.prepare(str(path), **{"n_ctx": CONTEXT, "streams": streams, **config}))
        self.supervisor.wait_ready(120)

    def ask(self, tokens, n):
        """Seconds until the first token, and how many came."""
        began, first, count = time.monotonic(), None, 0
        for event in self.supervisor.submit(tokens=tokens, max_tokens=n, ignore_eos=True, temperature=0):
            if isinstance(event, Token):
                first = first or time.monotonic() - began
                count += 1
        return first, count

    def close(self):
        self.supervisor.close()


class Server:
    """llama-server, one context for all slots."""

    def __init__(self, program, path, slots, threads, context=CONTEXT):
        command = [program, "-m", path, "-t", threads, "-np", slots, "-c", context * slots, "--port", PORT, "--no-webui"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(part) for part in command], stdout=self.log, stderr=self.log)
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                if json.load(urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health"))["status"] == "ok":
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                sys.exit(f"llama-server did not start:\n{self.log.read().decode()[-3000:]}")
            time.sleep(0.05)

    def ask(self, tokens, n):
        body = {"prompt": tokens, "n_predict": n, "ignore_eos": True, "temperature": 0, "stream": True, "cache_prompt": True}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
        began, first, count = time.monotonic(), None, 0
        with urllib.request.urlopen(request) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if event.get("tokens") or event.get("content"):
                        first = first or time.monotonic() - began
                    if event.get("stop"):
                        count = event["tokens_predicted"]
        return first, count

    def close(self):
        self.process.terminate()
        self.process.wait()


def together(side, streams, n, seed):
    """Tokens per second of so many requests that come at once."""
    counts = [0] * streams

    def one(i):
        counts[i] = side.ask(prompt(seed * 1000 + i, 32), n)[1]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(streams)]
    began = time.monotonic()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    took = time.monotonic() - began
    assert sum(counts) == streams * n, counts
    return streams * n / took


def resident(pid):
    """Bytes of memory that the process has: what it shares with others in part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


@contextlib.contextmanager
def busy_cores():
    """The host burns all cores with one thread each."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def bench(program, path, threads, kind):
    """Tokens per second by llama-bench."""
    tests = ["-p", "512", "-n", "0"] if kind == "prefill" else ["-p", "0", "-n", "128"]
    command = [program, "-m", path, "-t", threads, *tests, "-r", 1, "-o", "json"]
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout)[0]["avg_ts"]


def ours_alone(path, kind):
    side = Ours(path, 1, **({"n_ubatch": 512} if kind == "prefill" else {}))
    try:
        side.ask(prompt(1, 16), 8)
        if kind == "prefill":
            first, _ = side.ask(prompt(2, 512), 1)
            return 512 / first
        times = [time.monotonic() for event in side.supervisor.submit(tokens=prompt(3, 1), max_tokens=129, ignore_eos=True, temperature=0)
                 if isinstance(event, Token)]
        return 128 / (times[-1] - times[0])
    finally:
        side.close()


class Table:
    def __init__(self, rounds):
        self.rounds, self.rows = rounds, []

    def row(self, what, against, wanted, sides, best_of_peers=False, less=False):
        """`sides`: ours first; each is measured once per round. `less`: smaller is better."""
        measured = {name: [] for name in sides}
        for round_ in range(self.rounds):
            for name, measure in sides.items():
                measured[name].append(measure(round_))
        ours, *peers = measured
        peer = max(peers, key=lambda name: median(measured[name])) if best_of_peers else peers[0]
        pairs = zip(measured[ours], measured[peer])
        ratios = sorted((theirs / mine if less else mine / theirs) for mine, theirs in pairs)
        self.rows.append({"what": what, "against": f"{against} ({peer})", "wanted": wanted, "ratio": median(ratios),
                          "least": ratios[0], "most": ratios[-1], "measured": measured})
        print(f"| {what} | {against} ({peer}) | {wanted} | **{median(ratios):.2f}** ({ratios[0]:.2f}–{ratios[-1]:.2f}) "
              f"| {median(measured[ours]):.4g} | {median(measured[peer]):.4g} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--only", nargs="+", default=["decode", "prefill", "streams", "prefix", "busy", "memory"])
    parser.add_argument("--model", help="another file than the small model, such as one by requantise.py")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 2, 4, 8, 32])
    options = parser.parse_args()
    programs, path, cores = install.programs(), options.model or model.path(), os.cpu_count()
    server, bench_program = programs["llama-server"], programs["llama-bench"]
    table = Table(options.rounds)
    print("| what | against | wanted | ratio (least–most) | llamapen | peer |\n|---|---|---|---|---|---|", flush=True)
    for kind, wanted in (("decode", 1.05), ("prefill", 0.97)):
        if kind in options.only:
            table.row(f"{kind}, one stream, tokens/s", "llama-bench", wanted,
                      {"llamapen": lambda _: ours_alone(path, kind), f"-t {cores}": lambda _: bench(bench_program, path, cores, kind)})
    for streams in options.streams if "streams" in options.only else ():
        wanted = WANTED.get(streams, "–")
        sides, n = {"llamapen": Ours(path, streams)}, 96 if streams < 32 else 48

        def of_server(slots, threads):
            def measure(round_):
                side = Server(server, path, slots, threads)
                try:
                    together(side, min(streams, 2), 8, 99)
                    return together(side, streams, n, round_)
                finally:
                    side.close()

            return measure

        together(sides["llamapen"], streams, 8, 99)
        settings = dict.fromkeys([(streams, cores), (streams, 1), (max(streams // 2, 1), cores)])
        measures = {"llamapen": lambda r: together(sides["llamapen"], streams, n, r)}
        measures.update({f"-np {slots} -t {threads}": of_server(slots, threads) for slots, threads in settings})
        table.row(f"{streams} streams, tokens/s", "llama-server, best setting", wanted, measures, best_of_peers=True)
        sides["llamapen"].close()
    if "prefix" in options.only:
        shared = prompt(5, 1500)

        def first_token(make):
            def measure(round_):
                side = make()
                try:
                    side.ask([*shared, *prompt(round_ + 50, 8)], 2)
                    return median(side.ask([*shared, *prompt(round_ + 60 + i, 8)], 2)[0] for i in range(3)) * 1e3
                finally:
                    side.close()

            return measure

        table.row("first token, 1,500 known tokens, ms", "llama-server, cache on", 0.97,
                  {"llamapen": first_token(lambda: Ours(path, 2, n_ctx=2048)), f"-np 2 -t {cores}": first_token(lambda: Server(server, path, 2, cores, 2048))},
                  less=True)
    if "busy" in options.only:
        def beside(make):
            def measure(round_):
                side = make()
                try:
                    side.ask(prompt(1, 16), 4)
                    with busy_cores():
                        return together(side, 1, 48, round_)
                finally:
                    side.close()

            return measure

        table.row("one stream while the host burns all cores, tokens/s", "llama-server", 1.2,
                  {"llamapen": beside(lambda: Ours(path, 1)), f"-np 1 -t {cores}": beside(lambda: Server(server, path, 1, cores))})
    if "memory" in options.only:
        # Each in a process of its own: this one has Python in it.
        command = [sys.executable, __file__, "--memory"]

        def of_ours(_):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            return float(done.stdout.split()[-1])

        def of_theirs(round_):
            side = Server(server, path, 8, cores)
            try:
                together(side, 8, 32, round_)
                return resident(side.process.pid) / 2**20
            finally:
                side.close()

        table.row("memory at 8 streams, MiB (PSS)", "llama-server", "1 or more", {"llamapen": of_ours, f"-np 8 -t {cores}": of_theirs}, less=True)
    if options.json:
        about = {"machine": f"{platform.machine()}, {cores} CPUs", "llamapen": llamapen.build_info(), "peers": install.PACKAGE}
        options.json.write_text(json.dumps({"about": about, "rows": table.rows}, indent=1))


def memory_of_ours():
    """In a child: what the process has with eight streams, less what it had before."""
    before = resident(os.getpid())
    side = Ours(model.path(), 8)
    together(side, 8, 32, 0)
    print((resident(os.getpid()) - before) / 2**20)
    side.close()


if __name__ == "__main__":
    memory_of_ours() if sys.argv[1:] == ["--memory"] else main()
