"""Workers that are child processes, in a Python that has installed nothing for them. Each test in a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import unittest
from pathlib import Path

import support

HEAD = """
import asyncio, faulthandler, gc, os, signal, subprocess, sys, threading, time, warnings
import support, llamapen
from llamapen import Failed, Finished, Restarted, Supervisor, Token

REQUEST = dict(prompt="One, two,", max_tokens=40, ignore_eos=True, temperature=0)
# Workers that were killed are replaced at once.
SOON = dict(backoff_initial_ms=1, backoff_max_ms=1, max_restarts=1000, breaker_failures=1000, snapshot_tokens=8)

def start(isolation="process", **config):
    supervisor = Supervisor(support.engine(n_ctx=256, isolation=isolation), **{**SOON, **config})
    supervisor.wait_ready(60)
    return supervisor

def worker(supervisor):
    return supervisor.health()["workers"][0]["process"]["pid"]

def exists(pid):
    return os.path.exists(f"/proc/{pid}")

def gone(pid):
    for _ in range(2000):
        if not exists(pid):
            return True
        time.sleep(0.005)
    return False

def tokens(events):
    return [event.token for event in events if isinstance(event, Token)]

def answer(supervisor, **more):
    *events, last = supervisor.submit(**{**REQUEST, **more})
    assert isinstance(last, Finished), last
    return tokens(events)

def answer_through_a_kill(supervisor):
    '''The tokens of a stream whose worker is killed in the middle.'''
    pid, events = worker(supervisor), []
    for event in supervisor.submit(**REQUEST):
        events.append(event)
        if isinstance(event, Token) and event.index == 19:
            os.kill(pid, signal.SIGKILL)
    assert isinstance(events[-1], Finished), events[-1]
    assert [event.attempt for event in events if isinstance(event, Restarted)] == [1], events
    assert gone(pid)
    return tokens(events)

def children():
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat") as stat:
                if int(stat.read().rpartition(") ")[2].split()[1]) == os.getpid():
                    found.append(int(name))
        except (OSError, ValueError):
            pass  # No process, or not any more.
    return found
"""


def run(body, **env):
    """What `body` printed."""
    done = support.run_script(HEAD + textwrap.dedent(body), timeout=300, **env)
    assert done.stderr == "", done.stderr
    return done.stdout


class Answers(unittest.TestCase):
    def test_they_are_those_of_threads_also_when_the_worker_is_killed(self):
        said = run("""
            with start("thread") as threads:
                alone = answer(threads)
            with start() as supervisor:
                health = supervisor.health()
                assert (health["isolation"], health["taint"]) == ("process", "escalate_to_process"), health
                assert answer(supervisor) == alone
                first = worker(supervisor)
                assert answer_through_a_kill(supervisor) == alone
                health = supervisor.health()
                crash = health["workers"][0]["last_crash"]
                assert crash["reason"] == "KILLED", crash
                assert (crash["exit"]["pid"], crash["exit"]["how"]) == (first, "signal 9 (SIGKILL)"), crash
                assert not health["tainted"] and worker(supervisor) != first, health
            print("done")
        """)
        self.assertEqual(said, "done\n")

    def test_a_sandbox_changes_none_and_says_that_it_holds(self):
        said = run("""
            with start("thread") as threads:
                alone = answer(threads)
            with start(child={"sandbox": "strict", "nice": 3, "cpus": sorted(os.sched_getaffinity(0))[:1]}) as supervisor:
                assert answer(supervisor) == alone
                report = supervisor.health()["workers"][0]["process"]["confinement"]
                print(report)
                assert "on" in report["seccomp"] and report["no_new_privs"] and not report["dumpable"], report
                # Older kernels have none, and the report says so.
                assert "on" in report["landlock"] or "missing" in report["landlock"], report
                assert (report["nice"], len(report["cpus"])) == (os.nice(0) + 3, 1), report
                assert answer_through_a_kill(supervisor) == alone
        """)
        self.assertIn("seccomp", said)

    def test_streams_in_asyncio(self):
        said = run("""
            async def consume(stream):
                return [event async for event in stream]

            async def main():
                with start() as supervisor:
                    alone = answer(supervisor)
                    streams = [supervisor.submit(**REQUEST) for _ in range(4)]
                    other = asyncio.create_task(asyncio.create_subprocess_exec("sleep", "0.3"))
                    first, *more = await asyncio.gather(*map(consume, streams))
                    assert tokens(first) == alone and all(tokens(events) == alone for events in more)
                    stream, events = supervisor.submit(**REQUEST), []
                    async for event in stream:
                        events.append(event)
                        if isinstance(event, Token) and event.index == 9:
                            os.kill(worker(supervisor), signal.SIGKILL)
                    assert tokens(events) == alone, events
                    # asyncio's own children are asyncio's.
                    assert await (await other).wait() == 0
            asyncio.run(main())
            print("done")
        """)
        self.assertEqual(said, "done\n")

    @unittest.skipUnless("fault-injection" in support.llamapen.build_info()["features"], "needs a fault")
    def test_after_a_memory_fault_threads_become_processes(self):
        said = run("""
            with start("thread") as supervisor:
                alone = answer(supervisor)
                assert supervisor.health()["isolation"] == "thread"
                assert answer(supervisor, fault="null_write") == alone
                health = supervisor.health()
                assert health["tainted"] and health["isolation"] == "process", health
                assert exists(worker(supervisor))
                assert answer(supervisor) == alone
            print("done")
        """)
        self.assertEqual(said, "done\n")

    def test_a_configuration_may_have_paths(self):
        said = run("""
            import pathlib, tempfile
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                child = {"pid_dir": folder, "log_dir": folder, "worker": None}
                with start(child=child) as supervisor:
                    (file,) = folder.glob("*.pid")
                    assert int(file.read_text()) == worker(supervisor)
                assert not list(folder.glob("*.pid")) and child["pid_dir"] is folder
            print("done")
        """)
        self.assertEqual(said, "done\n")


class Hosts(unittest.TestCase):
    def test_it_never_maps_the_model_and_grows_by_little(self):
        said = run("""
            def resident():
                with open("/proc/self/statm") as statm:
                    return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            name, mapped, over = os.path.basename(support.model()), [], threading.Event()
            def look():
                while not over.wait(0.002):
                    with open("/proc/self/maps") as maps:
                        mapped.append(name in maps.read())
            llamapen.build_info()
            before = resident()
            thread = threading.Thread(target=look, daemon=True)
            thread.start()
            with start() as supervisor:
                for _ in range(3):
                    answer(supervisor)
                answer_through_a_kill(supervisor)
                grown = resident() - before
            over.set()
            thread.join()
            assert len(mapped) > 50 and not any(mapped)
            assert grown < 16 << 20, grown
            # A look that sees nothing in any case shows nothing.
            with start("thread"), open("/proc/self/maps") as maps:
                assert name in maps.read()
            print("done")
        """)
        self.assertEqual(said, "done\n")

    def odd(self, arrange, then="pass", how="signal 9 (SIGKILL)"):
        then = f"""
            with start() as supervisor:
                alone = answer(supervisor)
                assert answer_through_a_kill(supervisor) == alone
                exit = supervisor.health()["workers"][0]["last_crash"]["exit"]
                assert exit["how"].startswith({how!r}), exit
                last = worker(supervisor)
                {then}
            assert not exists(last) and not children(), children()
            print("done")
        """
        said = run(textwrap.dedent(arrange) + textwrap.dedent(then))
        self.assertEqual(said, "done\n")

    def test_in_another_folder(self):
        self.odd("os.chdir('/')")

    def test_in_a_folder_that_is_gone(self):
        self.odd("import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)")

    def test_with_a_library_that_was_named_relative_to_another_folder(self):
        library = Path(os.environ.get("LLAMAPEN_LIBRARY") or support.llamapen._library.candidates()[-1]).resolve()
        said = run(
            f"""
            os.chdir({str(library.parent)!r})
            llamapen.build_info()
            os.chdir("/")
            with start() as supervisor:
                assert answer_through_a_kill(supervisor) == answer(supervisor)
            print("done")
            """,
            LLAMAPEN_LIBRARY=f"./{library.name}",
        )
        self.assertEqual(said, "done\n")

    def test_with_a_thousand_open_files_none_of_which_the_worker_gets(self):
        self.odd(
            """
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
            files = [os.dup(2) for _ in range(1000)]
            [os.set_inheritable(file, True) for file in files]
            """,
            "assert len(os.listdir(f'/proc/{last}/fd')) < 16",
        )

    def test_with_children_that_nobody_is_told_of(self):
        self.odd("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", how="nobody knows how")

    def test_with_somebody_who_waits_for_all_children(self):
        said = run("""
            def reap():
                while True:
                    try:
                        os.waitpid(-1, 0)
                    except ChildProcessError:
                        time.sleep(0.001)
            threading.Thread(target=reap, daemon=True).start()
            with start() as supervisor:
                alone = answer(supervisor)
                for _ in range(3):
                    assert answer_through_a_kill(supervisor) == alone
                last = worker(supervisor)
            assert gone(last)
            print("done")
        """)
        self.assertEqual(said, "done\n")

    def test_beside_other_children(self):
        said = run("""
            over, codes = threading.Event(), set()
            def others():
                while not over.is_set():
                    codes.add(subprocess.run(["sh", "-c", "exit 7"]).returncode)
            threads = [threading.Thread(target=others, daemon=True) for _ in range(2)]
            for thread in threads: thread.start()
            with start() as supervisor:
                sleeper = subprocess.Popen(["sleep", "60"])
                alone = answer(supervisor)
                for _ in range(3):
                    assert answer_through_a_kill(supervisor) == alone
                last = worker(supervisor)
            over.set()
            for thread in threads: thread.join()
            assert codes == {7}, codes
            # Ours are gone, and nobody else's.
            assert children() == [sleeper.pid], children()
            sleeper.kill()
            assert sleeper.wait() == -signal.SIGKILL
            print("done")
        """)
        self.assertEqual(said, "done\n")

    def test_with_faulthandler(self):
        self.odd("faulthandler.enable()")

    def test_with_every_signal_blocked(self):
        self.odd("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())")


class Ends(unittest.TestCase):
    def test_nothing_is_left_after_a_stop(self):
        said = run("""
            llamapen.build_info()
            start().close()
            files, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
            for _ in range(3):
                supervisor = start()
                last = worker(supervisor)
                stream = supervisor.submit(**support.ENDLESS)
                support.until_token(stream)
                supervisor.stop()
                assert not exists(last) and not children(), children()
                supervisor.close()
            del supervisor, stream
            gc.collect()
            for _ in range(1000):
                if len(os.listdir("/proc/self/task")) <= threads:
                    break
                time.sleep(0.005)
            found = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
            assert found <= (files, threads), (found, files, threads)
            print("done")
        """)
        self.assertEqual(said, "done\n")

    def is_gone(self, pid):
        for _ in range(2000):
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(0.005)
        self.fail(f"process {pid} is still there")

    def test_an_interpreter_that_ends_leaves_no_worker(self):
        for end in ("", "os._exit(0)", "del supervisor, stream; gc.collect()", "supervisor.cycle = supervisor"):
            with self.subTest(end=end):
                said = run(f"""
                    supervisor = start()
                    stream = supervisor.submit(**support.ENDLESS)
                    support.until_token(stream)
                    print(worker(supervisor), flush=True)
                    {end}
                """)
                self.is_gone(int(said))

    def test_an_interpreter_that_ends_while_workers_load_leaves_none(self):
        for end in ("", "os._exit(0)"):
            with self.subTest(end=end):
                said = run(f"""
                    supervisor = Supervisor(support.engine(isolation="process"))
                    while not children():
                        time.sleep(0.0005)
                    print(children()[0], flush=True)
                    {end}
                """)
                self.is_gone(int(said))

    def test_an_interpreter_that_is_killed_leaves_no_worker(self):
        body = """
            supervisor = start()
            stream = supervisor.submit(**support.ENDLESS)
            support.until_token(stream)
            # A forked child has a copy of what the worker is talked to through: that must not keep it.
            forked = os.fork()
            if forked == 0:
                time.sleep(60)
                os._exit(0)
            print(worker(supervisor), forked, flush=True)
            signal.pause()
        """
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(support.PYTHON), str(support.PYTHON / "tests")])}
        command = [sys.executable, "-c", HEAD + textwrap.dedent(body)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as host:
            worker, forked = map(int, host.stdout.readline().split())
            try:
                self.assertTrue(Path(f"/proc/{worker}").exists())
                host.kill()
                host.wait()
                self.is_gone(worker)
            finally:
                os.kill(forked, signal.SIGKILL)


class Fork(unittest.TestCase):
    def test_a_forked_child_is_told_and_leaves_the_worker_alone(self):
        said = run("""
            import multiprocessing
            warnings.simplefilter("ignore")  # Newer Pythons warn of what is tested here.
            supervisor = start()
            alone, pid = answer(supervisor), worker(supervisor)
            stream = supervisor.submit(**REQUEST)
            first = support.until_token(stream)

            def refused():
                for call in (supervisor.health, supervisor.stop, lambda: supervisor.submit("Hello"), stream.next, stream.cancel):
                    try:
                        call()
                        raise AssertionError(call)
                    except llamapen.Forked:
                        pass

            def forked():
                global supervisor, stream
                refused()
                del supervisor, stream
                gc.collect()
                # And it may have its own.
                with start() as own:
                    assert answer(own) == alone and worker(own) != pid

            context = multiprocessing.get_context("fork")
            others = [context.Process(target=forked) for _ in range(2)]
            for other in others: other.start()
            for other in others: other.join()
            assert [other.exitcode for other in others] == [0, 0], others
            with context.Pool(1) as pool:
                pool.apply(refused)
            # One that ends in order, with all handlers of Python and of C.
            child = os.fork()
            if child == 0:
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

            *events, last = stream
            assert isinstance(last, Finished) and [first.token, *tokens(events)] == alone, last
            assert worker(supervisor) == pid and supervisor.health()["workers"][0]["restarts"] == 0
            supervisor.close()
            assert not exists(pid) and not children()
            print("done")
        """)
        self.assertEqual(said, "done\n")


if __name__ == "__main__":
    unittest.main()
