"""The shared library: where it is, what its functions take, and how a call becomes a result or an exception."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from .errors import LlamapenError, error_class

ABI_VERSION = 5
# Smaller statuses are not errors: OK, EVENT, TIMEOUT, END.
OK, EVENT, TIMEOUT, END, FIRST_ERROR = 0, 1, 2, 3, 100

_POINTER = ctypes.c_void_p
_OUT = ctypes.POINTER(_POINTER)
_TEXT = [ctypes.c_char_p, ctypes.c_size_t]
#: ``llamapen_progress``. Without arguments it makes NULL.
CProgress = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64, _POINTER)
_PROGRESS = [CProgress, _POINTER]


class CEvent(ctypes.Structure):
    """``llamapen_event``. Texts are plain pointers here: ``c_char_p`` would end them at the first NUL."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("kind", ctypes.c_int32),
        ("status", ctypes.c_int32),
        ("token", ctypes.c_int32),
        ("index", ctypes.c_uint32),
        ("text", _POINTER),
        ("text_len", ctypes.c_size_t),
        ("json", _POINTER),
        ("json_len", ctypes.c_size_t),
        ("logits", _POINTER),
        ("logits_len", ctypes.c_size_t),
    ]


# Functions with a status and a trailing `llamapen_error **`, which `call` adds.
_CALLS: Dict[str, List[Any]] = {
    "llamapen_build_info_json": [_OUT],
    "llamapen_machine": [ctypes.c_int32, _OUT],
    "llamapen_devices": [_OUT],
    "llamapen_model_info": [*_TEXT, *_TEXT, _OUT],
    "llamapen_digest": [*_TEXT, *_PROGRESS, _OUT],
    "llamapen_config_from_flags": [ctypes.POINTER(ctypes.c_char_p), ctypes.c_size_t, _OUT],
    "llamapen_prepare_with": [*_TEXT, *_TEXT, *_PROGRESS, _OUT],
    "llamapen_plan": [*_TEXT, *_TEXT, _OUT, _OUT],
    "llamapen_preflight": [*_TEXT, *_TEXT, _OUT, _OUT],
    "llamapen_engine_from_json": [*_TEXT, _OUT],
    "llamapen_engine_json": [_POINTER, _OUT],
    "llamapen_supervisor_start": [_POINTER, *_TEXT, _OUT],
    "llamapen_supervisor_wait_ready": [_POINTER, ctypes.c_int64],
    "llamapen_supervisor_cancel_load": [_POINTER],
    "llamapen_supervisor_reset_breaker": [_POINTER],
    "llamapen_supervisor_health_json": [_POINTER, _OUT],
    "llamapen_supervisor_metrics_json": [_POINTER, _OUT],
    "llamapen_supervisor_metrics_text": [_POINTER, _OUT],
    "llamapen_supervisor_handoff_json": [_POINTER, _OUT],
    "llamapen_supervisor_reload": [_POINTER, _POINTER, ctypes.c_int64, _OUT],
    "llamapen_supervisor_unload": [_POINTER, ctypes.c_int64],
    "llamapen_supervisor_wake": [_POINTER],
    "llamapen_supervisor_drain": [_POINTER, ctypes.c_int64, _OUT],
    "llamapen_supervisor_self_test": [_POINTER, ctypes.c_int64, _OUT],
    "llamapen_supervisor_stop": [_POINTER],
    "llamapen_submit": [_POINTER, *_TEXT, _OUT],
    "llamapen_lease_acquire": [_POINTER, _OUT],
    "llamapen_lease_submit": [_POINTER, *_TEXT, _OUT],
    "llamapen_handoff_watcher_open": [*_TEXT, _OUT],
    "llamapen_handoff_watcher_next": [_POINTER, ctypes.c_int64, _OUT],
    "llamapen_handoff_watcher_bind": [_POINTER, *_TEXT, ctypes.POINTER(ctypes.c_int32)],
    "llamapen_handoff_watcher_records_json": [_POINTER, _OUT],
    "llamapen_request_next": [_POINTER, ctypes.c_int64, ctypes.POINTER(CEvent)],
    "llamapen_request_cancel": [_POINTER],
    "llamapen_request_record_json": [_POINTER, _OUT],
}
_OTHERS = {
    "llamapen_status_name": (ctypes.c_char_p, [ctypes.c_int32]),
    "llamapen_string_free": (None, [_POINTER]),
    "llamapen_error_message": (ctypes.c_char_p, [_POINTER]),
    "llamapen_error_retriable": (ctypes.c_int32, [_POINTER]),
    "llamapen_error_retry_after_ms": (ctypes.c_int64, [_POINTER]),
    "llamapen_error_policy": (ctypes.c_char_p, [_POINTER]),
    "llamapen_error_free": (None, [_POINTER]),
    "llamapen_engine_free": (None, [_POINTER]),
    "llamapen_supervisor_free": (None, [_POINTER]),
    "llamapen_lease_free": (None, [_POINTER]),
    "llamapen_handoff_watcher_free": (None, [_POINTER]),
    "llamapen_request_free": (None, [_POINTER]),
}


def candidates() -> List[Path]:
    """Paths at which the library is looked for, in this order."""
    # Who names a library wants that one: a silent fallback would run another build.
    named = os.environ.get("LLAMAPEN_LIBRARY")
    if named:
        # Absolute: a bare name would be looked for where the system has its libraries.
        return [Path(named).absolute()]
    name = "libllamapen.dylib" if sys.platform == "darwin" else "libllamapen.so"
    package = Path(__file__).resolve().parent
    target = package.parent.parent / "target"
    return [package / name, target / "release" / name, target / "debug" / name]


@functools.lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """The loaded library. Raises ``OSError`` naming every path that was tried."""
    tried = []
    for path in candidates():
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError as problem:
            tried.append(f"{path}: {str(problem).replace(f'{path}: ', '')}")
            continue
        return _declare(loaded, path)
    raise OSError(f"libllamapen was not found; set LLAMAPEN_LIBRARY to its path. Tried: {'; '.join(tried)}")


def _declare(loaded: ctypes.CDLL, path: Path) -> ctypes.CDLL:
    try:
        found = loaded.llamapen_abi_version()
        if found != ABI_VERSION:
            raise OSError(f"{path} has ABI version {found}, this package needs {ABI_VERSION}: install matching versions")
        for name, (result, arguments) in _OTHERS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
        for name, arguments in _CALLS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = ctypes.c_int32, [*arguments, _OUT]
    except AttributeError as missing:
        raise OSError(f"{path} is another library, or another version of this one: {missing}") from None
    return loaded


def call(name: str, *arguments: Any) -> int:
    """Calls ``name`` and returns its status; raises `LlamapenError` where that is an error."""
    error = _POINTER()
    status: int = getattr(library(), name)(*arguments, ctypes.byref(error))
    if status >= FIRST_ERROR:
        raise _take_error(status, error)
    return status


def _take_error(status: int, error: ctypes.c_void_p) -> LlamapenError:
    message, retriable, retry_after_ms, policy = "", False, -1, None
    if error:
        message = library().llamapen_error_message(error).decode()
        retriable = bool(library().llamapen_error_retriable(error))
        retry_after_ms = library().llamapen_error_retry_after_ms(error)
        policy = library().llamapen_error_policy(error).decode() or None
        library().llamapen_error_free(error)
    name = library().llamapen_status_name(status).decode()
    after = None if retry_after_ms < 0 else retry_after_ms
    return error_class(status)(status, name, message, retriable, after, policy)


def call_text(name: str, *arguments: Any) -> str:
    """Calls ``name``, whose last argument before the error receives an owned text, and returns that text."""
    text = _POINTER()
    call(name, *arguments, ctypes.byref(text))
    return take_text(text)


def call_text_if_any(name: str, *arguments: Any) -> Optional[str]:
    """The same for a text that there may not be yet."""
    text = _POINTER()
    call(name, *arguments, ctypes.byref(text))
    return take_text(text) if text else None


def call_json_and_text(name: str, *arguments: Any) -> Tuple[str, str]:
    """The same for one whose last two arguments before the error receive the same as JSON and as text for people."""
    json, text = _POINTER(), _POINTER()
    call(name, *arguments, ctypes.byref(json), ctypes.byref(text))
    return take_text(json), take_text(text)


def take_text(text: ctypes.c_void_p) -> str:
    """An owned text, which is freed."""
    try:
        return ctypes.string_at(text).decode()
    finally:
        library().llamapen_string_free(text)


def encode(options: Any) -> bytes:
    """JSON of a configuration or a request. Options that are ``None`` are left to the library's defaults."""
    return json.dumps({key: value for key, value in options.items() if value is not None}).encode()


class Handle:
    """Owns one object of the library and frees it when the last reference to this handle goes.

    Whoever is inside a call holds a reference, so an object is never freed under a call in another thread.
    """

    def __init__(self, pointer: ctypes.c_void_p, free: Callable[[ctypes.c_void_p], None]) -> None:
        self.pointer = pointer
        # At interpreter exit daemon threads may still be inside a call: then the process' end frees, not we.
        weakref.finalize(self, free, pointer).atexit = False


def create(name: str, free: str, *arguments: Any) -> Handle:
    """Calls ``name``, whose last argument before the error receives a new object, and owns that object."""
    pointer = _POINTER()
    call(name, *arguments, ctypes.byref(pointer))
    return Handle(pointer, getattr(library(), free))
