"""`prepare` and `PreparedEngine`: the checked configuration of one model on this machine."""

from __future__ import annotations

import ctypes
import json
from typing import Any, Callable, Dict, Generic, Iterable, List, NoReturn, Optional, Tuple, TypeVar

from ._inputs import Machine, Path, config_json, options_json
from ._library import CProgress, Handle, call_text, create
from ._progress import Progress, run

T = TypeVar("T")


class _Decided(Generic[T]):
    """A field of the engine's JSON, read only. Each access gives a value of its own, which may be changed."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, engine: Optional[PreparedEngine], owner: type) -> T:
        if engine is None:
            return self  # type: ignore[return-value]
        value: T = json.loads(engine.json())[self._name]
        return value

    def __set__(self, engine: PreparedEngine, value: object) -> NoReturn:
        raise AttributeError(f"{self._name} was decided by prepare() and cannot be set")


class PreparedEngine:
    """What `prepare` decided: plain, immutable data. Any thread may use it; it can be pickled.

    Supervisors keep what they need of it, so it may go before them.
    """

    pool_id = _Decided[str]("Name of the pool that runs it.")
    replica_id = _Decided[int]("Which of several equal pools it is.")
    model_id = _Decided[str]("What to call the model.")
    files = _Decided[List[Dict[str, Any]]]("The model's files as they were found: ``path``, ``bytes``, ``mtime_ns``...")
    digest = _Decided[List[str]]("The digests that were given and that the files had; empty if none was given.")
    info = _Decided[Dict[str, Any]](
        "What the model's header says: ``architecture``, ``n_ctx_train``, ``n_vocab``, ``chat_template``..."
    )
    n_ctx = _Decided[int]("Positions per slot.")
    n_ubatch = _Decided[int]("Tokens per micro-batch.")
    threads = _Decided[int]("Compute threads: of all workers together where they are shared, else of each.")
    share_threads = _Decided[bool]("Whether a worker that is alone computes with all threads, and several with a share each.")
    workers = _Decided[int]("Number of workers.")
    isolation = _Decided[str]("Where workers run: ``thread`` (of this process) or ``process`` (each a child process).")
    warm_spare = _Decided[bool]("Whether one loaded child process more is kept in reserve.")
    slots = _Decided[int]("Slots per worker.")
    kv_type_k = _Decided[str]("Element type of the keys in the KV cache.")
    kv_type_v = _Decided[str]("Element type of the values in the KV cache.")
    flash_attention = _Decided[bool]("Whether flash attention is used.")
    swa_full = _Decided[bool]("Whether layers with a sliding window remember every position.")
    prefix_cache = _Decided[bool]("Whether slots keep what they computed for requests that begin alike.")
    prefix_store_bytes = _Decided[int]("Host memory for saved beginnings, in bytes.")
    draft_max = _Decided[int]("Most tokens that are guessed ahead; 0: none.")
    devices = _Decided[List[int]]("Indices of the GPUs that are used, the main one first; empty on the CPU.")
    device_mask = _Decided[str]("The same in the form of a configuration.")
    require_gpu = _Decided[bool]("Whether a GPU is a must.")
    n_gpu_layers = _Decided[int]("Layers on GPUs, the output layer counted as one.")
    split = _Decided[Optional[Dict[str, Any]]]("How those layers are divided; None on the CPU.")
    memory = _Decided[Dict[str, Any]](
        "What it takes, in bytes: ``places`` (the host, then GPUs, each with ``weights``, ``cache``...), ``estimates``."
    )
    memory_limit = _Decided[Optional[int]]("Bytes it was allowed to take; None where that was not limited.")
    adjustments = _Decided[List[str]]("What was reduced so that it fits, and why; empty if nothing was.")
    deterministic = _Decided[bool]("Whether equal requests give equal answers, bit by bit.")
    seed = _Decided[Optional[int]]("Seed of requests that have none; None: drawn for each.")
    use_mmap = _Decided[bool]("Whether the weights are mapped from the file.")
    use_repack = _Decided[bool]("Whether weights are rearranged where that makes faster kernels.")
    use_mlock = _Decided[bool]("Whether the weights are locked into memory.")
    flags = _Decided[List[str]]("Everything that was decided, as flags that lead to this engine again.")
    machine = _Decided[Dict[str, Any]]("The machine that it was prepared for.")
    llamapen_version = _Decided[str]("Version of llamapen that prepared it.")
    engine_version = _Decided[str]("Version of llama.cpp that it was prepared for.")
    engine_digest = _Decided[str]("Digest of the compiled llama.cpp that it was prepared for.")
    build_flags = _Decided[List[str]]("Flags that llama.cpp was compiled with.")

    def __init__(self, handle: Handle) -> None:
        """Takes over ``handle``; use `prepare` or `from_json` instead."""
        self._handle = handle
        self._json = call_text("llamapen_engine_json", handle.pointer)

    @classmethod
    def from_json(cls, text: str) -> PreparedEngine:
        """Reads what `json` gave. Whether it fits this build, machine and file is checked when it is started."""
        encoded = text.encode()
        return cls(create("llamapen_engine_from_json", "llamapen_engine_free", encoded, len(encoded)))

    def json(self) -> str:
        """All of it as JSON: equal engines give equal text."""
        return self._json

    @property
    def model(self) -> str:
        """Absolute path of the model, of a split model the first file."""
        path: str = self.files[0]["path"]
        return path

    @property
    def cpu_level(self) -> Optional[str]:
        """Level of the CPU kernels that it was prepared for; None of a library that has one only."""
        level: Optional[str] = json.loads(self._json).get("cpu_level")
        return level

    def __reduce__(self) -> Tuple[Callable[[str], PreparedEngine], Tuple[str]]:
        return type(self).from_json, (self._json,)


def prepare(
    model: Path,
    *,
    machine: Optional[Machine] = None,
    progress: Optional[Progress] = None,
    digest_cache: Optional[Path] = None,
    hub: Optional[Path] = None,
    **config: Any,
) -> PreparedEngine:
    """Checks a model and a configuration, and chooses what is left open. Loads no weights and leaves nothing behind.

    ``model``: a GGUF file, any part of a split model, a folder with one model in it, or ``hf:org/repo@revision/file`` in
    the local hub cache. Nothing is downloaded.

    ``machine``: as `llamapen.machine` gives it, to decide for another one; default: this one.
    ``progress``: called with the bytes that were read and all there are, while a given digest is computed. Returning
    ``False`` ends that with `Cancelled`; an exception ends it and is raised here; so does Ctrl-C.
    ``digest_cache``: a folder that remembers verified digests of unchanged files; default: none, nothing is written.
    ``hub``: the folder of the hub cache; default: as the hub's own tools find it.

    ``config``:

    * ``digest``: ``sha256:...`` that the file must have, or a list with one per file. The file is read whole.
    * ``n_ctx``: positions (prompt and generated tokens) per slot; default: what the model was trained with, at most 4096.
    * ``streams``: requests that are expected to run at a time (1 to 64; 1). Chooses ``workers`` and ``slots`` (that a worker
      runs at a time) where they are left out: on the CPU a worker for each, at most 4 and no more than cores.
    * ``tuning``: what workers, slots and micro-batches are chosen for where they are left out: ``"latency"`` (one worker, all
      cores for each token, small micro-batches), ``"throughput"`` (large ones, workers where they gain by an estimate; 8 streams
      if nobody says how many), or ``"auto"``: as measured while nothing runs, half a second in all; see ``calibration`` of
      `Supervisor.health`. By default as ``streams`` says. ``tuning_cache``: with ``"auto"`` a folder in which what was measured is kept
      for the next start (none).
    * ``share_threads``: a worker that is alone computes with all ``threads`` (the cores), several with a share each (true where
      ``threads`` is left out and there are several workers, but not if ``deterministic``; else they are of each worker).
    * ``isolation``: where workers run: ``"thread"`` (of this process; default on the CPU), or ``"process"``: each as a child
      process that loads the model itself, so that whatever becomes of it, this process goes on. Nothing has to be installed
      for that. ``warm_spare``: one loaded child more, in reserve for one that dies (false).
    * ``n_ubatch``: tokens per micro-batch (1 to 4096; 256, and 512 on GPUs).
    * ``kv_type_k``, ``kv_type_v``: of the KV cache: ``f32``, ``f16`` (default), ``bf16``, ``q8_0``, ``q5_1``, ``q5_0``,
      ``q4_1``, ``q4_0``, ``iq4_nl``. ``flash_attention`` (true where possible), ``swa_full`` (false).
    * ``prefix_cache``: slots keep what they computed, and a request that begins as an earlier one decodes only the rest
      (true); ``prefix_store_bytes``: memory for saved beginnings whose slots were needed otherwise (0).
    * ``draft_max``: most tokens that are guessed ahead from the text itself and checked in one decode (0 to 15; 0). Answers
      are the same, and faster where they repeat. ``draft_max`` in a worker's health is 0 where they would not be the same.
    * ``devices``: ``"auto"``, ``"none"`` or indices such as ``"0,1"``; ``require_gpu`` (false), ``n_gpu_layers`` (all),
      ``tensor_split`` such as ``"3,1"`` (by memory).
    * ``memory_limit``: bytes besides mapped weights (what the machine allows). ``shrink``: what may be reduced to fit, each
      down to the least that must be left: ``{"kv_type", "slots", "n_ctx", "n_gpu_layers"}`` (nothing).
    * ``deterministic``: equal requests give equal answers, bit by bit (false). ``seed``: of requests that have none.
    * ``use_mmap`` (true), ``use_repack`` (if they fit), ``use_mlock`` (false), ``pool_id`` (the model's id), ``replica_id`` (0).

    Raises `InvalidParams`, `ModelNotFound`, `ModelInvalid`, `DigestMismatch`, `OutOfMemory`, `DeviceError`, `Unsupported`.
    """
    inputs = (*config_json(model, config), *options_json(machine, hub, digest_cache))

    def make(told: Any) -> Handle:
        return create("llamapen_prepare_with", "llamapen_engine_free", *inputs, told, None)

    # Without a digest there is nothing that takes long.
    return PreparedEngine(run(make, progress) if config.get("digest") else make(CProgress()))


def config_from_flags(flags: Iterable[str]) -> Dict[str, Any]:
    """The configuration that flags as llama.cpp's programs take them mean: ``prepare(**config_from_flags(sys.argv[1:]))``.

    Every option of `prepare` is a flag too: ``--n-ctx=4096``, ``--shrink-slots=1``. A model must be named: ``-m``.
    Raises `InvalidParams`, with the nearest flag where one is unknown.
    """
    texts = [flag.encode(errors="surrogateescape") for flag in flags]
    if any(b"\0" in text for text in texts):
        raise ValueError("a flag contains a NUL")
    array = (ctypes.c_char_p * len(texts))(*texts)
    config: Dict[str, Any] = json.loads(call_text("llamapen_config_from_flags", array, len(texts)))
    return config
