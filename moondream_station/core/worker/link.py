"""The frames between the station and one worker: its requests, what was answered to each, and its end."""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from moondream_station.core.facts.errors import (
    ArgumentInvalid,
    BackendError,
    StationError,
    UnknownFunction,
    WorkerFailed,
    WorkerReplaced,
    WorkerTimeout,
)
from moondream_station.core.processes.worker_process import WorkerProcess
from moondream_station.core.worker.worker_protocol import (
    PROTOCOL_VERSION,
    STREAM_WINDOW,
    FrameDecoder,
    FrameUnfit,
    ProtocolError,
    encode,
    encode_with,
)

Frame: TypeAlias = dict[str, Any]
Progress: TypeAlias = Callable[[int, int | None, str], object]
"""Called with how far a backend says it is: done, total where known, and of what."""
UNHEARD: Final[Progress] = lambda *_: None  # noqa: E731  its type stands there

_LAST_FRAMES_SECONDS: Final = 1.0
"""How long a dead worker's pipe is read on, for answers that it gave before."""
_LOGS_HINT = "`moondream-station logs` shows its output."


@dataclass(eq=False)
class Request:
    """One request that was sent to a worker.

    `has_begun` tells whether the worker works on it yet: one that dies before can't have done anything.
    `on_end` is called once, when the worker has sent the last frame or is gone. Until then the request
    occupies the worker, whether anybody still waits for it or not.
    """

    number: int
    subject: str
    send: Callable[[Frame], None]
    on_end: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.has_begun = False
        self.failure: StationError | None = None
        """Why its caller got no answer, or not all of it."""
        self.ended = anyio.Event()
        self._frames: deque[Frame | StationError] = deque()
        self._arrived = anyio.Event()
        self._unreported = 0
        self._sent_at = anyio.current_time()
        self._progress: Frame = {"done": None, "total": None, "unit": None}

    @property
    def is_ended(self) -> bool:
        """Whether the worker is done with it, or gone."""
        return self.ended.is_set()

    @property
    def streamed(self) -> int:
        """How many chunks of a streamed answer have come."""
        return int(self._progress["done"] or 0) if self._progress["unit"] == "tokens" else 0

    def shown(self) -> Frame:
        """How far it is, as `status` shows it: `done` of `total`, which are null as long as nobody says."""
        seconds = anyio.current_time() - self._sent_at
        return {"function": self.subject, "seconds": round(seconds, 3), **self._progress}

    def put(self, frame: Frame) -> bool:
        """Take a frame from the worker; False where it sends more than it was asked for."""
        kind = frame["kind"]
        if kind == "progress":
            self._progress = {name: frame[name] for name in self._progress}
        elif kind == "stream":
            self._progress = {"done": 0, "total": None, "unit": "tokens"}
        elif kind == "chunk":
            self._progress["done"] += 1
        if kind != "progress" or len(self._frames) < STREAM_WINDOW:  # where nobody reads it, it is no offence
            self._add(frame, is_last=kind in {"result", "error", "end"})
        return len(self._frames) <= STREAM_WINDOW + 2

    def fail(self, error: StationError) -> None:
        """The worker is gone, and so is this request."""
        self._add(error, is_last=True)

    def abandon(self) -> None:
        """Nobody waits any more: tell the worker, which ends the call as soon as it can."""
        if not self.is_ended:
            self.send({"op": "cancel", "id": self.number})

    def consumed(self) -> None:
        """One chunk was used up: let the worker send more, twice a window."""
        self._unreported += 1
        if self._unreported >= STREAM_WINDOW // 2 and not self.is_ended:
            self.send({"op": "more", "id": self.number, "count": self._unreported})
            self._unreported = 0

    async def get(self) -> Frame:
        """The next frame, waiting for it; raises the error that ended them."""
        await checkpoint()
        while not self._frames:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        frame = self._frames.popleft()
        if isinstance(frame, StationError):
            raise frame
        return frame

    async def past_progress(self, progress: Progress) -> Frame:
        """The next frame that isn't progress, which is passed on."""
        while (frame := await self.get())["kind"] == "progress":
            progress(frame["done"], frame["total"], frame["unit"])
        return frame

    async def next_frame(
        self, timeout_seconds: float | None, get: Callable[[], Awaitable[Frame]] | None = None
    ) -> Frame:
        """The next frame that isn't an error. Whoever leaves without one abandons the request."""
        try:
            return await self._next_frame(timeout_seconds, get)
        except StationError as error:
            self.failure = error
            raise

    async def _next_frame(
        self, timeout_seconds: float | None, get: Callable[[], Awaitable[Frame]] | None
    ) -> Frame:
        frame: Frame | None = None
        try:
            with anyio.fail_after(timeout_seconds):
                frame = await (get or self.get)()
        except TimeoutError:
            raise WorkerTimeout(
                f"The backend did not answer `{self.subject}` within {round(timeout_seconds or 0, 2):g} s.",
                hint="Give the request a longer `timeout`, or raise inference_timeout.",
            ) from None
        finally:
            if frame is None:
                self.abandon()
        if frame["kind"] == "error":
            if frame["code"] == "unknown-function":
                raise UnknownFunction(f"The active model has no function `{self.subject}`.")
            if frame.get("cause") == ArgumentInvalid.code:
                error = ArgumentInvalid(frame["message"], hint=frame.get("hint"))
                error.argument = frame.get("argument")
                raise error
            raise BackendError(frame["message"])
        return frame

    def _add(self, frame: Frame | StationError, *, is_last: bool) -> None:
        self._frames.append(frame)
        self._arrived.set()
        if is_last and not self.is_ended:
            self.ended.set()
            if self.on_end is not None:
                self.on_end()


class CallStream:
    """The chunks of a streamed answer, which occupies the worker until it is used up or abandoned."""

    def __init__(self, request: Request, first: Frame, *, timeout_seconds: float | None) -> None:
        self.key: str = first["key"]
        self.rest: Mapping[str, Any] = first["rest"]
        """What the answer holds beside the stream, as its reasoning."""
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._is_over:
            raise StopAsyncIteration
        self._is_over = True  # unless a chunk arrives: whatever else happens here ends the stream
        frame = await self._request.next_frame(self._timeout_seconds)
        if frame["kind"] != "chunk":
            raise StopAsyncIteration
        self._is_over = False
        self._request.consumed()
        return frame["value"]


class Link:
    """A connection to a worker process. Its owner runs `read`, `write` and `watch` side by side."""

    def __init__(
        self, process: WorkerProcess, oom_kills: Callable[[], int | None], *, greeting: bytes = b""
    ) -> None:
        self._decoder = FrameDecoder(after=greeting)
        self._oom_kills = oom_kills
        self._oom_kills_before = oom_kills()
        self.was_killed = False
        """Whether the worker's end was SIGKILL: memory ran out, or somebody ended it."""
        self.process = process
        self.failure: WorkerFailed | None = None
        self.failed = anyio.Event()
        self._greeted = anyio.Event()
        self._read_all = anyio.Event()
        self._outbox: deque[bytes] = deque()
        self._queued = anyio.Event()
        self._requests: dict[int, Request] = {}
        self._last_number = 0
        self._has_ended = False
        self.writing = anyio.CancelScope(shield=True)
        """Shielded: the goodbye that a worker is sent when its owner is cancelled must still reach it."""

    def request(
        self,
        subject: str,
        frame: Frame,
        *,
        texts: Mapping[str, bytes] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Request:
        """Send a request, and long texts (UTF-8) as they are behind it, without waiting for its answer."""
        if self.failure is not None:
            raise _again(self.failure)
        number = self._last_number + 1
        try:
            pieces = encode_with(texts or {}, {**frame, "id": number})
        except FrameUnfit as error:
            raise BackendError(f"`{subject}` can't be sent to the backend: {error}.") from error
        self._last_number = number
        request = Request(number, subject, send=self.tell, on_end=on_end)
        self._requests[number] = request
        self._queue(*pieces)
        return request

    def tell(self, frame: Frame) -> None:
        """Send a frame that isn't answered."""
        self._queue(encode(frame))

    def fail(self, what: str) -> WorkerFailed:
        """Remember the first failure ("was ended by SIGSEGV"), and let everyone who waits know."""
        if self.failure is None:
            lines = self.process.last_lines()
            last = f" Its last line: {lines[-1]}" if lines else ""
            failure = self.failure = WorkerFailed(
                f"The backend's worker (pid {self.process.pid}) {what}.{last}",
                hint=_LOGS_HINT,
                log="\n".join(lines),
            )
            self._fail_requests(lambda _: _again(failure))
            self.failed.set()
            self._greeted.set()
        return self.failure

    def end(self) -> None:
        """The worker is ended on purpose: who waits for an answer is told at once, and no frame counts."""
        self._has_ended = True
        self._fail_requests(
            lambda request: WorkerReplaced(
                f"The worker was ended before it was done with `{request.subject}`.",
                hint="Send the request again; it waits until a worker is ready.",
            )
        )

    def _fail_requests(self, error_of: Callable[[Request], StationError]) -> None:
        requests, self._requests = self._requests, {}
        for request in requests.values():
            request.fail(error_of(request))

    async def greet(self, timeout_seconds: float) -> None:
        """Wait for the worker's hello."""
        with anyio.move_on_after(timeout_seconds):
            await self._greeted.wait()
        if self.failure is not None:
            raise self.failure
        if not self._greeted.is_set():
            raise WorkerTimeout(
                f"The backend's worker (pid {self.process.pid}) did not start within {timeout_seconds:g} s.",
                hint=_LOGS_HINT,
                log="\n".join(self.process.last_lines()),
            )

    async def write(self) -> None:
        """Send what is queued, until the worker is gone or `writing` is cancelled, which drops the rest."""
        gone = (anyio.BrokenResourceError, anyio.ClosedResourceError)  # `watch` reports it
        with self.writing, suppress(*gone):
            while True:
                while self._outbox:
                    await self.process.stdin.send(self._outbox.popleft())
                self._queued = anyio.Event()
                await self._queued.wait()

    async def read(self) -> None:
        """Hand out what the worker sends, until it is gone."""
        await checkpoint()
        try:
            async for data in self.process.stdout:
                for frame in self._decoder.feed(data):
                    self._dispatch(frame)
        except ProtocolError as error:
            self.fail(f"broke its protocol: {error}")
            self.process.kill()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # `watch` reports it
        self._read_all.set()

    async def watch(self) -> None:
        """Report the worker's end, after everything it had to say was read."""
        returncode = await self.process.wait()
        with anyio.move_on_after(_LAST_FRAMES_SECONDS):
            await self._read_all.wait()
        self.was_killed = sys.platform != "win32" and -returncode == signal.SIGKILL
        self.fail(self._in_words(returncode))

    def _in_words(self, returncode: int) -> str:
        """How it ended; where it was killed, whether memory ran out, as far as the system tells."""
        if returncode >= 0:
            return f"ended with exit code {returncode}"
        if self.was_killed and self._oom_kills_before is not None:
            is_full = (self._oom_kills() or 0) > self._oom_kills_before
            why = " because memory ran out" if is_full else "; the kernel reports no out-of-memory kill"
            return f"was ended by SIGKILL{why}"
        try:
            return f"was ended by {signal.Signals(-returncode).name}"
        except ValueError:
            return f"was ended by signal {-returncode}"

    def _queue(self, *pieces: bytes) -> None:
        self._outbox += pieces
        self._queued.set()

    def _dispatch(self, frame: Frame) -> None:
        if self._has_ended:
            return
        match frame:
            case {"kind": "hello", "protocol": int(protocol), "pid": int(pid), "python": str()}:
                if protocol != PROTOCOL_VERSION:
                    raise ProtocolError(f"it speaks version {protocol}, this station {PROTOCOL_VERSION}")
                self.process.pid = pid
                self._greeted.set()
            case {"kind": "begun", "id": int(number)}:
                self._open(number).has_begun = True
            case (
                {"kind": "result", "id": int(number), "value": dict()}
                | {"kind": "error", "id": int(number), "code": str(), "message": str()}
                | {"kind": "stream", "id": int(number), "key": str(), "rest": dict()}
                | {"kind": "chunk", "id": int(number), "value": _}
                | {"kind": "end", "id": int(number)}
                | {"kind": "progress", "id": int(number), "done": int(), "total": int() | None, "unit": str()}
            ):
                request = self._open(number)
                if not request.put(frame):
                    raise ProtocolError(f"more chunks for request {number} than requested")
                if request.is_ended:
                    del self._requests[number]
            case _:
                raise ProtocolError(f"an unknown frame: {str(frame)[:200]}")

    def _open(self, number: int) -> Request:
        request = self._requests.get(number)
        if request is None:
            raise ProtocolError(f"an answer to request {number}, which is not open")
        return request


def _again(failure: WorkerFailed) -> WorkerFailed:
    """The same failure for another task: one exception object must not be raised in several."""
    return WorkerFailed(failure.message, hint=failure.hint, log=failure.log)
