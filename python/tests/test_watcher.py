"""Handoff records in a directory, as they appear, change and disappear."""

import os
import tempfile
import unittest
from pathlib import Path

import support
from llamapen import HandoffWatcher, InvalidParams, Supervisor


class Watcher(unittest.TestCase):
    def test_a_supervisor_appears_and_goes_and_nonsense_is_told(self):
        with tempfile.TemporaryDirectory() as folder, HandoffWatcher(folder) as watcher:
            with self.assertRaises(TimeoutError):
                watcher.next(0)
            with Supervisor(support.engine(n_ctx=512, pool_id="py"), handoff_dir=folder) as supervisor:
                change = watcher.next(60)
                self.assertEqual((change.change, change.record["pool_id"], change.record["pid"]), ("appeared", "py", os.getpid()))
                supervisor.wait_ready(60)
                record = supervisor.handoff()
                self.assertEqual(record, change.record)
                self.assertEqual(watcher.records(), [record])
                self.assertFalse(watcher.bind(record))
                self.assertTrue(watcher.bind({**record, "replica_id": 7}))
                Path(folder, "llamapen-x-0.json").write_text("{")
                problem = watcher.next(60)
                self.assertEqual((problem.change, problem.record), ("problem", None))
                self.assertTrue(problem.path.endswith("llamapen-x-0.json"), problem.path)
                self.assertIn("no record", problem.problem)
            gone = watcher.next(60)
            self.assertEqual((gone.change, gone.record), ("gone", record))
            with self.assertRaises(TimeoutError):
                watcher.next(0.05)
            with self.assertRaisesRegex(InvalidParams, "record: slots is 0"):
                watcher.bind({**record, "slots": 0})
            with self.assertRaisesRegex(InvalidParams, "record: it is no record"):
                watcher.bind({})
        with self.assertRaises(InvalidParams):
            watcher.records()

    def test_a_directory_that_is_not_there(self):
        with self.assertRaisesRegex(InvalidParams, "dir: /nowhere"):
            HandoffWatcher("/nowhere")


if __name__ == "__main__":
    unittest.main()
