"""Digests: computed, compared, remembered, and ended by whoever waits for them."""

import gc
import hashlib
import os
import shutil
import tempfile
import threading
import unittest
from pathlib import Path

import support
from llamapen import Cancelled, DigestMismatch, InvalidParams, ModelNotFound, digest, prepare

MIB = 1 << 20


def sha256(path):
    return "sha256:" + hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Stop(Exception):
    pass


class Digest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def file(self, size):
        """All zeros, and next to nothing on the disk."""
        path = self.directory / "file"
        with open(path, "wb") as made:
            made.truncate(size)
        return path

    def test_it_is_the_digest(self):
        for size in (0, 1, MIB, 3 * MIB + 1):
            path = self.file(size)
            self.assertEqual(digest(path), sha256(path))
        with self.assertRaises(ModelNotFound):
            digest(self.directory / "missing")
        with self.assertRaises(InvalidParams):
            digest("")

    def test_progress_is_told_on_the_caller_s_thread(self):
        told, threads = [], set()

        def progress(done, total):
            # A callback that nobody keeps alive would crash after this.
            gc.collect()
            told.append((done, total))
            threads.add(threading.get_ident())

        before = threading.active_count()
        digest(self.file(3 * MIB), progress=progress)
        self.assertEqual(told, [(n * MIB, 3 * MIB) for n in range(4)])
        self.assertEqual(threads, {threading.get_ident()})
        self.assertEqual(threading.active_count(), before)

    def test_only_false_ends_it(self):
        told = []
        for goes_on in (None, True, 0, ""):
            digest(self.file(2 * MIB), progress=lambda done, total: goes_on)
        with self.assertRaises(Cancelled):
            digest(self.file(100 * MIB), progress=lambda done, total: told.append(done) or done < 2 * MIB)
        self.assertEqual(told, [0, MIB, 2 * MIB])

    def test_an_exception_ends_it_and_is_raised(self):
        told = []

        def progress(done, total):
            told.append(done)
            if done >= MIB:
                raise Stop(done)

        with self.assertRaises(Stop) as caught:
            digest(self.file(100 * MIB), progress=progress)
        self.assertEqual((caught.exception.args, told), ((MIB,), [0, MIB]))
        self.assertNotIn("llamapen-digest", str(threading.enumerate()))

    def test_ctrl_c_ends_it(self):
        # A file that takes hours: only the signal ends it. With and without a progress function, at different moments.
        script = """
            import os, signal, sys, threading
            import llamapen
            with open(sys.argv[1], "wb") as file:
                file.truncate(1 << 42)
            digest = lambda: llamapen.digest(sys.argv[1])
            told = lambda: llamapen.digest(sys.argv[1], progress=lambda done, total: None)
            for round in range(20):
                timer = threading.Timer(0.05 + round * 0.003, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
                try:
                    (digest, told)[round % 2]()
                except KeyboardInterrupt:
                    print("interrupted")
                timer.join()
            print(threading.active_count())
        """
        done = support.run_script(script, str(self.directory / "endless"))
        self.assertEqual((done.stdout.split(), done.stderr), (["interrupted"] * 20 + ["1"], ""))


class Prepare(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.right = sha256(support.model())

    def test_the_right_and_the_wrong_digest(self):
        for given in (self.right, [self.right], self.right.upper()):
            self.assertEqual(prepare(support.model(), digest=given, n_ctx=512).digest, [self.right])
        with self.assertRaises(DigestMismatch) as caught:
            prepare(support.model(), digest="sha256:" + "0" * 64)
        self.assertEqual((caught.exception.status, caught.exception.status_name), (108, "DIGEST_MISMATCH"))
        self.assertIn(self.right, caught.exception.message)
        for wrong in ("sha256:0", "md5:" + "0" * 32, [self.right] * 2):
            with self.assertRaisesRegex(InvalidParams, "digest"):
                prepare(support.model(), digest=wrong)

    def test_progress_ends_it(self):
        told = []
        engine = prepare(support.model(), digest=self.right, progress=lambda *at: told.append(at))
        size = Path(support.model()).stat().st_size
        self.assertEqual((told[0], told[-1], told == sorted(told)), ((0, size), (size, size), True))
        self.assertEqual(engine.digest, [self.right])
        with self.assertRaises(Cancelled):
            prepare(support.model(), digest=self.right, progress=lambda done, total: False)
        with self.assertRaises(Stop):
            prepare(support.model(), digest=self.right, progress=self.stop)
        # Without a digest there is nothing to tell.
        prepare(support.model(), progress=self.stop)

    def stop(self, done, total):
        raise Stop

    def test_a_cache_is_used_and_written_only_where_it_is_named(self):
        model = self.directory / "m.gguf"
        shutil.copyfile(support.model(), model)
        os.utime(model, (1e9, 1e9))
        cache, calls = self.directory / "cache", []
        for expected in (2, 1):
            prepare(model, digest=self.right, digest_cache=cache, progress=lambda *at: calls.append(at))
            self.assertEqual(min(len(calls), 2), expected)  # Read in many pieces, and then not at all.
            calls.clear()
        self.assertEqual(len(list(cache.iterdir())), 1)
        shutil.rmtree(cache)
        prepare(model, digest=self.right)
        self.assertEqual(list(self.directory.iterdir()), [model])
        # One that was changed is read again, whatever the cache says.
        prepare(model, digest=self.right, digest_cache=cache)
        with open(model, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        with self.assertRaises(DigestMismatch):
            prepare(model, digest=self.right, digest_cache=cache)


if __name__ == "__main__":
    unittest.main()
