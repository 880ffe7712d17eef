"""Limits in time, metrics and records."""

import json
import re
import time
import unittest

import support
from llamapen import DeadlineUnmet, DecodeTimeout, Failed, Finished, InvalidParams, Supervisor

PROMPT = "Once upon a time, Qx7Marker"
SAMPLE = re.compile(r'(?P<name>llamapen_[a-z_]+)\{(?P<labels>(?:[a-z_]+="(?:[^"\\]|\\.)*",?)+)\} (?P<value>\S+)')


def one_slot():
    supervisor = Supervisor(support.engine(slots=1, workers=1))
    supervisor.wait_ready(60)
    return supervisor


def samples(text):
    """Every line is a comment or a sample; gives the samples' values by name and labels."""
    values = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert (sample["name"], sample["labels"]) not in values, line
            values[sample["name"], sample["labels"]] = float(sample["value"])
    return values


class Limits(unittest.TestCase):
    def test_a_running_and_a_waiting_request_end_at_their_limits(self):
        with one_slot() as supervisor:
            *_, last = supervisor.submit(PROMPT, ignore_eos=True, timeout_ms=400)
            self.assertIsInstance(last, Failed)
            self.assertIsInstance(last.error, DecodeTimeout)
            self.assertTrue(last.error.retriable)
            *_, last = supervisor.submit(PROMPT, ignore_eos=True, inter_token_timeout_ms=1)
            self.assertIsInstance(last.error, DecodeTimeout)
            self.assertIn("inter_token_timeout_ms", last.error.message)
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            for limit in ("timeout_ms", "first_token_timeout_ms"):
                (only,) = supervisor.submit(PROMPT, **{limit: 50})
                self.assertIsInstance(only.error, DeadlineUnmet)
                self.assertIn(limit, only.error.message)
            running.cancel()
            self.assertIsInstance(list(supervisor.submit(PROMPT, max_tokens=2, timeout_ms=86_400_000))[-1], Finished)

    def test_ranges(self):
        for limit in ("timeout_ms", "first_token_timeout_ms", "inter_token_timeout_ms"):
            for bad in (0, 86_400_001):
                with self.assertRaisesRegex(InvalidParams, f"{limit}: {bad} is not between 1 and 86400000"):
                    support.supervisor().submit(PROMPT, **{limit: bad})


class Telemetry(unittest.TestCase):
    def test_metrics_and_prometheus_say_the_same(self):
        with one_slot() as supervisor:
            supervisor.submit(PROMPT, max_tokens=4, ignore_eos=True).text()
            cancelled = supervisor.submit(**support.ENDLESS)
            support.until_token(cancelled)
            cancelled.cancel()
            with self.assertRaises(InvalidParams):
                supervisor.submit(PROMPT, top_p=2)
            end = time.monotonic() + 60
            while supervisor.metrics()["workers"][0]["active_slots"] > 0 and time.monotonic() < end:
                time.sleep(0.01)
            metrics, text = supervisor.metrics(), supervisor.prometheus()
        requests, (worker,) = metrics["requests"], metrics["workers"]
        self.assertEqual((requests["accepted_total"], requests["cancelled_total"]), (2, 1))
        self.assertEqual(requests["finished_total"]["length"], 1)
        self.assertEqual(requests["rejected_total"], {"INVALID_PARAMS": 1})
        self.assertEqual(metrics["vram_used_bytes"], 0)
        self.assertEqual(worker["latency_first_token_ms"]["count"], 2)
        values = samples(text)
        by_name = {name: value for (name, _), value in values.items()}
        self.assertEqual(by_name["llamapen_requests_accepted_total"], 2)
        self.assertEqual(by_name["llamapen_tokens_out_total"], worker["tokens_out_total"])
        self.assertEqual(by_name["llamapen_latency_first_token_ms_count"], 2)
        for _, labels in values:
            for label in ("pool_id", "model_id", "engine_version", "device_mask"):
                self.assertIn(f'{label}="', labels)

    def test_a_record_of_what_has_ended(self):
        stream = support.supervisor().submit(PROMPT, max_tokens=3, seed=5, ignore_eos=True)
        support.until_token(stream)
        list(stream)
        record = stream.record
        self.assertEqual((record["seed"], record["reason"], record["status"]), (5, "length", None))
        self.assertEqual(record["usage"]["completion_tokens"], 3)
        self.assertEqual(record["parameters"]["max_tokens"], 3)
        self.assertNotIn("Qx7Marker", json.dumps(record))
        running = support.supervisor().submit(**support.ENDLESS)
        support.until_token(running)
        self.assertIsNone(running.record)
        running.cancel()
        self.assertEqual(running.record["status"], "CANCELLED")


if __name__ == "__main__":
    unittest.main()
