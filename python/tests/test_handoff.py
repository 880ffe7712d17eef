"""The record of what is ready."""

import json
import os
import tempfile
import unittest
from pathlib import Path

import support
from llamapen import InvalidParams, Supervisor


class Handoff(unittest.TestCase):
    def test_in_memory_and_in_a_file_until_the_end(self):
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            engine = support.engine(n_ctx=512, pool_id="py", replica_id=3)
            with Supervisor(engine, handoff_dir=directory) as supervisor:
                supervisor.wait_ready(60)
                record = supervisor.handoff()
                self.assertEqual((record["pool_id"], record["replica_id"], record["pid"]), ("py", 3, os.getpid()))
                self.assertEqual(record["model_files"], [os.path.realpath(support.model())])
                (file,) = directory.iterdir()
                self.assertEqual(file.name, "llamapen-py-3.json")
                self.assertEqual(json.loads(file.read_text()), record)
                supervisor.stop()
                self.assertIsNone(supervisor.handoff())
                self.assertEqual(list(directory.iterdir()), [])

    def test_the_end_of_the_process_removes_the_file(self):
        with tempfile.TemporaryDirectory() as folder:
            support.run_script(
                """
                import os, sys
                import support
                from llamapen import Supervisor
                supervisor = Supervisor(support.engine(n_ctx=512), handoff_dir=sys.argv[1])
                supervisor.wait_ready(60)
                assert len(os.listdir(sys.argv[1])) == 1
                """,
                folder,
            )
            self.assertEqual(os.listdir(folder), [])

    def test_a_directory_that_is_not_there(self):
        with self.assertRaisesRegex(InvalidParams, "handoff_dir: /nowhere"):
            Supervisor(support.engine(n_ctx=512), handoff_dir="/nowhere")


if __name__ == "__main__":
    unittest.main()
