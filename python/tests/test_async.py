"""Streams in asyncio."""

import asyncio
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import support
from llamapen import Busy, Cancelled, Failed, Finished, Token

SHORT = {"prompt": "Hello", "max_tokens": 5, "ignore_eos": True}


class Async(unittest.TestCase):
    def test_async_for(self):
        async def main():
            return [event async for event in support.supervisor().submit(**SHORT)]

        events = asyncio.run(main())
        self.assertEqual(sum(isinstance(event, Token) for event in events), 5)
        self.assertIsInstance(events[-1], Finished)

    def test_more_streams_than_threads_take_turns(self):
        async def consume(stream):
            return [event async for event in stream]

        async def main():
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            # Consumed in the other order: the thread must not wait for the last one's first event only.
            streams = [support.supervisor().submit(**SHORT) for _ in range(3)]
            return await asyncio.gather(*map(consume, reversed(streams)))

        for events in asyncio.run(asyncio.wait_for(main(), 60)):
            self.assertIsInstance(events[-1], Finished)

    def test_the_loop_goes_on_meanwhile(self):
        async def main():
            running = support.supervisor().submit(**support.ENDLESS)
            turns = 0
            async for event in running:
                if isinstance(event, Token):
                    break
            queued = support.supervisor().submit("Hello")
            waiting = asyncio.ensure_future(queued.__anext__())
            end = time.monotonic() + 0.4
            while time.monotonic() < end:
                await asyncio.sleep(0.01)
                turns += 1
            queued.cancel()
            return turns, await waiting

        turns, event = asyncio.run(main())
        self.assertGreater(turns, 10)
        self.assertIsInstance(event, Failed)

    def test_cancelling_the_task_cancels_the_request(self):
        stream = support.supervisor().submit(**support.ENDLESS)
        seen = []

        async def consume():
            async for event in stream:
                seen.append(event)

        async def main():
            task = asyncio.ensure_future(consume())
            while not any(isinstance(event, Token) for event in seen):
                await asyncio.sleep(0.01)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        # The loop has waited for its threads. One event may have been lost with the task; no token follows.
        for event in stream:
            self.assertIsInstance(event, Failed)
            self.assertIsInstance(event.error, Cancelled)
        self.assertIsNone(stream.next())

    def test_two_tasks_on_one_stream(self):
        async def main():
            running = support.supervisor().submit(**support.ENDLESS)
            async for event in running:
                if isinstance(event, Token):
                    break
            queued = support.supervisor().submit("Hello")
            first = asyncio.ensure_future(queued.__anext__())
            await asyncio.sleep(0.1)
            with self.assertRaises(Busy):
                await queued.__anext__()
            queued.cancel()
            return await first

        self.assertIsInstance(asyncio.run(main()), Failed)

    def test_no_thread_outlives_the_loop(self):
        before = threading.active_count()
        self.test_async_for()
        self.assertEqual(threading.active_count(), before)


if __name__ == "__main__":
    unittest.main()
