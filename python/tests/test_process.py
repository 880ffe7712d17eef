"""What the library does to its process: nothing that stays. Each test in a process of its own."""

import itertools
import textwrap
import time
import unittest

import support

# The parts of a process' state that a library could change behind its host's back.
SNAPSHOT = """
import ctypes, os, resource, signal, time

libc = ctypes.CDLL(None)
libc.setlocale.restype = ctypes.c_char_p
libc.setlocale.argtypes = [ctypes.c_int, ctypes.c_char_p]

def environment():
    # Not os.environ: Python does not hear of setenv.
    entries = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    return list(iter(lambda i=iter(range(10**6)): entries[next(i)], None))

def signals():
    with open("/proc/self/status") as status:
        return [line for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "Umask"))]

def files():
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass  # The descriptor of this very listing.
    return found

def snapshot():
    return {
        "environment": environment(),
        "signals": signals(),
        "handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "cwd": os.getcwd(),
        "locale": libc.setlocale(6, None),
        "files": files(),
        "threads": sorted(os.listdir("/proc/self/task")),
        "limits": [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")],
        "affinity": os.sched_getaffinity(0),
        "rounding": libc.fegetround() if hasattr(libc, "fegetround") else None,
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
    }

def threads(count):
    # The system lists a thread for a moment longer than joining it takes.
    for _ in range(200):
        if len(os.listdir("/proc/self/task")) == count:
            break
        time.sleep(0.01)
    return sorted(os.listdir("/proc/self/task"))

def compare(before, when):
    threads(len(before["threads"]))
    after = snapshot()
    for name, value in before.items():
        assert after[name] == value, f"{when}: {name} was {value}, is {after[name]}"
"""


class Traces(unittest.TestCase):
    def test_loading_and_using_changes_nothing_and_prints_nothing(self):
        self.use("contain_faults=False", "before = before")

    def test_a_supervisor_installs_the_handlers_that_contain_faults_and_nothing_else(self):
        self.use("", """
def with_ours(line):
    name, bits = line.split()
    ours = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
    return f"{name}\\t{int(bits, 16) | sum(1 << (number - 1) for number in ours):016x}\\n"
before["signals"] = [with_ours(line) if line.startswith("SigCgt") else line for line in before["signals"]]
""")

    def use(self, config, then):
        """`then` says what has changed once there is a supervisor."""
        script = SNAPSHOT + f"""
import gc, threading, support, llamapen
from llamapen import _library
# With a process' first thread, the C library catches a signal for itself.
first = threading.Thread(target=int)
first.start()
first.join()
threads(1)
before = snapshot()
_library.library()
compare(before, "loading")
llamapen.build_info()
{then}
with llamapen.Supervisor(support.engine(), {config}) as supervisor:
    stream = supervisor.submit("Hello", max_tokens=3)
    assert stream.text()
    running = supervisor.submit(**support.ENDLESS)
    support.until_token(running)
    assert len(os.listdir("/proc/self/task")) > len(before["threads"]), "this script cannot see threads"
    supervisor.stop()
    compare(before, "stopping")
del supervisor, stream, running
gc.collect()
compare(before, "freeing")
"""
        done = support.run_script(script)
        self.assertEqual((done.stdout, done.stderr), ("", ""))

    def test_the_check_sees_changes(self):
        for change in (
            'libc.setenv(b"LLAMAPEN_X", b"1", 1)', 'libc.setlocale(6, b"C")', "os.chdir('/')", "os.open('/', os.O_RDONLY)",
            "libc.signal(signal.SIGUSR1, ctypes.c_void_p(1))", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])",
        ):
            with self.subTest(change=change):
                script = SNAPSHOT + f"""
libc.setlocale(6, b"C.UTF-8")
before = snapshot()
kept = {change}
try:
    compare(before, "changing")
except AssertionError:
    print("seen")
"""
                self.assertEqual(support.run_script(script).stdout, "seen\n")

    def test_memory_is_given_back(self):
        script = """
            import support, llamapen
            def resident():
                with open("/proc/self/statm") as statm:
                    return int(statm.read().split()[1]) * 4096
            def use():
                # Read, not mapped: what is not freed stays resident.
                with llamapen.Supervisor(support.engine(use_mmap=False)) as supervisor:
                    supervisor.submit("Hello", max_tokens=2).text()
                    return resident()
            # The second load leaves glibc the loader's largest buffer (28 MiB) to keep; later ones use it again.
            use()
            use()
            before = resident()
            during = [use() for _ in range(3)]
            grown, needed = resident() - before, during[0] - before
            print(f"grown {grown >> 20} MiB, while loaded {needed >> 20} MiB")
            assert needed > 50 << 20, "this script cannot see memory"
            assert grown < 30 << 20
        """
        support.run_script(script)

    def test_what_calls_return_is_freed(self):
        script = """
            import support, llamapen
            def resident():
                with open("/proc/self/statm") as statm:
                    return int(statm.read().split()[1]) * 4096
            engine = support.engine()
            supervisor = llamapen.Supervisor(engine)
            def use(rounds):
                for _ in range(rounds):
                    supervisor.health()
                    try:
                        supervisor.submit("a", temperature=-1)
                    except llamapen.InvalidParams:
                        pass
            supervisor.wait_ready(60)
            use(2000)
            before = resident()
            use(20000)
            grown = resident() - before
            # Each round makes a text and an error of some hundred bytes.
            assert grown < 2 << 20, grown
        """
        support.run_script(script)


class Lifetimes(unittest.TestCase):
    def test_letting_go_in_any_order(self):
        script = """
            import gc, sys
            before = len(threads(1))
            for order in sys.argv[1:]:
                objects = {"e": support.engine(n_ctx=512)}
                objects["s"] = llamapen.Supervisor(objects["e"])
                objects["r"] = objects["s"].submit(**support.ENDLESS)
                support.until_token(objects["r"])
                for name in order:
                    del objects[name]
                    gc.collect()
                assert len(threads(before)) == before, order
            print("done")
        """
        orders = ["".join(order) for order in itertools.permutations("esr")]
        self.assertEqual(support.run_script(SNAPSHOT + "import support, llamapen\n" + textwrap.dedent(script), *orders).stdout, "done\n")

    def test_a_supervisor_is_not_freed_under_a_call(self):
        script = """
            import threading, support, llamapen
            for _ in range(5):
                supervisor = llamapen.Supervisor(support.engine(n_ctx=512))
                results = []
                def wait(supervisor=supervisor):
                    try:
                        results.append(supervisor.wait_ready())
                    except llamapen.LlamapenError as error:
                        results.append(error.status_name)
                threads = [threading.Thread(target=wait) for _ in range(4)]
                for thread in threads: thread.start()
                supervisor.close()
                for thread in threads: thread.join()
                assert len(results) == 4 and set(results) <= {None, "POOL_UNAVAILABLE", "CANCELLED"}, results
            print("done")
        """
        self.assertEqual(support.run_script(script).stdout, "done\n")

    def exits_cleanly(self, end, stdout=""):
        script = """
            import atexit, os, sys, threading, support, llamapen
            supervisor = llamapen.Supervisor(support.engine())
            stream = supervisor.submit(**support.ENDLESS)
            support.until_token(stream)
        """
        begun = time.monotonic()
        done = support.run_script(script + end, timeout=60)
        self.assertEqual((done.stdout, done.stderr), (stdout, ""))
        self.assertLess(time.monotonic() - begun, 15)  # The request would go on for longer.

    def test_exit_with_everything_alive(self):
        self.exits_cleanly("")

    def test_exit_before_the_model_is_loaded(self):
        support.run_script("import support, llamapen; s = llamapen.Supervisor(support.engine())", timeout=60)

    def test_exit_while_a_daemon_thread_waits(self):
        self.exits_cleanly("""
            queued = supervisor.submit("Hello")
            for waiting in (lambda: list(stream), lambda: list(queued)):
                threading.Thread(target=waiting, daemon=True).start()
            import time; time.sleep(0.5)
        """)

    def test_exit_with_a_cycle_that_is_never_collected(self):
        self.exits_cleanly("""
            class Holder:
                def __del__(self):
                    print("collected")
            holder = Holder(); holder.self, holder.held = holder, (stream, supervisor)
        """, "collected\n")

    def test_use_in_exit_handlers(self):
        self.exits_cleanly("""
            atexit.register(lambda: print(stream.next(5) is not None))
        """, "True\n")


class Signals(unittest.TestCase):
    def test_ctrl_c_ends_a_wait(self):
        script = """
            import os, signal, threading, time, support, llamapen
            supervisor = llamapen.Supervisor(support.engine())
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            queued = supervisor.submit("Hello", max_tokens=2, ignore_eos=True)
            for wait in (queued.next, lambda: queued.next(60), queued.text, lambda: list(queued)):
                threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
                begun = time.monotonic()
                try:
                    wait()
                    raise AssertionError("not interrupted")
                except KeyboardInterrupt:
                    took = time.monotonic() - begun
                    assert 0.3 < took < 1.5, took
            # Only the wait has ended: the request goes on, and can be waited for again.
            running.cancel()
            assert queued.text()
            print("done")
        """
        self.assertEqual(support.run_script(script).stdout, "done\n")

    def test_ctrl_c_ends_the_wait_for_readiness(self):
        script = """
            import signal, support, llamapen
            supervisor = llamapen.Supervisor(support.engine())
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            try:
                supervisor.wait_ready()
                raise AssertionError("not interrupted")
            except KeyboardInterrupt:
                pass
            supervisor.wait_ready(60)
            print("done")
        """
        self.assertEqual(support.run_script(script).stdout, "done\n")

    def test_the_hosts_handlers_run_on_the_hosts_threads(self):
        script = """
            import os, signal, support, llamapen
            seen = []
            signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
            with llamapen.Supervisor(support.engine()) as supervisor:
                stream = supervisor.submit("Hello", max_tokens=32, ignore_eos=True)
                for event in stream:
                    os.kill(os.getpid(), signal.SIGUSR1)
                    ours = {str(os.getpid())}
                    for task in set(os.listdir("/proc/self/task")) - ours:
                        with open(f"/proc/self/task/{task}/status") as status:
                            blocked = next(int(l.split()[1], 16) for l in status if l.startswith("SigBlk"))
                        assert blocked >> (signal.SIGUSR1 - 1) & 1, "a thread of the library takes signals"
                assert isinstance(event, llamapen.Finished), event
            assert seen
            print("done")
        """
        self.assertEqual(support.run_script(script).stdout, "done\n")


class Fork(unittest.TestCase):
    def test_a_forked_child_is_told_and_the_parent_goes_on(self):
        script = """
            import gc, os, warnings, support, llamapen
            warnings.simplefilter("ignore")  # Newer Pythons warn of what is tested here.
            engine = support.engine()
            supervisor = llamapen.Supervisor(engine)
            stream = supervisor.submit("Once upon a time", max_tokens=64, ignore_eos=True)
            support.until_token(stream)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for call in (supervisor.health, supervisor.wait_ready, supervisor.cancel_load, supervisor.stop,
                                 lambda: supervisor.submit("Hello"), stream.next, stream.cancel, stream.text):
                        try:
                            call()
                            print("not refused", call)
                            break
                        except llamapen.Forked as error:
                            assert error.status_name == "FORKED" and "fork" in error.message
                    else:
                        # Freeing what the parent made must neither crash nor wait for threads that are not here.
                        del supervisor, stream, engine, call
                        gc.collect()
                        # And the child may have its own.
                        with llamapen.Supervisor(support.engine()) as own:
                            assert own.submit("Hello", max_tokens=2, ignore_eos=True).text()
                        status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child failed"
            *_, last = stream
            assert isinstance(last, llamapen.Finished) and last.usage["completion_tokens"] == 64, last
            print("done")
        """
        self.assertEqual(support.run_script(script).stdout, "done\n")

    def test_a_fork_while_another_thread_waits(self):
        script = """
            import os, threading, time, warnings, support, llamapen
            warnings.simplefilter("ignore")
            supervisor = llamapen.Supervisor(support.engine())
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            queued = supervisor.submit("Hello")
            waiter = threading.Thread(target=lambda: list(queued))
            waiter.start()
            time.sleep(0.3)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    queued.next(0)
                except llamapen.LlamapenError as error:
                    print(error.status_name, flush=True)
                    status = 0
                finally:
                    os._exit(status)
            os.waitpid(child, 0)
            queued.cancel()
            waiter.join()
        """
        self.assertEqual(support.run_script(script).stdout, "FORKED\n")

    def test_a_forked_child_that_exits_in_order(self):
        script = """
            import os, sys, warnings, support, llamapen
            warnings.simplefilter("ignore")
            supervisor = llamapen.Supervisor(support.engine())
            stream = supervisor.submit(**support.ENDLESS)
            support.until_token(stream)
            child = os.fork()
            if child == 0:
                sys.exit(7)  # With all handlers, of Python and of C.
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, "the child failed"
            assert isinstance(stream.next(60), llamapen.Token)
            print("done")
        """
        self.assertEqual(support.run_script(script, timeout=60).stdout, "done\n")


if __name__ == "__main__":
    unittest.main()
