"""Faults of the engine stay in the pen inside a Python process, and Python's own are Python's."""

import signal
import subprocess
import sys
import textwrap
import unittest
from pathlib import Path

import support

HERE = Path(__file__).resolve().parent


def run(body):
    """Runs `body` in a process of its own, with a ready supervisor of an engine with two threads."""
    head = """
        import faulthandler
        import support
        from llamapen import Failed, Supervisor

        def start(**config):
            supervisor = Supervisor(support.engine(n_ctx=256, threads=2), **config)
            supervisor.wait_ready(60)
            return supervisor

        def ask(supervisor, **more):
            *_, last = supervisor.submit("One, two,", max_tokens=6, ignore_eos=True, **more)
            return last
    """
    script = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, timeout=300)


@unittest.skipUnless("fault-injection" in support.llamapen.build_info()["features"], "this build does not inject faults")
class Containment(unittest.TestCase):
    def test_faults_of_the_engine_end_a_worker_and_not_python(self):
        for handler in ("pass", "faulthandler.enable()"):
            with self.subTest(handler=handler):
                # `faulthandler` before the supervisor: it is called for what is not the engine's.
                done = run(f"""
                    {handler}
                    with start(taint="continue") as supervisor:
                        for fault in ("null_write", "abort", "compute_null_write", "stack_overflow"):
                            last = ask(supervisor, fault=fault, max_resumes=0)
                            assert isinstance(last, Failed) and last.error.status_name == "WORKER_RESET", last
                            assert ask(supervisor).reason == "length"
                        health = supervisor.health()
                        assert health["tainted"] and health["contains_faults"], health
                        reasons = supervisor.metrics()["workers"][0]["crashes_total"]
                        assert (reasons["SIGNAL"], reasons["ABORT"]) == (3, 1), reasons
                    print("alive")
                """)
                self.assertEqual((done.returncode, done.stdout), (0, "alive\n"), done.stderr)

    def test_a_stream_goes_on_in_the_next_worker(self):
        done = run("""
            from llamapen import PoisonedRequest, Restarted, Token
            with start(quarantine_ms=60000) as supervisor:
                request = dict(max_tokens=40, ignore_eos=True, temperature=0)
                alone = [e for e in supervisor.submit("One, two,", **request) if isinstance(e, Token)]
                events = list(supervisor.submit("One, two,", fault="abort", **request))
                restarted = [e for e in events if isinstance(e, Restarted)]
                assert [(e.attempt, e.tokens_kept) for e in restarted] == [(1, 1)], restarted
                assert "injected abort" in restarted[0].reason, restarted
                assert [e for e in events if isinstance(e, Token)] == alone, events
                assert supervisor.metrics()["requests"]["resumed_total"] == 1
                poisoned = dict(request, fault="panic_always")
                *_, last = supervisor.submit("One, two,", **poisoned)
                assert isinstance(last.error, PoisonedRequest), last
                try:
                    supervisor.submit("One, two,", **poisoned)
                    raise AssertionError("accepted")
                except PoisonedRequest as error:
                    assert error.policy == "quarantine" and 0 < error.retry_after_ms <= 60000, error
            print("alive")
        """)
        self.assertEqual((done.returncode, done.stdout), (0, "alive\n"), done.stderr)

    def test_a_memory_fault_stops_the_supervisor_where_it_is_to(self):
        done = run("""
            supervisor = start(taint="stop")
            assert isinstance(ask(supervisor, fault="null_write", max_resumes=0), Failed)
            import time
            while supervisor.health()["state"] != "FAILED":
                time.sleep(0.01)
            assert supervisor.health()["tainted"]
            print("alive")
        """)
        self.assertEqual((done.returncode, done.stdout), (0, "alive\n"), done.stderr)

    def test_pythons_own_faults_are_shown_by_faulthandler(self):
        done = run("""
            faulthandler.enable()
            supervisor = start()
            faulthandler._sigsegv()
        """)
        self.assertEqual(done.returncode, -signal.SIGSEGV)
        self.assertIn("Fatal Python error: Segmentation fault", done.stderr)


if __name__ == "__main__":
    unittest.main()
