"""Every way to be refused: the class, the status, and a message that names the cause."""

import pickle
import re
import shutil
import tempfile
import time
import unittest
from pathlib import Path

import support
import llamapen
from llamapen import (
    Cancelled,
    ContextOverflow,
    Failed,
    InvalidParams,
    LlamapenError,
    ModelInvalid,
    ModelNotFound,
    PoolUnavailable,
    QueueFull,
    Supervisor,
    prepare,
)
from llamapen import _library, errors

USER = {"role": "user", "content": "Hello"}


def injects_faults():
    return "fault-injection" in llamapen.build_info()["features"]


class Classes(unittest.TestCase):
    def test_numbers_and_names_are_those_of_the_library(self):
        for number, kind in errors._CLASSES.items():
            name = re.sub(r"(?<!^)([A-Z])", r"_\1", kind.__name__).upper()
            self.assertEqual(_library.library().llamapen_status_name(number).decode(), name)

    def test_pickling_keeps_everything(self):
        error = QueueFull(201, "QUEUE_FULL", "full", True, 50)
        again = pickle.loads(pickle.dumps(error))
        self.assertIs(type(again), QueueFull)
        self.assertEqual(vars(again), vars(error))
        self.assertEqual(str(again), "QUEUE_FULL: full")


class Refusals(unittest.TestCase):
    def assert_refused(self, kind, part, call, *arguments, **keywords):
        with self.assertRaises(kind) as caught:
            call(*arguments, **keywords)
        self.assertIn(part, caught.exception.message)
        self.assertIs(type(caught.exception), kind)
        return caught.exception


class Prepare(Refusals):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def test_files_that_are_no_model(self):
        empty = self.directory / "empty.gguf"
        empty.touch()
        self.assert_refused(ModelNotFound, "missing.gguf", prepare, self.directory / "missing.gguf")
        (self.directory / "folder").mkdir()
        self.assert_refused(ModelNotFound, "directory", prepare, self.directory / "folder")
        self.assert_refused(ModelNotFound, "regular", prepare, "/dev/null")
        self.assert_refused(ModelInvalid, "test_errors.py", prepare, __file__)
        self.assert_refused(ModelInvalid, "empty.gguf", prepare, empty)
        self.assert_refused(InvalidParams, "model", prepare, "")

    def test_truncated_models(self):
        whole = Path(support.model())
        size = whole.stat().st_size
        part = self.directory / "part.gguf"
        shutil.copyfile(whole, part)
        prepare(part)  # As a whole it is one, so what follows is the cut's fault.
        for length in (size - 1, size // 2, 1 << 20, 1000, 24, 23, 4, 3):
            with self.subTest(length=length), open(part, "r+b") as file:
                file.truncate(length)
                self.assert_refused(ModelInvalid, "part.gguf", prepare, part)

    def test_names_that_are_odd_but_legal(self):
        for name in ("sp ace.gguf", 'quo"te\\.gguf', "ünï🦙.gguf"):
            with self.subTest(name=name):
                (self.directory / name).symlink_to(Path(support.model()).resolve())
                self.assertEqual(prepare(self.directory / name).info, support.engine().info)

    def test_a_name_that_is_not_utf8(self):
        self.assert_refused(InvalidParams, "engine config", prepare, b"\xff.gguf")

    def test_configs(self):
        model = support.model()
        self.assert_refused(InvalidParams, "n_ctxx", prepare, model, n_ctxx=512)
        for name, values in {
            "n_ctx": (0, 1, 2**31, 10**6),
            "n_ubatch": (0, 10**6),
            "threads": (0, 10**6),
            "workers": (0, 10**6),
            "slots": (0, 65),
        }.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.assert_refused(InvalidParams, name, prepare, model, **{name: value})
        for wrong in ({"n_ctx": -1}, {"n_ctx": 2**40}, {"n_ctx": "512"}, {"n_ctx": 1.5}, {"use_mmap": 1}):
            with self.subTest(**wrong):
                self.assert_refused(InvalidParams, "engine config", prepare, model, **wrong)

    def test_engines_that_do_not_fit(self):
        for text in ("", "{}", "[]", support.engine().json()[:-1], support.engine().json()[:-1] + ',"more":1}'):
            with self.subTest(text=text[-20:]):
                self.assert_refused(InvalidParams, "prepared engine", llamapen.PreparedEngine.from_json, text)
        copy = self.directory / "copy.gguf"
        shutil.copyfile(support.model(), copy)
        engine = prepare(copy, n_ctx=512)
        for before, after in (
            ('"schema":7', '"schema":6'), ('"n_ctx":512', '"n_ctx":513000'), ('"engine_digest":"', '"engine_digest":"0'),
        ):
            with self.subTest(after=after):
                self.assertIn(before, engine.json())
                changed = llamapen.PreparedEngine.from_json(engine.json().replace(before, after))
                with self.assertRaises(LlamapenError):
                    Supervisor(changed).close()
        with open(copy, "ab") as file:
            file.write(b"\0")
        with self.assertRaises(LlamapenError) as caught:
            Supervisor(engine).close()
        self.assertIs(type(caught.exception), llamapen.StaleEngine)
        copy.unlink()
        self.assert_refused(ModelNotFound, "copy.gguf", Supervisor, engine)


class Start(Refusals):
    def test_configs(self):
        engine = support.engine()
        self.assert_refused(InvalidParams, "`queue`", Supervisor, engine, queue=3)
        for name in ("queue_capacity", "restart_window_ms", "stall_limit_ms", "max_restarts", "breaker_open_ms"):
            self.assert_refused(InvalidParams, name, Supervisor, engine, **{name: 0})

    def test_cancelled_load(self):
        with Supervisor(support.engine()) as supervisor:
            stream = supervisor.submit("Hello")
            supervisor.cancel_load()
            with self.assertRaises(Cancelled):
                supervisor.wait_ready(60)
            health = supervisor.health()
            self.assertEqual((health["state"], health["ready"]), ("FAILED", False))
            self.assertTrue(health["last_error"])
            last = list(stream)[-1]
            self.assertIsInstance(last, Failed)
            self.assert_refused(PoolUnavailable, "fail", supervisor.submit, "Hello")


class Submit(Refusals):
    def refuse(self, part, **request):
        with self.subTest(**request):
            self.assert_refused(InvalidParams, part, support.supervisor().submit, **request)

    def test_inputs(self):
        self.refuse("prompt")
        self.refuse("prompt", prompt="")
        self.refuse("messages", messages=[])
        self.refuse("tokens", tokens=[])
        self.refuse("messages", prompt="a", messages=[USER])
        self.refuse("tokens", tokens=[1], messages=[USER])
        self.refuse("messages[1].content", messages=[USER, {"role": "user", "content": "a\0b"}])
        self.refuse("messages[0].role", messages=[{"role": "", "content": "a"}])
        self.refuse("name", messages=[{**USER, "name": "x"}])
        self.refuse("content", messages=[{"role": "user"}])
        self.refuse("tokens[1]", tokens=[1, support.engine().info["n_vocab"]])
        self.refuse("tokens[0]", tokens=[-1])
        self.refuse("request", tokens=[2**31])
        self.refuse("request", prompt="a lone surrogate: \ud800")

    def test_unknown_keys_are_named(self):
        self.refuse("temprature", prompt="a", temprature=1)

    def test_ranges(self):
        for name, values in {
            "temperature": (-0.1, 100.5, 1e39),
            "top_p": (-0.1, 1.1),
            "min_p": (-0.1, 1.1),
            "top_k": (2**32 - 1,),
            "repeat_penalty": (0, -1, 11),
            "frequency_penalty": (-11, 11),
            "presence_penalty": (-11, 11),
            "penalty_last_n": (65537,),
            "dynatemp_range": (-0.1, 100.5),
            "dynatemp_exponent": (-0.1, 100.5),
            "typical_p": (-0.1, 1.1),
            "top_n_sigma": (-1.1, 100.5),
            "xtc_probability": (-0.1, 1.1),
            "xtc_threshold": (-0.1, 1.1),
            "min_keep": (65537,),
            "mirostat": (3,),
            "mirostat_tau": (-0.1, 100.5),
            "mirostat_eta": (-0.1, 1.1),
            "dry_multiplier": (-0.1, 100.5),
            "dry_base": (0.9, 100.5),
            "dry_allowed_length": (65537,),
            "dry_penalty_last_n": (65537,),
            "dry_sequence_breakers": ([""], ["a" * 41], ["a\0"], ["a"] * 17),
            "logit_bias": ({1: 1001}, [[1, -1001]], {2**31 - 1: 0}, [[-1, 0]]),
            "stop": ([""], ["a" * 257], ["a"] * 17),
            "stop_tokens": ([-1], [2**31 - 1], [1] * 257),
            "logprobs": (21,),
            "max_tokens": (0,),
        }.items():
            for value in values:
                self.refuse(name, prompt="a", **{name: value})

    def test_wrong_kinds(self):
        for wrong in ({"max_tokens": -1}, {"max_tokens": "3"}, {"seed": -1}, {"seed": 2**64}, {"ignore_eos": 1},
                      {"logit_bias": {"the": 1}}, {"logit_bias": [[1, True]]}, {"stop": "a"}, {"logprobs": -1}):
            self.refuse("request", prompt="a", **wrong)
        for number in ("nan", "inf"):
            self.refuse("request", prompt="a", temperature=float(number))

    def test_the_edges_of_the_ranges_are_allowed(self):
        for edge in (
            {"temperature": 100}, {"top_p": 0}, {"top_p": 1}, {"min_p": 1}, {"min_p": 0}, {"top_k": 0},
            {"top_k": 2**31 - 1}, {"repeat_penalty": 10}, {"frequency_penalty": -10}, {"presence_penalty": 10},
            {"penalty_last_n": 65536}, {"max_tokens": 1}, {"seed": 0}, {"typical_p": 0}, {"top_n_sigma": 100},
            {"xtc_probability": 1, "xtc_threshold": 0}, {"dynatemp_range": 100, "dynatemp_exponent": 0},
            {"mirostat": 1, "mirostat_tau": 0, "mirostat_eta": 1}, {"mirostat": 2, "mirostat_tau": 100},
            {"dry_multiplier": 100, "dry_base": 100, "dry_allowed_length": 0, "dry_penalty_last_n": 65536},
            {"dry_multiplier": 1, "dry_base": 1, "dry_sequence_breakers": []}, {"min_keep": 65536},
            {"logit_bias": {0: 1000, 1: -1000}}, {"stop": ["a" * 256] * 16}, {"stop_tokens": [0] * 256}, {"logprobs": 20},
        ):
            with self.subTest(**edge):
                support.supervisor().submit("Hello", **{"max_tokens": 2, **edge}).text()

    def test_faults_are_for_builds_with_fault_injection(self):
        if injects_faults():
            self.skipTest("this build injects faults")
        with self.assertRaises(LlamapenError) as caught:
            support.supervisor().submit("Hello", fault="panic")
        self.assertEqual(caught.exception.status_name, "UNSUPPORTED")

    def test_the_supervisor_is_unharmed(self):
        for _ in range(20):
            with self.assertRaises(InvalidParams):
                support.supervisor().submit("a", top_p=2)
        self.assertTrue(support.supervisor().submit("Hello", max_tokens=2, ignore_eos=True).text())


class Limits(Refusals):
    def test_context_overflow(self):
        with Supervisor(support.engine(n_ctx=64)) as supervisor:
            # More tokens than positions for certain is known at once.
            self.assert_refused(ContextOverflow, "64", supervisor.submit, tokens=[100] * 64)
            self.assert_refused(ContextOverflow, "64", supervisor.submit, tokens=[100], max_tokens=64)
            # How many tokens a text has is known later.
            with self.assertRaises(ContextOverflow) as caught:
                supervisor.submit("a b c d e f g h i j k l m n o p q r s t u v w x y z " * 3).text()
            self.assertIn("64", caught.exception.message)
            self.assertFalse(caught.exception.retriable)
            # As many as fit are generated, and not one more.
            *_, last = supervisor.submit(tokens=[100] * 60, ignore_eos=True)
            self.assertEqual((last.reason, last.usage["completion_tokens"]), ("length", 4))

    def test_queue_full(self):
        with Supervisor(support.engine(), queue_capacity=2) as supervisor:
            running = supervisor.submit(**support.ENDLESS)
            support.until_token(running)
            waiting = [supervisor.submit("Hello") for _ in range(2)]
            error = self.assert_refused(QueueFull, "2", supervisor.submit, "Hello")
            self.assertTrue(error.retriable)
            self.assertEqual(supervisor.health()["queue_depth"], 2)
            # A place is free as soon as one gives up waiting.
            waiting.pop().cancel()
            supervisor.submit("Hello").cancel()


@unittest.skipUnless(injects_faults(), "this build does not inject faults")
class Faults(Refusals):
    def test_a_fault_ends_its_request_and_nothing_else(self):
        with Supervisor(support.engine(n_ctx=512)) as supervisor:
            for fault in ("panic", "cpp_exception"):
                with self.subTest(fault=fault):
                    *_, last = supervisor.submit("Hello", ignore_eos=True, fault=fault, max_resumes=0)
                    self.assertIsInstance(last, Failed)
                    self.assertEqual(last.error.status_name, "WORKER_RESET")
                    self.assertTrue(last.error.retriable)
                    self.assertTrue(supervisor.submit("Hello", ignore_eos=True, max_tokens=2).text())
                    crash = supervisor.health()["workers"][0]["last_crash"]
                    self.assertEqual(crash["reason"], fault.upper())
                    self.assertIn(crash["message"], last.error.message)
                    self.assertGreater(crash["at_ms"], 0)
            health = supervisor.health()
            self.assertEqual(health["workers"][0]["restarts"], 2)
            self.assertTrue(health["last_error"])
            crashes = supervisor.metrics()["workers"][0]["crashes_total"]
            self.assertEqual((crashes["PANIC"], crashes["CPP_EXCEPTION"], crashes["ENGINE_ERROR"]), (1, 1, 0))

    def test_an_open_breaker_refuses_until_it_is_reset(self):
        with Supervisor(support.engine(n_ctx=512), breaker_failures=1) as supervisor:
            supervisor.wait_ready(60)
            self.assertIsNone(supervisor.health()["workers"][0]["last_crash"])
            list(supervisor.submit("Hello", ignore_eos=True, fault="panic"))
            end = time.monotonic() + 60
            while supervisor.health()["state"] != "CIRCUIT_OPEN" and time.monotonic() < end:
                time.sleep(0.01)
            error = self.assert_refused(PoolUnavailable, "injected panic", supervisor.submit, "Hello")
            self.assertTrue(error.retriable)
            self.assertTrue(0 < error.retry_after_ms <= 300_000)
            self.assertEqual(supervisor.health()["workers"][0]["breaker"], "OPEN")
            with self.assertRaises(TimeoutError):
                supervisor.wait_ready(0.01)
            supervisor.reset_breaker()
            self.assertTrue(supervisor.submit("Hello", ignore_eos=True, max_tokens=2).text())
            health = supervisor.health()
            self.assertEqual((health["state"], health["workers"][0]["breaker"]), ("READY", "CLOSED"))
        self.assert_refused(PoolUnavailable, "closed", supervisor.reset_breaker)


if __name__ == "__main__":
    unittest.main()
