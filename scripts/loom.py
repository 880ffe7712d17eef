#!/usr/bin/env python3
"""Runs the models of the queues (src/interleavings.rs) in every order in which their threads can come to the locks."""

import sys

import deps
from common import target_dir
from process import run


def main():
    deps.check_tools()
    deps.make_environment()
    # A target folder of its own: the flag changes every crate.
    env = {"RUSTFLAGS": "--cfg loom", "CARGO_TARGET_DIR": str(target_dir() / "loom")}
    status, output = run(["cargo", "test", "--lib", "interleavings"], minutes=60, env=env)
    return status or (0 if "test result: ok." in output and " 0 passed" not in output else 1)


if __name__ == "__main__":
    sys.exit(main())
