"""`POST /v1/FUNCTION` and `POST /FUNCTION`: the active backend's functions, as in Moondream Station 0.1."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moondream_station.core.facts.errors import BackendError, StationError, UnknownFunction, WorkerTimeout
from moondream_station.core.home.task_groups import as_raised
from moondream_station.http.api import ChunkStream, MethodRefused, StationApi
from moondream_station.http.connection import attend
from moondream_station.http.messages import (
    EVENT_STREAM_HEADERS,
    FAREWELL_SECONDS,
    error_response,
    function_error,
    json_response,
    read_call,
    to_json,
)

UNREAD_CHUNKS: Final = 1024
"""How much of a stream is kept for a client that reads more slowly than the backend computes."""
_OF_STREAMS: Final = frozenset({"progress", "chunk", "stats", "completed", "error", "status", "code"})
"""What events of a stream say with these keys; an answer's own parts of these names are left out."""


def function_name(path: str) -> str:
    """The function that a path names by its first part (`/v1/chat/completions` is `chat`)."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["v1"]:
        parts = parts[1:]
    if not parts or not parts[0].isidentifier() or parts[0].startswith("_"):
        raise UnknownFunction(f"There is no route {path}")
    return parts[0]


def count_tokens(answer: Mapping[str, Any]) -> int:
    """The tokens of a whole answer as 0.1 counts them: the words of its texts."""
    return sum(len(value.split()) for value in answer.values() if isinstance(value, str))


def measure(tokens: int, seconds: float) -> dict[str, int | float]:
    """The statistics of a call, rounded as 0.1 does."""
    per_second = tokens / seconds if seconds > 0 else 0.0
    return {"tokens": tokens, "duration": round(seconds, 2), "tokens_per_sec": round(per_second, 1)}


async def call_function(station: StationApi, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request to a function, or raise why not.

    A client that leaves and a station that stops cancel the call.
    """
    request = Request(scope, receive)
    name = function_name(request.url.path)
    known = station.functions()
    if known and name not in known:
        raise UnknownFunction(
            f"The active model has no function {name!r}", hint=f"It has: {', '.join(sorted(known))}."
        )
    if request.method != "POST":
        raise MethodRefused(f"{name} takes POST, not {request.method}", headers={"Allow": "POST"})
    arguments, timeout_seconds = await read_call(request)
    exchange = _Exchange(station, name, arguments, timeout_seconds, scope, receive, send)
    try:
        await attend(exchange.run, scope)
    except StationError as error:
        await exchange.fail(error)
    finally:
        # Tracebacks of cancelled tasks keep the frames, and so an image, until the garbage is collected.
        arguments.clear()


@dataclass(slots=True)
class _Exchange:
    """One call and its answer, whole or streamed."""

    station: StationApi
    function: str
    arguments: dict[str, Any]
    timeout_seconds: float | None
    """None for the configured default."""
    scope: Scope
    receive: Receive
    send: Send
    is_streaming: bool = False
    is_answered: bool = False
    last: bytes = b""
    started: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Call the function and answer."""
        if not self.arguments.get("stream"):
            async with self.station.call(
                self.function, self.arguments, timeout_seconds=self.timeout_seconds
            ) as answer:
                assert isinstance(answer, Mapping)  # noqa: S101  only who asks for a stream gets one
            await self._respond(self._whole(answer))
            return
        unread, read = anyio.create_memory_object_stream[bytes](UNREAD_CHUNKS)
        # What is sent is sent outside the call: a client that reads slowly must not hold the backend.
        with as_raised(), read:
            async with anyio.create_task_group() as passing_on:
                with unread:
                    whole = await self._stream(
                        unread, lambda: passing_on.start_soon(self._pass_on, read.clone())
                    )
            if whole is not None:
                await self._respond(whole)

    async def _stream(
        self, unread: MemoryObjectSendStream[bytes], begin: Callable[[], object]
    ) -> Response | None:
        """Call the function; gives its whole answer, None where that is streamed.

        A stream begins as soon as the backend says how far it is: its first word may take minutes.
        """

        def stream() -> None:
            if not self.is_streaming:
                self.is_streaming = True
                begin()

        def tell(done: int, total: int | None, unit: str) -> None:
            stream()
            with suppress(anyio.WouldBlock):
                unread.send_nowait(_event({"progress": {"done": done, "total": total, "unit": unit}}))

        try:
            async with self.station.call(
                self.function, self.arguments, timeout_seconds=self.timeout_seconds, progress=tell
            ) as answer:
                if not isinstance(answer, Mapping):
                    stream()
                    await self._take(answer, unread)
                    return None
            whole = self._whole(answer)
        except StationError as error:
            if not self.is_streaming:
                raise
            self.last = _event(function_error(error))
            return None
        if not self.is_streaming:
            return whole
        self.last = b"data: %b\n\n%b" % (bytes(whole.body), _event({"completed": True}))
        return None

    async def fail(self, error: StationError) -> None:
        """Answer with an error, or end the stream with it; nothing where the answer was complete."""
        if self.is_answered:
            return
        if not self.is_streaming:
            await self._respond(error_response(self.scope["path"], error))
            return
        with anyio.move_on_after(FAREWELL_SECONDS):
            await self._send_body(_event(function_error(error)), more=False)

    def _whole(self, answer: Mapping[str, Any]) -> Response:
        try:
            if answer.get("error"):
                return json_response({"status": "error", "code": BackendError.code, **answer}, status=500)
            taken = measure(count_tokens(answer), time.monotonic() - self.started)
            return json_response({**answer, "_stats": taken})
        except (TypeError, ValueError) as error:
            raise BackendError(f"The backend's answer can't be written as JSON: {error}") from error

    async def _respond(self, response: Response) -> None:
        self.is_answered = True
        await response(self.scope, self.receive, self.send)

    async def _take(self, chunks: ChunkStream, unread: MemoryObjectSendStream[bytes]) -> None:
        """Take the stream from the backend at its pace, up to its end or an error of either side."""
        patience = self.timeout_seconds or self.station.stats()["default_timeout"]
        count = 0
        rest = {name: value for name, value in chunks.rest.items() if name not in _OF_STREAMS}
        try:
            if rest:
                await unread.send(_event(rest))
            async for chunk in chunks:
                with anyio.fail_after(patience):
                    await unread.send(_event({"chunk": chunk}))
                count += 1
            taken = measure(count, time.monotonic() - self.started)
            last: list[Mapping[str, Any]] = [{"stats": taken}, {"completed": True}]
        except TimeoutError:
            text = f"The client has read nothing of its stream for {patience:g} s"
            last = [function_error(WorkerTimeout(text, hint="Read it as it comes."))]
        except StationError as error:
            last = [function_error(error)]
        self.last = b"".join(map(_event, last))

    async def _pass_on(self, read: MemoryObjectReceiveStream[bytes]) -> None:
        """Send the stream to the client at its own pace."""
        await self.send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        with read:
            async for event in read:
                await self._send_body(event, more=True)
        await self._send_body(self.last, more=False)

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        self.is_answered = not more
        await self.send({"type": "http.response.body", "body": body, "more_body": more})


def _event(data: Mapping[str, Any]) -> bytes:
    try:
        return b"data: %b\n\n" % to_json(data)
    except (TypeError, ValueError) as error:
        raise BackendError(f"A chunk of the backend's answer can't be written as JSON: {error}") from error
