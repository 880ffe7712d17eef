"""What is known before anything runs: plans, reports, machines, flags; and what `prepare` makes of its options."""

import json
import pickle
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

import support
import llamapen
from llamapen import DeviceError, InvalidParams, ModelInvalid, ModelNotFound, OutOfMemory, PreparedEngine, Unsupported
from llamapen import config_from_flags, machine, model_info, plan, preflight, prepare

GIB = 1 << 30


def large(gib=8):
    """A machine that is not there: 64 cores, no GPUs."""
    return {**machine(devices=False), "logical_cpus": 64, "physical_cores": 64, "cpu_quota_millis": None,
            "ram_bytes": gib * GIB, "memory_limit_bytes": None}


def hub_of(folder):
    """A hub cache in ``folder`` with the model as ``hf:org/repo/m.gguf``."""
    repo, commit = Path(folder) / "models--org--repo", "0" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "m.gguf").symlink_to(Path(support.model()).resolve())
    return folder


class Machine(unittest.TestCase):
    def test_what_it_says_is_of_this_machine(self):
        here = machine()
        self.assertEqual(here, machine())
        self.assertGreaterEqual(here["logical_cpus"], here["physical_cores"])
        total = next(line for line in open("/proc/meminfo") if line.startswith("MemTotal"))
        self.assertEqual(here["ram_bytes"], int(total.split()[1]) * 1024)
        self.assertEqual(machine(devices=False)["devices"]["driver"], {"state": "not_asked"})

    def test_devices_are_those_of_the_driver(self):
        found = llamapen.devices()
        self.assertIn(found["driver"]["state"], ("absent", "failed", "present"))
        self.assertEqual(bool(found["devices"] or found["broken"]), any(Path("/dev").glob("nvidia[0-9]*")))

    def test_the_same_machine_gives_the_same_bytes(self):
        here = machine()
        first, second = (prepare(support.model(), machine=here, n_ctx=512).json() for _ in range(2))
        self.assertEqual(first, second)
        self.assertEqual(first, prepare(support.model(), n_ctx=512).json())
        self.assertEqual(json.loads(first)["machine"], here)

    def test_another_machine_is_decided_for(self):
        engine = prepare(support.model(), machine=large())
        self.assertEqual((engine.threads, engine.memory["places"][0]["capacity"]), (64, 8 * GIB))
        # 64 slots of 8192 positions: 180 MiB each.
        much = {"n_ctx": 8192, "slots": 64}
        with self.assertRaises(OutOfMemory) as caught:
            prepare(support.model(), machine=large(), **much)
        self.assertIn(str(8 * GIB), caught.exception.message)
        self.assertEqual(prepare(support.model(), machine=large(gib=64), **much).adjustments, [])
        shrunk = prepare(support.model(), machine=large(), shrink={"kv_type": "q8_0", "slots": 16}, **much)
        self.assertEqual((shrunk.kv_type_k, shrunk.kv_type_v), ("q8_0", "q8_0"))
        self.assertTrue(shrunk.adjustments)

    def test_what_is_no_machine(self):
        here = machine()
        for wrong in ({}, {**here, "schema": 99}, {**here, "more": 1}, {**here, "ram_bytes": -1}):
            with self.assertRaisesRegex(InvalidParams, "machine snapshot"):
                prepare(support.model(), machine=wrong)


class Config(unittest.TestCase):
    def test_every_field_that_is_decided_can_be_read(self):
        engine = prepare(support.model(), n_ctx=512)
        decided = json.loads(engine.json())
        del decided["schema"]
        self.assertEqual({name: getattr(engine, name) for name in decided}, decided)
        self.assertEqual(engine.model, str(Path(support.model()).resolve()))
        self.assertEqual(vars(PreparedEngine)["n_ctx"].__doc__, "Positions per slot.")

    def test_an_engine_cannot_be_changed(self):
        engine = prepare(support.model(), n_ctx=512)
        with self.assertRaisesRegex(AttributeError, "n_ctx"):
            engine.n_ctx = 1024
        engine.info["n_vocab"] = 0
        engine.flags.clear()
        self.assertEqual(engine.info["n_vocab"], model_info(support.model())["info"]["n_vocab"])
        self.assertTrue(engine.flags)
        self.assertEqual(engine.n_ctx, 512)

    def test_cache_types(self):
        wide, narrow = (prepare(support.model(), kv_type_k=t, kv_type_v=t, n_ctx=512) for t in ("f32", "q4_0"))
        self.assertEqual((narrow.kv_type_k, narrow.kv_type_v), ("q4_0", "q4_0"))
        cache = [engine.memory["places"][0]["cache"] for engine in (wide, narrow)]
        self.assertEqual(cache[0] * 18, cache[1] * 32 * 4)  # 18 bytes for 32 elements, to 4 bytes for each.
        with self.assertRaisesRegex(InvalidParams, "kv_type_v.*flash attention"):
            prepare(support.model(), kv_type_v="q4_0", flash_attention=False)
        with self.assertRaisesRegex(InvalidParams, "q9_9.*q4_0"):
            prepare(support.model(), kv_type_k="q9_9")

    def test_gpus(self):
        engine = prepare(support.model(), devices="none", n_ctx=512)
        self.assertEqual((engine.devices, engine.n_gpu_layers, engine.split), ([], 0, None))
        none = {**large(), "devices": {"driver": {"state": "absent", "reason": "no driver"}, "devices": [], "broken": []}}
        # Whether this build has CUDA decides what is told first.
        with self.assertRaises((DeviceError, Unsupported)):
            prepare(support.model(), machine=none, require_gpu=True)
        with self.assertRaisesRegex(InvalidParams, "devices"):
            prepare(support.model(), devices="GPU-9")

    def test_a_limit_and_a_name(self):
        engine = prepare(support.model(), memory_limit=GIB, pool_id="a-pool", replica_id=3, n_ctx=512)
        self.assertEqual((engine.memory_limit, engine.pool_id, engine.replica_id), (GIB, "a-pool", 3))
        with self.assertRaises(OutOfMemory):
            prepare(support.model(), memory_limit=1 << 20)
        with self.assertRaisesRegex(InvalidParams, "pool_id"):
            prepare(support.model(), pool_id="a/b")

    def test_deterministic_requests_need_no_seed(self):
        request = {"prompt": "Once upon a time", "max_tokens": 24, "ignore_eos": True, "temperature": 1.5}

        def answers(engine):
            with llamapen.Supervisor(engine) as supervisor:
                return [supervisor.submit(**request).text() for _ in range(2)]

        exact = support.engine(n_ctx=512, deterministic=True)
        self.assertEqual((exact.deterministic, exact.seed, exact.slots), (True, 0, 1))
        first, second = answers(exact)
        self.assertTrue(first)
        self.assertEqual(second, first)
        self.assertEqual(answers(exact), [first, first])
        first, second = answers(support.engine(n_ctx=512))
        self.assertNotEqual(first, second)

    def test_the_seed_of_requests_without_one(self):
        with llamapen.Supervisor(support.engine(n_ctx=512, seed=2**64 - 1)) as supervisor:
            _, first = support.start_of(supervisor, prompt="Hello", max_tokens=1)
            _, second = support.start_of(supervisor, prompt="Hello", max_tokens=1, seed=7)
            self.assertEqual((first.seed, second.seed), (2**64 - 1, 7))


class Flags(unittest.TestCase):
    def test_flags_are_a_configuration(self):
        config = config_from_flags(["-m", support.model(), "-c", "512", "-ctk", "q8_0", "-ngl", "all", "--shrink-slots=1"])
        self.assertEqual((config["n_ctx"], config["kv_type_k"], config["shrink"]), (512, "q8_0", {"slots": 1}))
        self.assertEqual(prepare(**config).n_ctx, 512)

    def test_what_was_decided_leads_to_the_same_again(self):
        engine = prepare(support.model(), n_ctx=512, kv_type_k="q8_0", deterministic=True, pool_id="p")
        self.assertEqual(prepare(**config_from_flags(engine.flags)).json(), engine.json())

    def test_wrong_flags(self):
        for flags, part in (
            (["-m", "m", "--n-ctxx", "3"], "--n-ctx"), (["-m", "m", "-c"], "needs a value"), ([], "model"),
            (["-m", "m", "--port", "80"], "no server"), (["-m", "\udcff"], "flags\\[1\\].*UTF-8"),
        ):
            with self.subTest(flags=flags), self.assertRaisesRegex(InvalidParams, part):
                config_from_flags(flags)
        with self.assertRaisesRegex(ValueError, "NUL"):
            config_from_flags(["-m", "m\0n"])


class Plans(unittest.TestCase):
    def test_a_plan_says_what_would_be_done(self):
        found = plan(support.model(), n_ctx=512, digest="sha256:" + "0" * 64)  # Not checked.
        kinds = [step.kind for step in found.steps]
        self.assertEqual(kinds[0], "locate")
        self.assertEqual(kinds[-1], "warm_up")
        self.assertIn("verify_digest", kinds)
        self.assertEqual(str(found), found.text)
        for step in found.steps:
            self.assertIn(f"{step.kind:14} {step.detail}\n", found.text)
        self.assertEqual(plan(support.model(), n_ctx=512).engine.json(), support.engine(n_ctx=512).json())

    def test_for_another_machine(self):
        self.assertIn("64 compute threads", str(plan(support.model(), machine=large())))
        with self.assertRaises(OutOfMemory):
            plan(support.model(), machine=large(), n_ctx=8192, slots=64)

    def test_a_report_of_a_model_that_runs(self):
        report = preflight(support.model(), n_ctx=512)
        self.assertTrue(report.ok, report.text)
        self.assertEqual(str(report), report.text)
        for check in report.checks:
            self.assertIn(check.name, report.text)
            self.assertEqual(check.remedy is None, check.status == "pass", check)
        self.assertEqual(report.get("digest").status, "warn")
        self.assertEqual(report.status, "warn")
        self.assertIsNone(report.get("no such check"))
        self.assertEqual(pickle.loads(pickle.dumps(report)), report)

    def test_a_report_of_what_does_not(self):
        missing = preflight("no/such.gguf")
        self.assertFalse(missing.ok)
        self.assertIn("no/such.gguf", missing.get("model").message)
        self.assertIn("FAIL", str(missing))
        self.assertIsNone(missing.get("plan"))
        small = preflight(support.model(), machine={**large(), "ram_bytes": 1 << 20})
        self.assertEqual((small.status, small.get("plan").status), ("fail", "fail"))
        with self.assertRaisesRegex(InvalidParams, "n_ctxx"):
            preflight(support.model(), n_ctxx=3)


class Models(unittest.TestCase):
    def test_what_a_model_is(self):
        info = model_info(support.model())
        self.assertEqual(info["info"], support.engine().info)
        self.assertEqual(info["id"], support.engine().model_id)
        path = Path(support.model()).resolve()
        self.assertEqual(info["files"], [{"path": str(path), "bytes": path.stat().st_size}])

    def test_a_model_that_cannot_be_run(self):
        encoder = support.synthetic() / "bert.gguf"
        with self.assertRaises(Unsupported):
            prepare(encoder)
        self.assertEqual(model_info(encoder)["info"]["causal"], False)

    def test_what_is_no_model(self):
        for kind, named in (
            (ModelNotFound, "no/such.gguf"), (ModelInvalid, __file__), (InvalidParams, ""), (InvalidParams, b"\xff"),
            (Unsupported, "https://example.org/m.gguf"),
        ):
            with self.subTest(named=named), self.assertRaises(kind):
                model_info(named)

    def test_a_hub_cache(self):
        name = "hf:org/repo/m.gguf"
        with TemporaryDirectory() as folder, TemporaryDirectory() as empty:
            hub = Path(hub_of(folder))
            self.assertEqual(model_info(name, hub=hub)["id"], "org/repo/m")
            engine = prepare(name, hub=hub, n_ctx=512)
            self.assertEqual((engine.model_id, engine.model), ("org/repo/m", support.engine().model))
            self.assertEqual(plan(name, hub=hub, n_ctx=512).engine.json(), engine.json())
            self.assertTrue(preflight(name, hub=hub, n_ctx=512).ok)
            for call in (model_info, prepare, plan):
                with self.assertRaisesRegex(ModelNotFound, "hf download org/repo m.gguf"):
                    call(name, hub=empty)
            self.assertEqual(preflight(name, hub=empty).get("model").status, "fail")


if __name__ == "__main__":
    unittest.main()
