"""Who is measured: each can be asked for tokens, and closed. Servers listen on the loopback address only."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import namedtuple
from pathlib import Path

import install

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "scripts"), str(ROOT / "python")]
from common import target_dir  # noqa: E402

os.environ.setdefault("LLAMAPEN_LIBRARY", str(target_dir() / "release" / "libllamapen.so"))
import llamapen  # noqa: E402
from llamapen import Token  # noqa: E402

PORT = 18080
# Positions per slot.
CONTEXT = 1024
# Nothing here takes longer, in seconds.
LONG = 300

# Seconds from the question until the first token and until the last one, and how many came.
Answer = namedtuple("Answer", "first last count")


def prompt(seed, n):
    """Tokens of plain words, other ones for another seed."""
    return [1000 + (i * 7919 + seed * 7001) % 20000 for i in range(n)]


class Ours:
    """A supervisor in this process, as `streams` has it."""

    def __init__(self, path, streams=1, supervisor=None, **config):
        began = time.monotonic()
        engine = llamapen.prepare(str(path), **{"n_ctx": CONTEXT, "streams": streams, **config})
        self.supervisor = llamapen.Supervisor(engine, **(supervisor or {}))
        self.supervisor.wait_ready(LONG)
        self.load = time.monotonic() - began

    def submit(self, tokens, n, **params):
        return self.supervisor.submit(tokens=tokens, max_tokens=n, ignore_eos=True, temperature=0, **params)

    def ask(self, tokens, n):
        began = time.monotonic()
        times = [time.monotonic() - began for event in self.submit(tokens, n) if isinstance(event, Token)]
        return Answer(times[0], times[-1], len(times))

    def close(self):
        self.supervisor.close()


class Server:
    """llama-server, one context for all slots, its prompt cache on, asked by HTTP with streaming."""

    def __init__(self, path, slots=1, threads=None, context=CONTEXT):
        began = time.monotonic()
        command = [install.program("llama-server"), "-m", path, "-t", threads or os.cpu_count(), "-np", slots, "-c", context * slots]
        command += ["--host", "127.0.0.1", "--port", PORT, "--no-webui"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(part) for part in command], stdout=self.log, stderr=self.log)
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() - began > LONG:
                self.kill()
                self.log.seek(0)
                raise RuntimeError(f"llama-server did not start:\n{self.log.read().decode(errors='replace')[-3000:]}")
            time.sleep(0.005)
        self.load = time.monotonic() - began

    @staticmethod
    def is_up():
        # Until it has loaded it answers 503, or not at all.
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=LONG) as answer:
            return json.load(answer)["status"] == "ok"

    def events(self, tokens, n):
        body = {"prompt": tokens, "n_predict": n, "ignore_eos": True, "temperature": 0, "stream": True, "cache_prompt": True}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/completion", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=LONG) as answer:
            yield from (json.loads(line[6:]) for line in answer if line.startswith(b"data: "))

    def ask(self, tokens, n):
        began, first, count = time.monotonic(), None, 0
        for event in self.events(tokens, n):
            last = time.monotonic() - began
            if event.get("tokens") or event.get("content"):
                first = first or last
            if event.get("stop"):
                count = event["tokens_predicted"]
        return Answer(first, last, count)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.process.terminate()
        self.process.wait()


class Asker:
    """A binding in a process of its own, see `askers/lines.py`."""

    def __init__(self, name, path, n_ubatch=512, threads=None):
        command, environment = install.BINDINGS[name]()
        what = {"model": str(path), "n_ctx": CONTEXT, "n_ubatch": n_ubatch, "threads": threads or os.cpu_count()}
        command = [*map(str, command), json.dumps(what)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stderr=self.log, env={**os.environ, **environment}, **pipes)
        self.load = self.answer()["load"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise install.Absent(f"its process ended: {self.log.read().decode(errors='replace').strip()[-300:]}")
        return json.loads(line)

    def ask(self, tokens, n):
        print(json.dumps({"tokens": tokens, "n": n}), file=self.process.stdin, flush=True)
        return Answer(**self.answer())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def bench(name, path, *options):
    """What llama-bench or llama-batched-bench measures, as it prints it in JSON."""
    command = [str(part) for part in (install.program(name), "-m", path, "-t", os.cpu_count(), *options)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=LONG).stdout


def together(side, streams, n, seed):
    """Tokens per second of so many requests that come at once, prompts of 32 tokens included."""
    counts = [0] * streams

    def one(i):
        counts[i] = side.ask(prompt(seed * 1000 + i, 32), n).count

    threads = [threading.Thread(target=one, args=(i,)) for i in range(streams)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    if sum(counts) != streams * n:
        raise RuntimeError(f"{streams} streams gave {counts} tokens, not {n} each")
    return streams * n / took


def share_of_memory(pid):
    """MiB that the process has, what it shares with others in part (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
