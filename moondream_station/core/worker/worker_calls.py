"""Calls of a backend's functions, in threads, each answered by exactly one last frame; and their progress.

Loaded by `worker_main.py` by path inside a backend's environment: standard library only, and what takes long
to import only where it is needed. concurrent.futures, which brings logging, took 5 ms of each start.
"""

from __future__ import annotations

import binascii
import contextlib
import opcode
import os
import queue
import re
import threading
import time
from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable
    from typing import Any, Self, TypeAlias

    Send: TypeAlias = Callable[[dict[str, Any]], None]

_MOST_CHARACTERS = 4000
_DEVICE_BROKEN = re.compile("(CUDA|HIP) error: (?!out of memory|invalid device ordinal)")
"""What torch calls an error after which a GPU's context is unusable (c10/cuda/CUDAException.cpp)."""
_EXIT_DEVICE_BROKEN = 70
_APART_SECONDS = 0.25
_RAISE = opcode.opmap["RAISE_VARARGS"]
_TEXTS = ("image_url", "question", "object", "length")
"""The arguments of Moondream's API that are text."""


class Cancelled(Exception):
    """The station no longer wants a call's chunks."""


class ArgumentInvalid(Exception):
    """The caller's arguments don't fit the function."""

    cause = "argument-invalid"

    def __init__(self, message: str, argument: str) -> None:
        super().__init__(message)
        self.argument = argument


class Call:
    """One call: whether anybody still waits for it, and how many chunks the station has room for."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.id = request["id"]
        self.function = str(request["function"])
        self._kwargs: dict[str, Any] = request["kwargs"]
        self._texts: dict[str, bytes] = request.get("texts", {})
        self.streams = bool(request["stream"])
        self.room = threading.Semaphore(int(request["window"]))
        """Released as the station uses chunks up."""
        self._cancelled = threading.Event()
        self.is_cancelled = self._cancelled.is_set
        """Whether nobody waits for an answer any more."""

    def arguments(self) -> dict[str, Any]:
        """What the function is called with."""
        texts = {name: text.decode("utf-8", "surrogatepass") for name, text in self._texts.items()}
        return self._kwargs | texts

    def cancel(self) -> None:
        """The station has lost interest; whoever waits for room finds out."""
        self._cancelled.set()
        self.room.release()

    def check(self) -> None:
        """Raise `Cancelled` where nobody waits for an answer any more."""
        if self.is_cancelled():
            raise Cancelled

    def wait_for_room(self) -> None:
        """Block until a chunk may be sent."""
        self.room.acquire()
        self.check()


class Calls:
    """Runs calls in a fixed number of threads."""

    def __init__(self, find: Callable[[str], Any], send: Send, threads: int) -> None:
        self._find = find
        self._send = send
        self._known: dict[int, Call] = {}
        self._waiting: queue.SimpleQueue[Call] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"call_{number}", daemon=True).start()

    def take(self, request: dict[str, Any]) -> bool:
        """Take a request that is about a call; False for every other one."""
        match request.get("op"):
            case "call":
                call = Call(request)
                self._known[call.id] = call
                self._waiting.put(call)
            case "cancel":
                if (known := self._known.get(request["id"])) is not None:
                    known.cancel()
            case "more":
                if (known := self._known.get(request["id"])) is not None:
                    known.room.release(int(request["count"]))
            case _:
                return False
        return True

    def _work(self) -> None:
        while True:
            self._answer(self._waiting.get())

    def _answer(self, call: Call) -> None:
        """Run a call and send its last frame."""
        try:
            frame = self._perform(call)
            self._send(frame)
            # Backends of Moondream Station 0.1 raise nothing.
            text = str(frame.get("value", {}).get("error", ""))
        except BaseException as error:  # noqa: BLE001  `SystemExit` and stranger things too
            if not call.is_cancelled():
                complain(error)
            self._send(error_frame(call.id, error))
            text = _text_of(error)
        if _DEVICE_BROKEN.search(text):
            os._exit(_EXIT_DEVICE_BROKEN)  # every later use of the device in this process fails too
        self._known.pop(call.id, None)

    def _perform(self, call: Call) -> dict[str, Any]:
        """Run the call to its end, sending what it streams; give its last frame."""
        call.check()
        self._send({"kind": "begun", "id": call.id})
        function = self._find(call.function)
        if function is None:
            text = f"the backend has no function {call.function!r}"
            return {"kind": "error", "id": call.id, "code": "unknown-function", "message": text}
        progress = Progress(self._send, call.id, unit="tokens", sent_at=time.monotonic())
        given = {"cancelled": call.is_cancelled, "progress": progress}
        arguments = call.arguments() | accepted(function, given)
        _check_arguments(function, arguments)
        try:
            with progress:
                value = function(**arguments)
            answer = value if isinstance(value, dict) else {"result": value}
            key = next((key for key, part in answer.items() if isinstance(part, Iterator)), None)
            if not call.streams or key is None:
                return {"kind": "result", "id": call.id, "value": answer}
            self._begin_stream(call, str(key), {name: answer[name] for name in answer if name != key})
            self._stream(call, answer[key])
        except Exception as error:
            if (fault := _fault_of_an_argument(error, function, arguments)) is None:
                raise
            raise ArgumentInvalid(*fault) from error
        return {"kind": "end", "id": call.id}

    def _begin_stream(self, call: Call, key: str, rest: dict[Any, Any]) -> None:
        """Say what the answer holds beside its chunks; nothing where that can't be sent, as they can."""
        frame = {"kind": "stream", "id": call.id, "key": key}
        try:
            self._send({**frame, "rest": rest})
        except ValueError as error:
            complain(error)
            self._send({**frame, "rest": {}})

    def _stream(self, call: Call, chunks: Iterator[Any]) -> None:
        try:
            for chunk in chunks:
                call.wait_for_room()
                self._send({"kind": "chunk", "id": call.id, "value": chunk})
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()


class Progress:
    """Reports how far one request is, from whichever thread, until its next frame is due."""

    def __init__(
        self, send: Send, request: int, *, unit: str = "bytes", sent_at: float = float("-inf")
    ) -> None:
        self._send = send
        self._request = request
        self._unit = unit
        self._lock = threading.Lock()
        self._is_over = False
        self._sent_at = sent_at

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Report nothing more: another frame of the request comes next."""
        with self._lock:
            self._is_over = True

    def __call__(self, done: int, total: int | None = None, unit: str | None = None) -> None:
        """Report; more often than four times a second only the end is sent."""
        with self._lock:
            now = time.monotonic()
            if self._is_over or (now - self._sent_at < _APART_SECONDS and done != total):
                return
            self._sent_at = now
            total = None if total is None else int(total)
            frame = {"done": int(done), "total": total, "unit": str(unit or self._unit)[:100]}
            self._send({"kind": "progress", "id": self._request, **frame})


def error_frame(request: int | None, error: BaseException) -> dict[str, Any]:
    """The last frame of a request that raised. An exception may say its `cause`, a code, and its `hint`."""
    code, text = "backend-error", _text_of(error)
    if isinstance(error, Cancelled):
        code = text = "cancelled"
    elif isinstance(error, SystemExit):
        text = f"the backend called sys.exit({error.code!r})"
    frame = {"kind": "error", "id": request, "code": code, "type": type(error).__name__}
    return frame | {"message": text[:_MOST_CHARACTERS]} | _given_by(error)


def accepted(function: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What is given that a function has a parameter for; nothing where Python can't tell."""
    signature = _signature(function)
    names = () if signature is None else signature.parameters
    return {name: value for name, value in given.items() if name in names}


def _signature(function: Any) -> inspect.Signature | None:
    """How a function may be called, None where Python can't tell: what C code defines may have none."""
    import inspect  # noqa: PLC0415  takes 5 ms

    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _check_arguments(function: Any, kwargs: dict[str, Any]) -> None:
    """Raise `ArgumentInvalid` where an argument is missing or not known, with its name."""
    signature = _signature(function)
    if signature is None:
        return
    try:
        # Without `_headers` and `_method`, which the caller did not name.
        signature.bind(**{name: value for name, value in kwargs.items() if not name.startswith("_")})
    except TypeError as error:
        text = str(error)  # ends with the name, in quotes
        raise ArgumentInvalid(text, text.rpartition(" ")[2].strip("'")) from None


def complain(error: BaseException) -> None:
    """Write the end of a traceback to stderr, if backend code has left that usable."""
    with contextlib.suppress(Exception):
        import traceback  # noqa: PLC0415  takes 2 ms

        traceback.print_exception(error, limit=-20)


def _fault_of_an_argument(
    error: Exception, function: Any, arguments: dict[str, Any]
) -> tuple[str, str] | None:
    """What is wrong with an argument, and its name, where that is why a function raised; None where none is.

    A backend says so itself with `cause`, or with a `ValueError` of its own that names the argument. What
    Python or Pillow raise of their own accord is put down to an argument that is not what it should be.
    """
    if "cause" in _given_by(error):
        return None
    import inspect  # noqa: PLC0415  takes 5 ms

    if (signature := _signature(function)) is not None:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = signature.parameters.values()
        defaults = {parameter.name: parameter.default for parameter in parameters if parameter.kind in kinds}
        arguments = defaults | arguments
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    assert last is not None  # noqa: S101  it was raised
    code, text = last.tb_frame.f_code, _text_of(error)
    module = str(last.tb_frame.f_globals.get("__name__")).partition(".")[0]
    if "image_url" in arguments and (module == "PIL" or isinstance(error, binascii.Error)):
        return f"image_url can't be read as an image: {text}", "image_url"
    if code.co_code[last.tb_lasti] == _RAISE:
        own = getattr(inspect.unwrap(function), "__code__", None)
        is_its_own = own is not None and os.path.dirname(own.co_filename) == os.path.dirname(code.co_filename)
        named = next((name for name in arguments if re.search(rf"\b{re.escape(name)}\b", text)), None)
        return (text, named) if isinstance(error, ValueError) and is_its_own and named else None
    if isinstance(error, TypeError | ValueError | AttributeError | LookupError):
        return _what_is_no_text(arguments, text)
    return None


def _what_is_no_text(arguments: dict[str, Any], tripped_over: str) -> tuple[str, str] | None:
    """The first argument that should be text; one that was left out only where None was in the way."""
    for name, value in ((name, arguments[name]) for name in _TEXTS if name in arguments):
        if value is None and "NoneType" in tripped_over:
            return f"{name} is missing", name
        if value is not None and not isinstance(value, str):
            return f"{name} must be text, not {type(value).__name__}", name
    return None


def _given_by(error: BaseException) -> dict[str, str]:
    """Its cause, hint and argument; a class of a backend's may have anything under these names, or fail."""
    given = {}
    for name in ("cause", "hint", "argument"):
        with contextlib.suppress(Exception):
            value = getattr(error, name, None)
            if isinstance(value, str) and value:
                given[name] = value[:_MOST_CHARACTERS]
    return given


def _text_of(error: BaseException) -> str:
    """What the exception says; a backend's own class may fail even at that."""
    with contextlib.suppress(Exception):
        return str(error) or type(error).__name__
    return type(error).__name__
