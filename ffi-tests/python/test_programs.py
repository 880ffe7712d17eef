"""Compiles the C and C++ programs with strict warnings, links them to the library and runs them.

Environment: LLAMAPEN_LIBRARY, the shared library; LLAMAPEN_TEST_MODEL, a small chat model; CC and CXX, the compilers.
"""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "ffi-tests"
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-g"]


class Programs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.library = Path(os.environ["LLAMAPEN_LIBRARY"]).resolve()
        cls.model = os.environ["LLAMAPEN_TEST_MODEL"]
        built = tempfile.TemporaryDirectory()
        cls.addClassCleanup(built.cleanup)
        cls.built = Path(built.name)

    def compile(self, source, *more):
        cpp = source.suffix == ".cpp"
        compiler = os.environ.get("CXX", "c++") if cpp else os.environ.get("CC", "cc")
        standard = "-std=c++17" if cpp else "-std=c99"
        program = self.built / source.stem
        command = [compiler, standard, *STRICT, f"-I{ROOT / 'include'}", str(source), "-o", str(program), "-pthread", *more]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return program

    def run_program(self, source, *arguments, linked=True):
        where = self.library.parent
        link = [f"-L{where}", "-lllamapen", f"-Wl,-rpath,{where}"] if linked else ["-ldl"]
        program = self.compile(source, *link)
        # Where the program may leave files, in case it fails to remove them.
        done = subprocess.run(
            [program, self.model, *arguments],
            cwd=self.built,
            capture_output=True,
            text=True,
            errors="backslashreplace",  # A broken program may print anything, which is then shown.
            timeout=300,
        )
        said = f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
        self.assertEqual(done.returncode, 0, said)
        self.assertNotIn("not ok", done.stdout, said)
        lines = [line for line in done.stdout.splitlines() if line.startswith("ok - ")]
        self.assertIn(f"1..{len(lines)}", done.stdout, said)
        self.assertEqual(done.stderr, "", said)

    def test_first_token(self):
        self.run_program(TESTS / "c" / "first_token.c")

    def test_errors(self):
        self.run_program(TESTS / "c" / "errors.c")

    def test_sampling(self):
        self.run_program(TESTS / "c" / "sampling.c")

    def test_lifetimes(self):
        self.run_program(TESTS / "c" / "lifetimes.c")

    def test_threads(self):
        self.run_program(TESTS / "c" / "threads.c")

    def test_telemetry(self):
        self.run_program(TESTS / "c" / "telemetry.c")

    def test_prepare(self):
        self.run_program(TESTS / "c" / "prepare.c")

    def test_processes(self):
        self.run_program(TESTS / "c" / "processes.c")

    def test_raii(self):
        self.run_program(TESTS / "cpp" / "raii.cpp")

    def test_terminate(self):
        # It opens the library itself, to see the time before.
        self.run_program(TESTS / "cpp" / "terminate.cpp", str(self.library), linked=False)

    def test_every_program_has_a_test(self):
        sources = {path.stem for path in TESTS.glob("c*/*.c*")}
        tests = {name[len("test_"):] for name in dir(self) if name.startswith("test_")}
        self.assertEqual(sources - tests, set())


if __name__ == "__main__":
    unittest.main()
