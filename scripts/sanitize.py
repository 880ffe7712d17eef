#!/usr/bin/env python3
"""Runs the supervisor's tests that need no injected fault with AddressSanitizer, then with ThreadSanitizer: the engine, the pen
and the shim compiled by clang, Rust by the installed compiler, both with the same instrumentation.

Needs clang; CLANG names another one. Rust's standard library is not instrumented, so ThreadSanitizer knows nothing of the
fence in `Arc` and of its channels: scripts/tsan.txt names what it would report for that.
"""

import argparse
import os
import shutil
import sys

import deps
import model
import synthetic
from common import ROOT, as_root, fail, say, target_dir
from process import run

TARGET = "x86_64-unknown-linux-gnu"
# Queue, restarts by hand, drains, deadlines, reloads, streams, snapshots: all that has threads.
TESTS = ["generate", "queue", "deadlines", "drain", "handoff", "reload", "unload", "watcher", "self_test"]
SANITIZERS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=0:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0"},
    "thread": {"TSAN_OPTIONS": f"suppressions={ROOT / 'scripts' / 'tsan.txt'}:handle_segv=0:handle_sigbus=0:handle_sigfpe=0"},
}


def clang():
    names = [os.environ["CLANG"]] if os.environ.get("CLANG") else ["clang", *(f"clang-{n}" for n in range(22, 13, -1))]
    for name in names:
        if shutil.which(name):
            return name, name.replace("clang", "clang++", 1)
    fail(f"clang is missing. This gives it:\n  {as_root('apt-get install -y clang')}")


def sanitize(which, tests):
    cc, cxx = clang()
    flag = f"-fsanitize={which} -g1"
    env = {
        # The flag that asks for a sanitizer is not stable yet; the compiler that is installed has it.
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": f"-Zsanitizer={which} -Cunsafe-allow-abi-mismatch=sanitizer -Clinker={cc}",
        "CC": cc,
        "CXX": cxx,
        "CFLAGS": flag,
        "CXXFLAGS": flag,
        "CARGO_TARGET_DIR": str(target_dir() / f"sanitize-{which}"),
        **SANITIZERS[which],
    }
    command = ["cargo", "test", "--no-fail-fast", "--target", TARGET]
    for test in tests:
        command += ["--test", test]
    # Several times as slow: one at a time, so that guards against hangs hold.
    # What was freed stays in the sanitizer's quarantine: memory that is given back cannot be seen.
    harness = ["--test-threads", "1", "--skip", "weights_and_contexts_are_given_back"]
    status, output = run([*command, "--", *harness], minutes=120, env=env)
    reports = output.count(f"ERROR: {which.capitalize()}Sanitizer") + output.count(f"WARNING: {which.capitalize()}Sanitizer")
    say(f"{which}: {reports} reports, exit status {status}")
    return status or (1 if reports else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SANITIZERS)
    parser.add_argument("--test", action="append", help="this test instead of all")
    options = parser.parse_args()
    deps.check_tools()
    deps.make_environment()
    os.environ.setdefault("LLAMAPEN_TEST_MODEL", str(model.path()))
    os.environ.setdefault("LLAMAPEN_SYNTHETIC_MODELS", str(synthetic.folder()))
    statuses = [sanitize(which, options.test or TESTS) for which in SANITIZERS if options.only in (None, which)]
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
