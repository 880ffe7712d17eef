"""What can go wrong, as exceptions. Numbers and names are those of ``llamapen.h``."""

from __future__ import annotations

from typing import Dict, Optional, Type


class LlamapenError(Exception):
    """A call or a request failed. Causes that programs often handle apart have a class of their own."""

    #: Number of the status, 100 or more; it never changes its meaning.
    status: int
    #: Its name, such as ``CONTEXT_OVERFLOW``.
    status_name: str
    #: What, where and what to do.
    message: str
    #: Whether the same call may succeed later.
    retriable: bool
    #: When to try again, in milliseconds, if that is known.
    retry_after_ms: Optional[int]
    #: Which rule refused a request or a lease: ``queue``, ``context``, ``drain``, ``breaker``, ``quarantine`` or ``state``;
    #: ``None`` for other errors.
    policy: Optional[str]

    def __init__(
        self,
        status: int,
        status_name: str,
        message: str,
        retriable: bool = False,
        retry_after_ms: Optional[int] = None,
        policy: Optional[str] = None,
    ) -> None:
        # All of them in `args`, so that the exception can be pickled.
        super().__init__(status, status_name, message, retriable, retry_after_ms, policy)
        self.status, self.status_name, self.message = status, status_name, message
        self.retriable, self.retry_after_ms, self.policy = retriable, retry_after_ms, policy

    def __str__(self) -> str:
        return f"{self.status_name}: {self.message}"


class InvalidParams(LlamapenError):
    """A value is out of range, a key is unknown, a text is not UTF-8."""


class Busy(LlamapenError):
    """Another thread is waiting for events of the same request, or reloads the same supervisor."""


class Forked(LlamapenError):
    """The object was made before a fork and cannot be used in the child."""


class Unsupported(LlamapenError):
    """Valid, but not in this version, this build or for this model; or there is nothing to start a worker process from."""


class Cancelled(LlamapenError):
    """The caller cancelled it."""


class ModelNotFound(LlamapenError):
    """There is no regular, readable file at the path of the model."""


class ModelInvalid(LlamapenError):
    """The file of the model is no GGUF, is damaged, or would break the engine."""


class StaleEngine(LlamapenError):
    """An engine from elsewhere does not fit this build, this machine or its file; prepare it again."""


class DigestMismatch(LlamapenError):
    """A file of the model does not have the digest that was given for it."""


class QueueFull(LlamapenError):
    """The queue is full; try again later."""


class QueueFullDropLru(LlamapenError):
    """Dropped from a full queue in favour of a newer request; submit it again later."""


class ContextOverflow(LlamapenError):
    """Prompt and ``max_tokens`` do not fit a slot's context."""


class PoolUnavailable(LlamapenError):
    """The supervisor was stopped, failed, or leaves its workers alone because they failed too often (then retriable)."""


class PoolUnready(LlamapenError):
    """The new engine of a reload was not ready in time; another try may be."""


class LoadFailed(LlamapenError):
    """The model could not be loaded, or no worker be started."""


class DeadlineUnmet(LlamapenError):
    """A limit of the request passed before a worker took it up."""


class DecodeTimeout(LlamapenError):
    """A limit of the request passed while a worker ran it."""


class Draining(LlamapenError):
    """The supervisor was stopped under the request, or is being drained and takes nothing new."""


class OutOfMemory(LlamapenError):
    """It does not fit into the memory there is, by the plan or when it was loaded."""


class DeviceError(LlamapenError):
    """A GPU failed, or cannot be used as it must be."""


class WorkerReset(LlamapenError):
    """The worker that ran the request failed or was killed, and it did not go on in another; submit it again."""


class PoisonedRequest(LlamapenError):
    """Workers died of the request, or of one like it; it is refused for a while."""


_CLASSES: Dict[int, Type[LlamapenError]] = {
    100: InvalidParams,
    101: Busy,
    102: Forked,
    103: Unsupported,
    104: Cancelled,
    105: ModelNotFound,
    106: ModelInvalid,
    107: StaleEngine,
    108: DigestMismatch,
    201: QueueFull,
    202: QueueFullDropLru,
    203: ContextOverflow,
    204: PoolUnready,
    205: PoolUnavailable,
    206: DeadlineUnmet,
    207: Draining,
    300: LoadFailed,
    301: OutOfMemory,
    302: DeviceError,
    303: DecodeTimeout,
    304: WorkerReset,
    305: PoisonedRequest,
}


def error_class(status: int) -> Type[LlamapenError]:
    """The class for a status, `LlamapenError` where it has none of its own."""
    return _CLASSES.get(status, LlamapenError)
