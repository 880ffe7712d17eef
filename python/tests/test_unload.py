"""Giving memory back while nothing runs."""

import time
import unittest

import support
from llamapen import Finished, PoolUnavailable, Supervisor

BRIEF = {"prompt": "Once", "ignore_eos": True, "max_tokens": 3}


def one_slot(**config):
    supervisor = Supervisor(support.engine(slots=1, workers=1), **config)
    supervisor.wait_ready(60)
    return supervisor


class Unload(unittest.TestCase):
    def test_when_nothing_runs_and_a_request_wakes_it(self):
        with one_slot() as supervisor:
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            with self.assertRaises(TimeoutError):
                supervisor.unload(0.1)
            self.assertEqual(supervisor.health()["state"], "READY")
            running.cancel()
            supervisor.unload()
            health = supervisor.health()
            self.assertEqual((health["state"], health["live"], health["ready"]), ("UNLOADED", True, False))
            self.assertIsInstance(list(supervisor.submit(**BRIEF))[-1], Finished)
            supervisor.unload(60)
            supervisor.wake()
            supervisor.wait_ready(60)
            supervisor.stop()
            for call in (supervisor.unload, supervisor.wake):
                with self.assertRaises(PoolUnavailable):
                    call()

    def test_by_itself(self):
        with one_slot(idle_unload_ms=200) as supervisor:
            end = time.monotonic() + 60
            while supervisor.health()["state"] != "UNLOADED" and time.monotonic() < end:
                time.sleep(0.02)
            self.assertEqual(supervisor.health()["state"], "UNLOADED")
            self.assertIsInstance(list(supervisor.submit(**BRIEF))[-1], Finished)


if __name__ == "__main__":
    unittest.main()
