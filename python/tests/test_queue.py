"""Priorities in the queue, and what gives way when it is full."""

import pickle
import unittest

import support
from llamapen import ContextOverflow, Failed, InvalidParams, PoolUnavailable, QueueFull, QueueFullDropLru, Supervisor


def brief(supervisor, priority):
    return supervisor.submit("Once", max_tokens=1, ignore_eos=True, priority=priority)


class Queue(unittest.TestCase):
    def test_the_oldest_batch_request_gives_way(self):
        with Supervisor(support.engine(slots=1, workers=1), queue_capacity=2, queue_full="drop_oldest_batch") as supervisor:
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            oldest, second = brief(supervisor, "batch"), brief(supervisor, "batch")
            self.assertEqual(supervisor.health()["queue_depth_by_priority"], {"interactive": 0, "batch": 2})
            self.assertIn('priority="batch"} 2', supervisor.prometheus())
            waiting = brief(supervisor, "interactive")
            (only,) = oldest
            self.assertIsInstance(only, Failed)
            self.assertIsInstance(only.error, QueueFullDropLru)
            self.assertTrue(only.error.retriable)
            self.assertEqual(supervisor.metrics()["queue_depth_by_priority"], {"interactive": 1, "batch": 1})
            running.cancel()
            self.assertTrue(waiting.text())
            self.assertTrue(second.text())

    def test_refusals_name_their_rule(self):
        with Supervisor(support.engine(slots=1, workers=1, n_ctx=64), queue_capacity=1) as supervisor:
            supervisor.submit("Once", max_tokens=1).text()
            with self.assertRaises(ContextOverflow) as caught:
                supervisor.submit(tokens=[100] * 64)
            self.assertEqual((caught.exception.policy, caught.exception.retriable), ("context", False))
            with self.assertRaises(InvalidParams) as caught:
                brief(supervisor, "high")
            self.assertIsNone(caught.exception.policy)
        with self.assertRaises(PoolUnavailable) as caught:
            supervisor.submit("Once")
        self.assertEqual(caught.exception.policy, "state")

    def test_a_full_queue_says_when_to_come_again(self):
        with Supervisor(support.engine(slots=1, workers=1), queue_capacity=1) as supervisor:
            supervisor.submit("Once", max_tokens=1, ignore_eos=True).text()
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            waiting = brief(supervisor, "batch")
            with self.assertRaises(QueueFull) as caught:
                brief(supervisor, "interactive")
            error = pickle.loads(pickle.dumps(caught.exception))
            self.assertEqual((error.policy, error.retriable), ("queue", True))
            self.assertGreaterEqual(error.retry_after_ms, 1)
            running.cancel()
            self.assertTrue(waiting.text())


if __name__ == "__main__":
    unittest.main()
