"""Another engine in the place of the one that runs."""

import threading
import time
import unittest

import support
from llamapen import Busy, Finished, PoolUnavailable, PoolUnready, Supervisor

BRIEF = {"prompt": "Once", "ignore_eos": True, "max_tokens": 3}


def engine(n_ctx, **config):
    return support.engine(n_ctx=n_ctx, slots=1, workers=1, **config)


def started():
    supervisor = Supervisor(engine(2048))
    supervisor.wait_ready(60)
    return supervisor


class Reload(unittest.TestCase):
    def test_requests_go_to_the_new_engine_and_the_old_one_finishes(self):
        with started() as supervisor:
            self.assertFalse(supervisor.reload(engine(2048))["changed"])
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            reports = []
            thread = threading.Thread(target=lambda: reports.append(supervisor.reload(engine(640))))
            thread.start()
            end = time.monotonic() + 60
            while not supervisor.health()["reloading"] and time.monotonic() < end:
                time.sleep(0.001)
            with self.assertRaises(Busy):
                supervisor.reload(engine(768))
            while "--n-ctx=640" not in supervisor.handoff()["flags"] and time.monotonic() < end:
                time.sleep(0.01)
            self.assertIsInstance(list(supervisor.submit(**BRIEF))[-1], Finished)
            self.assertTrue(thread.is_alive(), "the old one has not finished")
            running.cancel()
            thread.join(60)
            (report,) = reports
            self.assertEqual((report["changed"], report["beside"], report["requests_failed"]), (True, True, 0))
            self.assertIn("--n-ctx=640", supervisor.handoff()["flags"])
            self.assertFalse(supervisor.health()["reloading"])
            supervisor.stop()
            with self.assertRaises(PoolUnavailable):
                supervisor.reload(engine(768))

    def test_one_that_is_not_ready_in_time_leaves_the_old_one(self):
        with started() as supervisor:
            with self.assertRaisesRegex(PoolUnready, "POOL_UNREADY: .*the old engine goes on as before") as caught:
                supervisor.reload(engine(512), 0)
            self.assertTrue(caught.exception.retriable)
            # What the new one may have is enough for it alone.
            needs = engine(512).memory["places"][0]
            alone = sum(needs[kind] for kind in ("weights", "cache", "compute", "output", "overhead"))
            with self.assertRaisesRegex(PoolUnready, "POOL_UNREADY: .*the old engine runs again"):
                supervisor.reload(engine(512, memory_limit=alone), 0)
            self.assertEqual(supervisor.health()["state"], "READY")
            self.assertIsInstance(list(supervisor.submit(**BRIEF))[-1], Finished)
            self.assertIn("--n-ctx=2048", supervisor.handoff()["flags"])


if __name__ == "__main__":
    unittest.main()
