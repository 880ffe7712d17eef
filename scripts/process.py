"""Runs one command of the tests: its output is shown as it comes and kept, and it cannot hang or outlive us."""

import os
import shlex
import signal
import subprocess
import sys
import threading

from common import ROOT

TIMED_OUT = "timed out"


def run(command, minutes, cwd=ROOT, env=None):
    """(exit status or TIMED_OUT, output). `minutes` is a guard against hangs, not a measure of speed."""
    command = [str(part) for part in command]
    print(f"$ {shlex.join(command)}", flush=True)
    # A session of its own, so that the whole tree can be killed, tests and what they started.
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "CARGO_TERM_COLOR": "never", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines, finished = [], threading.Event()
    reader = threading.Thread(target=show, args=(process.stdout, lines, finished), daemon=True)
    reader.start()
    try:
        status = process.wait(minutes * 60)
    except subprocess.TimeoutExpired:
        status = TIMED_OUT
    finally:
        kill_group(process)
        process.wait()
        # A process that left the session may still hold the pipe: it is not waited for, nor shown any more.
        reader.join(5)
        finished.set()
    if status == TIMED_OUT:
        print(f"stopped: not finished after {minutes} minutes", flush=True)
    return status, "".join(lines)


def show(stream, lines, finished):
    for line in stream:
        if finished.is_set():
            return
        lines.append(line)
        sys.stdout.write(line)
        sys.stdout.flush()


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
