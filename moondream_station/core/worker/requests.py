"""The station's side of one request to a worker: what was answered, in order, and a stream of chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Self

import anyio
from anyio.lowlevel import checkpoint

from moondream_station.core.facts.errors import (
    ArgumentInvalid,
    BackendError,
    StationError,
    UnknownFunction,
    WorkerTimeout,
)
from moondream_station.core.worker.worker_protocol import STREAM_WINDOW

Frame = dict[str, Any]


class Inbox:
    """Frames in order for one reader; an error ends them."""

    def __init__(self) -> None:
        self._frames: deque[Frame | StationError] = deque()
        self._arrived = anyio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame | StationError) -> None:
        """Add a frame, or the error that ends them."""
        self._frames.append(frame)
        self._arrived.set()

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


class Request:
    """One request that was sent to a worker.

    `has_begun` tells whether the worker works on it yet: one that dies before can't have done anything.
    `on_end` is called once, when the worker has sent the last frame or is gone. Until then the request
    occupies the worker, whether anybody still waits for it or not.
    """

    def __init__(
        self,
        number: int,
        subject: str,
        *,
        send: Callable[[Frame], None],
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.number = number
        self.subject = subject
        self.inbox = Inbox()
        self.ended = anyio.Event()
        self.has_begun = False
        self._send = send
        self._on_end = on_end
        self._unreported = 0

    @property
    def is_ended(self) -> bool:
        """Whether the worker is done with it, or gone."""
        return self.ended.is_set()

    def put(self, frame: Frame) -> bool:
        """Take a frame from the worker; False where it sends more than it was asked for."""
        self.inbox.put(frame)
        if frame["kind"] in {"result", "error", "end"}:
            self._end()
        return len(self.inbox) <= STREAM_WINDOW + 2

    def fail(self, error: StationError) -> None:
        """The worker is gone, and so is this request."""
        self.inbox.put(error)
        self._end()

    def abandon(self) -> None:
        """Nobody waits any more: tell the worker, which ends the call as soon as it can."""
        if not self.is_ended:
            self._send({"op": "cancel", "id": self.number})

    def consumed(self) -> None:
        """One chunk was used up: let the worker send more, twice a window."""
        self._unreported += 1
        if self._unreported >= STREAM_WINDOW // 2 and not self.is_ended:
            self._send({"op": "more", "id": self.number, "count": self._unreported})
            self._unreported = 0

    async def next_frame(self, timeout_seconds: float | None) -> Frame:
        """The next frame that isn't an error. Whoever leaves without one abandons the request."""
        arrived = False
        try:
            with anyio.fail_after(timeout_seconds):
                frame = await self.inbox.get()
            arrived = True
        except TimeoutError:
            raise WorkerTimeout(
                f"The backend did not answer `{self.subject}` within {timeout_seconds:g} s.",
                hint="Give the request a longer `timeout`, or raise inference_timeout.",
            ) from None
        finally:
            if not arrived:
                self.abandon()
        if frame["kind"] == "error":
            raise _error_from(frame, self.subject)
        return frame

    def _end(self) -> None:
        if not self.is_ended:
            self.ended.set()
            if self._on_end is not None:
                self._on_end()


class CallStream:
    """The chunks of a streamed answer. Use it up, or `aclose()` it: until then it occupies the worker."""

    def __init__(self, request: Request, key: str, *, timeout_seconds: float | None) -> None:
        self.key = key
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

    def abandon(self) -> None:
        """Give up what is left of the stream."""
        self._is_over = True
        self._request.abandon()

    async def aclose(self) -> None:
        """Give up what is left of the stream."""
        self.abandon()
        await checkpoint()


def _error_from(frame: Frame, subject: str) -> StationError:
    if frame["code"] == "unknown-function":
        return UnknownFunction(f"The active model has no function `{subject}`.")
    if frame.get("cause") == ArgumentInvalid.code:
        return ArgumentInvalid(frame["message"], hint=frame.get("hint"))
    return BackendError(frame["message"])
