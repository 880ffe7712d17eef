"""Our signal handlers allocate nothing, in a library that was opened with dlopen: malloc may be what they interrupted."""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

import support

HERE = Path(__file__).resolve().parent
BREACH = 86


@unittest.skipUnless(platform.libc_ver()[0] == "glibc", "the preloaded library calls glibc's own functions")
@unittest.skipUnless("fault-injection" in support.llamapen.build_info()["features"], "this build does not inject faults")
class Handler(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.preload = Path(cls.folder.name) / "no_allocation.so"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, "-shared", "-fPIC", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, HERE / "no_allocation.c", "-o", cls.preload], check=True)

    def run_preloaded(self, body):
        head = """
            import ctypes
            check = ctypes.CDLL(None)
            check.no_allocation_calls.restype = ctypes.c_ulong
            assert check.no_allocation_calls() > 100
        """
        script = textwrap.dedent(head) + textwrap.dedent(body)
        env = {**os.environ, "LD_PRELOAD": str(self.preload)}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=300)

    def test_an_allocation_in_a_handler_is_noticed(self):
        done = self.run_preloaded("check.no_allocation_breach()")
        self.assertEqual((done.returncode, done.stderr), (BREACH, "malloc in a signal handler\n"), done.stdout)

    def test_faults_are_contained_without_one(self):
        # The last one is parked by a signal: its thread goes on for ever by itself.
        done = self.run_preloaded("""
            import support
            from llamapen import Failed, Supervisor

            engine = support.engine(n_ctx=256, threads=2)
            with Supervisor(engine, taint="continue", stall_limit_ms=4000, breaker_failures=100, backoff_max_ms=1000) as supervisor:
                supervisor.wait_ready(60)
                for fault in ("null_write", "compute_null_write", "stack_overflow", "abort", "compute_abort", "endless_loop"):
                    *_, last = supervisor.submit("One, two,", max_tokens=6, ignore_eos=True, max_resumes=0, fault=fault)
                    assert isinstance(last, Failed) and last.error.status_name == "WORKER_RESET", last
                *_, last = supervisor.submit("One, two,", max_tokens=6, ignore_eos=True)
                assert last.reason == "length", last
            print("alive")
        """)
        self.assertEqual((done.returncode, done.stdout), (0, "alive\n"), done.stderr)


if __name__ == "__main__":
    unittest.main()
