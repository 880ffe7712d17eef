"""`prepare` decides and does nothing else; equal input gives equal output. And how the library is found."""

import ctypes
import json
import pickle
import re
import shutil
import tempfile
import time
import types
import unittest
from pathlib import Path

import support
import llamapen
from llamapen import PreparedEngine, _library


class Prepare(unittest.TestCase):
    def test_equal_input_gives_equal_bytes(self):
        first = support.engine().json()
        self.assertEqual(support.engine().json(), first)
        other = support.run_script("import support; print(support.engine().json(), end='')").stdout
        self.assertEqual(other, first)
        self.assertNotEqual(support.engine(n_ctx=512).json(), first)

    def test_what_was_asked_for_is_in_it(self):
        asked = {"n_ctx": 512, "n_ubatch": 64, "threads": 1, "workers": 1, "slots": 3, "use_mmap": False}
        decided = json.loads(llamapen.prepare(support.model(), **asked).json())
        self.assertEqual({name: decided[name] for name in asked}, asked)
        self.assertEqual(decided["files"][0]["bytes"], Path(support.model()).stat().st_size)

    def test_what_was_left_open_is_decided(self):
        decided = json.loads(llamapen.prepare(support.model()).json())
        for name in ("n_ctx", "n_ubatch", "threads", "workers", "slots"):
            self.assertGreater(decided[name], 0)
        self.assertLessEqual(decided["n_ctx"], decided["info"]["n_ctx_train"])

    def test_streams_choose_workers_and_slots(self):
        engine = llamapen.prepare(support.model(), n_ctx=512, streams=4, use_repack=False)
        self.assertFalse(engine.use_repack)
        cores = engine.threads
        self.assertEqual((engine.workers, engine.slots), (min(4, cores), -(-4 // min(4, cores))))
        self.assertEqual(engine.share_threads, cores > 1)
        engine = llamapen.prepare(support.model(), n_ctx=512, streams=4, use_repack=False, share_threads=False)
        self.assertFalse(engine.share_threads)

    def test_the_level_of_the_cpu_kernels(self):
        levels = [level["name"] for level in llamapen.build_info()["cpu_levels"]]
        machine = llamapen.machine(devices=False)
        here = machine.get("cpu_level")
        self.assertEqual(here in levels, bool(levels))
        self.assertEqual(support.engine().cpu_level, here)
        elsewhere = {**machine, "cpu_level": "other"}
        if levels:
            self.assertEqual(llamapen.prepare(support.model(), machine={**machine, "cpu_level": levels[0]}).cpu_level, levels[0])
            with self.assertRaisesRegex(llamapen.InvalidParams, "other"):
                llamapen.prepare(support.model(), machine=elsewhere)
        else:
            self.assertIsNone(llamapen.prepare(support.model(), machine=elsewhere).cpu_level)

    def test_tuning_chooses_what_they_are_for(self):
        tuned = lambda tuning, **more: llamapen.prepare(support.model(), n_ctx=512, streams=4, tuning=tuning, **more)
        engine = tuned("latency")
        self.assertEqual((engine.workers, engine.slots, engine.n_ubatch), (1, 4, 64))
        why = [step.detail for step in llamapen.plan(support.model(), streams=4, tuning="latency").steps if step.kind == "topology"]
        self.assertIn("latency: one worker", why[0])
        with self.assertRaisesRegex(llamapen.InvalidParams, "unknown variant `fast`"):
            tuned("fast")
        with self.assertRaisesRegex(llamapen.InvalidParams, "^.*tuning: latency is one worker"):
            tuned("latency", workers=2)
        with tempfile.TemporaryDirectory() as folder:
            engine = tuned("auto", tuning_cache=Path(folder))
            with llamapen.Supervisor(engine) as supervisor:
                supervisor.wait_ready(60)
                until = time.monotonic() + 60
                while (found := supervisor.health()["calibration"]) and found["state"] != "DONE":
                    self.assertLess(time.monotonic(), until)
                    time.sleep(0.01)
                if engine.workers > 1:
                    self.assertEqual(len(found["spread"]), engine.workers * engine.slots)
                    again = json.loads(tuned("auto", tuning_cache=folder).json())
                    self.assertEqual(again["rates"], found["rates"])

    def test_a_round_trip_keeps_every_byte(self):
        engine = support.engine()
        for again in (PreparedEngine.from_json(engine.json()), pickle.loads(pickle.dumps(engine))):
            self.assertEqual(again.json(), engine.json())
            self.assertEqual(again.info, engine.info)

    def test_it_starts_no_thread_and_writes_no_file(self):
        with tempfile.TemporaryDirectory() as empty:
            # Everything that could be written by habit is in the empty directory.
            script = """
                import os, sys, support
                os.chdir(sys.argv[1])
                from llamapen import _library
                _library.library()
                look = lambda: (os.listdir("/proc/self/task"), os.listdir("/proc/self/fd"))
                before = look()
                engines = [support.engine() for _ in range(3)]
                assert look() == before, (before, look())
                maps = open("/proc/self/maps").read()
                assert os.path.realpath(support.model()) not in maps, "the weights are mapped"
            """
            homes = {name: empty for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME")}
            done = support.run_script(script, empty, **homes, PYTHONDONTWRITEBYTECODE="1")
            self.assertEqual((done.stdout, done.stderr), ("", ""))
            self.assertEqual(list(Path(empty).iterdir()), [])


class Library(unittest.TestCase):
    def test_versions_agree(self):
        project = (support.PYTHON / "pyproject.toml").read_text()
        stated = re.search(r'^version = "(.*)"$', project, re.MULTILINE).group(1)
        self.assertEqual(llamapen.__version__, stated)
        self.assertEqual(llamapen.build_info()["llamapen_version"], stated)

    def test_a_named_library_that_is_not_there(self):
        script = """
            import llamapen
            try:
                llamapen.build_info()
            except OSError as error:
                print(error)
        """
        message = support.run_script(script, LLAMAPEN_LIBRARY="/nowhere/libllamapen.so").stdout
        self.assertIn("/nowhere/libllamapen.so", message)
        self.assertNotIn("target", message)

    def test_every_path_that_was_tried_is_named(self):
        script = """
            import sys
            sys.path.insert(0, sys.argv[1])
            import llamapen
            try:
                llamapen.build_info()
            except OSError as error:
                print(error)
        """
        with tempfile.TemporaryDirectory() as lonely:
            package = Path(lonely).resolve() / "python" / "llamapen"
            shutil.copytree(support.PYTHON / "llamapen", package, ignore=shutil.ignore_patterns("libllamapen*"))
            message = support.run_script(script, str(package.parent), LLAMAPEN_LIBRARY="").stdout
            root = package.parent.parent
            for directory in (package, root / "target" / "release", root / "target" / "debug"):
                self.assertIn(f"{directory}/libllamapen.", message)

    def test_another_library_is_refused(self):
        path = Path("libother.so")
        with self.assertRaisesRegex(OSError, "libother.so .*llamapen_abi_version"):
            _library._declare(ctypes.CDLL(None), path)
        other = types.SimpleNamespace(llamapen_abi_version=lambda: _library.ABI_VERSION + 1)
        with self.assertRaisesRegex(OSError, f"libother.so has ABI version {_library.ABI_VERSION + 1}"):
            _library._declare(other, path)
        other.llamapen_abi_version = lambda: _library.ABI_VERSION
        with self.assertRaisesRegex(OSError, "libother.so .*llamapen_status_name"):
            _library._declare(other, path)


if __name__ == "__main__":
    unittest.main()
