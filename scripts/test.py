#!/usr/bin/env python3
"""Runs every test suite and ends with what failed, by name, and one line, "N passed, N failed". `--only NAME` runs one suite,
`--list` names them.

A suite that fails does not stop the others. What fails as a whole (a compile error, a crash, a hang, a suite without
tests) counts as one failed test. The exit status is 0 only when nothing failed.
"""

import argparse
import os
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as xml
from pathlib import Path

import deps
import model
import synthetic
from common import ROOT, VENV, VENV_PYTHON, cargo_metadata, target_dir
from process import run

FAULTS = ["--features", "fault-injection"]
# Where the tier matters: these run a second time, with processes. What is of one tier alone is not among them.
ON_BOTH_TIERS = """breaker chaos context_shift deadlines drain faults fork generate handoff queue reload resume self_test telemetry
    topology unload watcher""".split()
# Where it should not: the loop and what it computes are the same. With --all these run a second time, too.
ALIKE = "allocations batching determinism many memory modes parity sampling soak speculation".split()
# In those programs, tests of threads alone.
OF_THREADS = ["taint::", "without_the_handlers"]
# Decimal megabytes, as the registry counts.
PACKAGE_LIMIT = 10_000_000


class Tally:
    """Counts one suite's tests."""

    def __init__(self, everything=False):
        self.passed = 0
        self.failed = []  # Their names.
        self.everything = everything
        self.seconds = 0

    def test(self, good, what):
        """A test that this script itself decides."""
        print(f"{'ok' if good else 'not ok'} - {what}", flush=True)
        self.add(good, [] if good else [what])
        return good

    def add(self, passed, failed):
        self.passed += int(passed)
        self.failed += failed

    def whole(self, status, failed, what):
        """A command whose own counts show no failure must have exited with 0."""
        if status != 0 and not failed:
            self.test(False, f"{what} (exit status {status})")


def rustfmt(tally):
    status, _ = run(["cargo", "fmt", "--check"], minutes=5)
    tally.test(status == 0, "cargo fmt")


def clippy(tally):
    everything = ["--all-targets", "--features", "fault-injection,benches"]
    for arguments, what in ((everything, "all targets, with all that is optional on the CPU"), (["--lib"], "library")):
        status, _ = run(["cargo", "clippy", *arguments, "--", "-D", "warnings"], minutes=60)
        tally.test(status == 0, f"clippy: {what}")


def rust(tally):
    libtest(tally, ["cargo", "test", "--no-fail-fast", "--lib", "--tests", *FAULTS])


def tiers(tally):
    """The supervisor's tests again, with workers that are processes. What they show is the same, or differs as they say."""
    names = ON_BOTH_TIERS + (ALIKE if tally.everything else [])
    programs = [part for name in names for part in ("--test", name)]
    skips = [part for name in OF_THREADS for part in ("--skip", name)]
    libtest(tally, ["cargo", "test", "--no-fail-fast", *programs, *FAULTS, "--", *skips], tier="process")


def doc(tally):
    for arguments, what in (([], "public"), (["--document-private-items"], "with private items")):
        status, _ = run(["cargo", "doc", "--no-deps", *arguments], minutes=60, env={"RUSTDOCFLAGS": "-D warnings"})
        tally.test(status == 0, f"cargo doc: {what}")
    libtest(tally, ["cargo", "test", "--no-fail-fast", "--doc"])


def libtest(tally, command, tier="thread"):
    status, output = run(command, minutes=60, env={"LLAMAPEN_TEST_ISOLATION": tier})
    passed, failed = 0, []
    # One section per test program; doc tests may come in several groups.
    _, *sections = re.split(r"^ +(Running|Doc-tests) (.*)$", output, flags=re.MULTILINE)
    for kind, program, section in zip(sections[::3], sections[1::3], sections[2::3]):
        results = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed", section, flags=re.MULTILINE)
        if not results and "process didn't exit successfully" in section:
            failed.append(f"{program}: crashed before it could count")
        for one_passed, one_failed in results if kind == "Doc-tests" else results[-1:]:
            passed += int(one_passed)
            # The names stand in the last list, indented; what tests printed is not trusted to name as many as were counted.
            names = re.findall(r"^    (\S.*)$", section.rpartition("\nfailures:\n")[2], flags=re.MULTILINE)
            failed += [f"{program}: {name}" for name in [*names, *["?"] * int(one_failed)][: int(one_failed)]]
    tally.add(passed, failed)
    tally.whole(status, failed, shlex.join(command))


def programs(tally):
    """The C and C++ programs, with the library as it ships: each prints a line per check. Some are also linked statically.

    Those in ffi-tests/faults get a library that injects faults."""
    library = shared_library()
    shared = [f"-L{library.parent}", f"-Wl,-rpath,{library.parent}", "-Wl,--as-needed", "-lllamapen"]
    static = [library.with_suffix(".a"), "-lstdc++", "-lm", "-lpthread", "-ldl"]
    for source in sorted((ROOT / "ffi-tests").glob("c*/*.c*")):
        program(tally, source, library, shared, "linked to the shared library")
    # Such a host starts itself again as a worker, or the program beside the library.
    status, _ = run(["cargo", "build", "--bin", "llamapen-worker"], minutes=60)
    tally.test(status == 0, "llamapen-worker builds")
    for source in ("c/first_token.c", "c/processes.c", "static/no_hook.c"):
        program(tally, ROOT / "ffi-tests" / source, library, static, "linked statically")
    library = shared_library(*FAULTS)
    for source in sorted((ROOT / "ffi-tests" / "faults").glob("*.c")):
        program(tally, source, library, shared, "linked to the shared library with faults")


def program(tally, source, library, link, how):
    cpp = source.suffix == ".cpp"
    compiler = shlex.split(os.environ.get("CXX", "c++") if cpp else os.environ.get("CC", "cc"))
    standard = "-std=c++17" if cpp else "-std=c99"
    strict = [standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-pthread"]
    name = f"{source.relative_to(ROOT)}, {how}"
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / source.stem
        status, _ = run([*compiler, *strict, f"-I{ROOT / 'include'}", source, "-o", built, *link], minutes=10)
        if status != 0:
            tally.test(False, f"{name}: compiles")
            return
        # The library's path is for the program that opens it itself.
        status, output = run([built, os.environ["LLAMAPEN_TEST_MODEL"], library], minutes=10, cwd=folder)
    passed, failed = (re.findall(rf"^{word}\b.*", output, flags=re.MULTILINE) for word in ("ok", "not ok"))
    tally.add(len(passed), [f"{name}: {line}" for line in failed])
    tally.whole(status, failed, f"{name}: exits with success")
    if status == 0 and not passed + failed:
        tally.test(False, f"{name}: checks something")


def python(tally):
    """The Python package, with a library that injects faults: only such a one can show that they stay inside. And what is made
    of comparisons with others, without those."""
    library = shared_library(*FAULTS)
    # test_programs.py is left out: it runs what `programs` above runs, for those who have only the Python tests.
    tests = ["python/tests", "ffi-tests/python", "benches/peers", "--ignore=ffi-tests/python/test_programs.py"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        status, _ = run(
            [VENV_PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", f"--junit-xml={report}", *tests],
            minutes=30,
            env={"LLAMAPEN_LIBRARY": str(library)},
        )
        cases = list(xml.parse(report).iter("testcase")) if report.is_file() else []
    failed = [case for case in cases if any(case.find(kind) is not None for kind in ("failure", "error"))]
    skipped = sum(case.find("skipped") is not None for case in cases)
    tally.add(len(cases) - len(failed) - skipped, [f"{case.get('classname')}.{case.get('name')}" for case in failed])
    tally.whole(status, failed, "pytest")


def package(tally):
    """What would be published is small and builds from itself, without a network."""
    shared_library()  # Fills vendor/llama.cpp, which is packed, and the engine cache.
    target = target_dir() / "package-check"
    version = cargo_metadata()["packages"][0]["version"]
    crate = target / "package" / f"llamapen-{version}.crate"
    crate.unlink(missing_ok=True)
    status, _ = run(["cargo", "package", "--offline", "--no-verify", "--allow-dirty", "--target-dir", target], minutes=10)
    size = crate.stat().st_size if status == 0 else None
    if not tally.test(size is not None and size < PACKAGE_LIMIT, f"packs under 10 MB ({size} bytes)") and size is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        run(["tar", "-xzf", crate, "-C", folder], minutes=5)
        # Unpacked it has no .venv beside it, so it is told where libclang is.
        libclang = next(VENV.glob("lib*/python3*/site-packages/clang/native"))
        env = {"CARGO_NET_OFFLINE": "true", "CARGO_TARGET_DIR": str(target), "LIBCLANG_PATH": str(libclang)}
        status, _ = run(["cargo", "build", "--offline"], minutes=60, cwd=Path(folder) / crate.stem, env=env)
    tally.test(status == 0, "the packed crate builds offline")


def shared_library(*features):
    """libllamapen.so, as it ships unless features are given; libllamapen.a lies beside it.

    Cargo keeps both builds and puts the one asked for in this place, so this is quick after the first time."""
    status, _ = run(["cargo", "build", "--lib", *features], minutes=60)
    if status != 0:
        raise RuntimeError("the library does not build")
    return target_dir() / "debug" / "libllamapen.so"


SUITES = [rustfmt, clippy, rust, tiers, doc, programs, python, package]


def setup():
    deps.check_tools()
    deps.check_rust_components()
    deps.make_environment()
    if not os.environ.get("LLAMAPEN_TEST_MODEL"):
        os.environ["LLAMAPEN_TEST_MODEL"] = str(model.path())
    if not os.environ.get("LLAMAPEN_SYNTHETIC_MODELS"):
        os.environ["LLAMAPEN_SYNTHETIC_MODELS"] = str(synthetic.folder())


def run_suite(suite, everything):
    """Its counts; whatever goes wrong in it is one failed test of it."""
    tally = Tally(everything)
    print(f"\n=== {suite.__name__}", flush=True)
    began = time.monotonic()
    try:
        suite(tally)
        if not tally.passed and not tally.failed:
            tally.test(False, f"{suite.__name__} has tests")
    except SystemExit as error:
        if isinstance(error.code, int):
            raise  # Somebody wants us to end.
        tally.test(False, error.code)
    except Exception:
        print(traceback.format_exc(), end="", flush=True)
        tally.test(False, suite.__name__)
    tally.seconds = time.monotonic() - began
    return tally


def main():
    names = [suite.__name__ for suite in SUITES]
    parser = argparse.ArgumentParser(description="Runs the tests.")
    parser.add_argument("--only", choices=names, help="run one suite")
    parser.add_argument("--all", action="store_true", help="on both tiers also what is alike there (ten minutes more)")
    parser.add_argument("--list", action="store_true", help="name the suites")
    options = parser.parse_args()
    if options.list:
        print("\n".join(names))
        return 0
    # As Ctrl-C does it: unwinds, so that what runs is killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    prepared = Tally()
    try:
        setup()
    except SystemExit as error:
        if isinstance(error.code, int):
            raise
        prepared.test(False, error.code)
    results = []
    if not prepared.failed:
        results = [(s.__name__, run_suite(s, options.all)) for s in SUITES if options.only in (None, s.__name__)]

    print("\n=== summary")
    for name, tally in results:
        print(f"{name:10} {tally.passed:5} passed {len(tally.failed):5} failed {tally.seconds:6.0f} s")
    results.insert(0, ("setup", prepared))
    for name, tally in results:
        for test in tally.failed:
            print(f"failed: {name}: {test}")
    passed, failed = sum(tally.passed for _, tally in results), sum(len(tally.failed) for _, tally in results)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
