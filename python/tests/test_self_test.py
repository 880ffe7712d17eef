"""The self-test of a supervisor."""

import time
import unittest

import support
from llamapen import Failed, Supervisor


class SelfTest(unittest.TestCase):
    def test_a_supervisor_that_is_well_passes(self):
        with Supervisor(support.engine()) as supervisor:
            report = supervisor.self_test(60)
            self.assertTrue(report["passed"], report)
            self.assertEqual([step["name"] for step in report["steps"]], ["load", "decode", "cancel", "log", "metrics"])
            self.assertEqual({step["status"] for step in report["steps"]}, {"pass"})
            self.assertIn("exactly what was done: 2 requests", report["steps"][4]["message"])
            self.assertEqual(supervisor.metrics()["requests"]["cancelled_total"], 1)

    def test_a_stopped_supervisor_fails(self):
        supervisor = Supervisor(support.engine())
        supervisor.wait_ready(60)
        supervisor.stop()
        report = supervisor.self_test()
        self.assertFalse(report["passed"])
        self.assertEqual([step["status"] for step in report["steps"]], ["fail", "skip", "skip", "fail", "skip"])

    @unittest.skipUnless("fault-injection" in support.llamapen.build_info()["features"], "this build does not inject faults")
    def test_in_backoff_the_report_says_so(self):
        with Supervisor(support.engine(), backoff_initial_ms=3600000, backoff_max_ms=3600000, fault="restart_memory") as supervisor:
            supervisor.wait_ready(60)
            *_, last = supervisor.submit("One, two,", max_resumes=0, fault="panic")
            self.assertIsInstance(last, Failed)
            end = time.monotonic() + 60
            while supervisor.health()["last_error_status"] != "OUT_OF_MEMORY" and time.monotonic() < end:
                time.sleep(0.005)
            report = supervisor.self_test(0.2)
            self.assertFalse(report["passed"])
            load = report["steps"][0]
            self.assertEqual((load["name"], load["status"]), ("load", "fail"))
            self.assertIn("state BACKOFF; last error: worker 0 failed: out of memory", load["message"])


if __name__ == "__main__":
    unittest.main()
