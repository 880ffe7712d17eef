"""How streams end, wait and are cancelled."""

import threading
import time
import unittest

import support
from llamapen import Busy, Cancelled, Failed, Finished, PoolUnavailable, Supervisor, Token
from llamapen import _wait


def is_terminal(event):
    return isinstance(event, (Failed, Finished))


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not happen in time")
        time.sleep(0.01)


def is_idle(supervisor):
    health = supervisor.health()
    return health["queue_depth"] == 0 and all(worker["active"] == 0 for worker in health["workers"])


class Ends(unittest.TestCase):
    def test_the_end_is_for_ever(self):
        stream = support.supervisor().submit("Hello", max_tokens=2)
        self.assertIsInstance(list(stream)[-1], Finished)
        for _ in range(3):
            self.assertIsNone(stream.next())
            self.assertEqual(list(stream), [])
        self.assertEqual(stream.text(), "")

    def test_cancelling_gives_one_terminal_event_and_nothing_after(self):
        stream = support.supervisor().submit(**support.ENDLESS)
        support.until_token(stream)
        begun = time.monotonic()
        for _ in range(3):
            stream.cancel()
        last, *rest = stream
        self.assertLess(time.monotonic() - begun, 1)
        self.assertIsInstance(last, Failed)
        self.assertIsInstance(last.error, Cancelled)
        self.assertEqual(rest, [])
        time.sleep(0.2)  # A token that was being computed must not turn up.
        self.assertIsNone(stream.next())

    def test_cancelling_while_queued(self):
        running = support.supervisor().submit(**support.ENDLESS)
        support.until_token(running)
        queued = support.supervisor().submit("Hello")
        queued.cancel()
        self.assertIsInstance(list(queued)[-1].error, Cancelled)
        self.assertIsInstance(running.next(60), Token)

    def test_cancelling_after_the_end_changes_nothing(self):
        stream = support.supervisor().submit("Hello", max_tokens=2)
        events = list(stream)
        stream.cancel()
        self.assertIsInstance(events[-1], Finished)
        self.assertIsNone(stream.next())

    def test_text_raises_what_failed(self):
        stream = support.supervisor().submit(**support.ENDLESS)
        threading.Timer(0.3, stream.cancel).start()
        with self.assertRaises(Cancelled):
            stream.text()

    def test_letting_go_cancels(self):
        stream = support.supervisor().submit(**support.ENDLESS)
        support.until_token(stream)
        self.assertFalse(is_idle(support.supervisor()))
        del stream
        wait_until(lambda: is_idle(support.supervisor()))

    def test_breaking_out_of_a_loop_cancels(self):
        for _ in support.supervisor().submit(**support.ENDLESS).pieces():
            break
        wait_until(lambda: is_idle(support.supervisor()))


class Waits(unittest.TestCase):
    def test_a_timeout_loses_nothing(self):
        running = support.supervisor().submit(**support.ENDLESS)
        support.until_token(running)
        queued = support.supervisor().submit("Hello", max_tokens=3, ignore_eos=True)
        for timeout in (0, 0.05, 0.5, -1):
            begun = time.monotonic()
            with self.assertRaises(TimeoutError):
                queued.next(timeout)
            # A busy machine may be late, never early.
            self.assertTrue(timeout <= time.monotonic() - begun < 2, timeout)
        running.cancel()
        self.assertEqual(sum(isinstance(event, Token) for event in queued), 3)

    def test_waiting_is_cut_into_slices(self):
        # Only between two calls can Python notice a signal.
        asked = []

        def step(ms):
            asked.append(ms)
            time.sleep(ms / 1000)
            return 2 if sum(asked) < 450 else 1

        self.assertEqual(_wait.wait(step, None), 1)
        self.assertTrue(len(asked) > 1 and all(0 < ms <= 200 for ms in asked), asked)

    def test_wait_ready(self):
        with Supervisor(support.engine(n_ctx=512)) as supervisor:
            with self.assertRaises(TimeoutError):
                supervisor.wait_ready(0)
            self.assertIn(supervisor.health()["state"], ("STARTING", "BACKOFF", "READY"))
            supervisor.wait_ready(60)
            health = supervisor.health()
            self.assertEqual((health["state"], health["ready"], health["live"]), ("READY", True, True))
            self.assertEqual((health["load_progress"], health["last_error"]), (1, None))
            supervisor.wait_ready(0)

    def test_submitting_before_it_is_ready(self):
        with Supervisor(support.engine(n_ctx=512)) as supervisor:
            self.assertTrue(supervisor.submit("Hello", max_tokens=2, ignore_eos=True).text())


class Stops(unittest.TestCase):
    def test_stopping_ends_what_runs_and_what_waits(self):
        with Supervisor(support.engine()) as supervisor:
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            queued = supervisor.submit("Hello")
            begun = time.monotonic()
            supervisor.stop()
            supervisor.stop()
            self.assertLess(time.monotonic() - begun, 5)
            for stream in (running, queued):
                *_, last = stream
                self.assertIsInstance(last, Failed)
                self.assertEqual(last.error.status_name, "DRAINING")
                self.assertIsNone(stream.next())
            health = supervisor.health()
            self.assertEqual((health["state"], health["ready"], health["live"]), ("STOPPED", False, False))
            for call in (lambda: supervisor.submit("Hello"), supervisor.wait_ready):
                with self.assertRaises(PoolUnavailable):
                    call()

    def test_using_it_after_close(self):
        supervisor = Supervisor(support.engine(n_ctx=512))
        supervisor.close()
        supervisor.close()
        supervisor.stop()
        for call in (supervisor.health, supervisor.wait_ready, supervisor.cancel_load, lambda: supervisor.submit("a")):
            with self.assertRaises(PoolUnavailable):
                call()


class Threads(unittest.TestCase):
    def test_many_threads_on_one_supervisor(self):
        problems, done = [], []

        def client(number):
            try:
                for round in range(3):
                    wanted = 1 + number + round
                    *tokens, last = list(supervisor.submit(f"{number}", max_tokens=wanted, ignore_eos=True))[1:]
                    assert [token.index for token in tokens] == list(range(wanted)), tokens
                    assert last.usage["completion_tokens"] == wanted, last
                    done.append(number)
            except BaseException as problem:  # Otherwise it would end with its thread.
                problems.append(problem)

        with Supervisor(support.engine(n_ctx=512, slots=4)) as supervisor:
            threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        self.assertEqual(problems, [])
        self.assertEqual(len(done), 24)

    def test_a_second_consumer_is_told_that_it_is_one(self):
        running = support.supervisor().submit(**support.ENDLESS)
        support.until_token(running)
        queued = support.supervisor().submit("Hello")
        events = []
        consumer = threading.Thread(target=lambda: events.extend(queued))
        consumer.start()
        time.sleep(0.2)
        with self.assertRaises(Busy):
            queued.next(0)
        queued.cancel()
        consumer.join(10)
        self.assertEqual([type(event) for event in events], [Failed])
        self.assertIsNone(queued.next())

    def test_waiting_lets_other_threads_run(self):
        running = support.supervisor().submit(**support.ENDLESS)
        support.until_token(running)
        queued = support.supervisor().submit("Hello")
        waiter = threading.Thread(target=lambda: queued.next())
        waiter.start()
        turns, end = 0, time.monotonic() + 0.6
        while time.monotonic() < end:
            time.sleep(0.001)
            turns += 1
        queued.cancel()
        waiter.join(10)
        self.assertGreater(turns, 10)  # With the lock held during a wait, there is one turn per slice of 0.2 s.


if __name__ == "__main__":
    unittest.main()
