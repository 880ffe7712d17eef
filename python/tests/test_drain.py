"""Leases and draining."""

import asyncio
import threading
import time
import unittest

import support
from llamapen import Draining, Failed, Finished, PoolUnavailable, Supervisor

BRIEF = {"prompt": "Once", "ignore_eos": True, "max_tokens": 3}


def one_slot(**config):
    supervisor = Supervisor(support.engine(slots=1, workers=1), **config)
    supervisor.wait_ready(60)
    return supervisor


def until_state(supervisor, state):
    end = time.monotonic() + 60
    while supervisor.health()["state"] != state and time.monotonic() < end:
        time.sleep(0.005)
    assert supervisor.health()["state"] == state


class Drain(unittest.TestCase):
    def test_what_is_there_finishes_and_a_lease_goes_on(self):
        with one_slot() as supervisor:
            running = supervisor.submit(**{**BRIEF, "max_tokens": 100})
            support.until_token(running)
            reports = []
            with supervisor.lease() as lease:
                self.assertEqual(supervisor.health()["leases"], 1)
                self.assertEqual(supervisor.metrics()["leases"], 1)
                thread = threading.Thread(target=lambda: reports.append(supervisor.drain(60)))
                thread.start()
                until_state(supervisor, "DRAINING")
                with self.assertRaises(Draining) as caught:
                    supervisor.submit(**BRIEF)
                self.assertEqual((caught.exception.policy, caught.exception.retriable), ("drain", True))
                with self.assertRaises(Draining):
                    supervisor.lease()
                self.assertIsInstance(list(lease.submit(**BRIEF))[-1], Finished)
                self.assertIsInstance(list(running)[-1], Finished)
                self.assertTrue(thread.is_alive(), "the lease keeps it")
            thread.join(60)
            (report,) = reports
            self.assertEqual((report["forced"], report["leases_left"], report["requests_failed"]), (False, 0, 0))
            self.assertEqual(supervisor.drain(), report)
            self.assertEqual(supervisor.health()["state"], "STOPPED")
            with self.assertRaises(PoolUnavailable):
                supervisor.lease()
            lease.release()
            with self.assertRaises(PoolUnavailable):
                lease.submit(**BRIEF)

    def test_a_deadline_in_a_coroutine_that_leaves_the_loop_free(self):
        async def drains(supervisor):
            drain = asyncio.get_running_loop().run_in_executor(None, supervisor.drain, 0.3)
            turns = 0
            while not drain.done():
                turns += 1
                await asyncio.sleep(0.01)
            return await drain, turns

        with one_slot() as supervisor:
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            lease = supervisor.lease()
            report, turns = asyncio.run(drains(supervisor))
            self.assertEqual((report["forced"], report["leases_left"], report["requests_failed"]), (True, 1, 1))
            self.assertGreater(turns, 3)
            last = list(running)[-1]
            self.assertIsInstance(last, Failed)
            self.assertIsInstance(last.error, Draining)
            self.assertTrue(last.error.retriable)
        lease.release()  # It may outlive its supervisor.

    def test_ctrl_c_ends_the_waiting_and_not_the_drain(self):
        support.run_script(
            """
            import os, signal, threading, time
            import support
            from llamapen import Supervisor
            with Supervisor(support.engine(slots=1, workers=1)) as supervisor:
                supervisor.wait_ready(60)
                lease = supervisor.lease()
                threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
                try:
                    supervisor.drain(60)
                    raise SystemExit("not interrupted")
                except KeyboardInterrupt:
                    pass
                assert supervisor.health()["state"] == "DRAINING"
                lease.release()
                assert supervisor.drain()["forced"] is False
            """
        )


if __name__ == "__main__":
    unittest.main()
