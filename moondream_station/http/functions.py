"""`POST /v1/FUNCTION` and `POST /FUNCTION`: the active backend's functions, as in Moondream Station 0.1."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moondream_station.core.facts.errors import BackendError, StationError, UnknownFunction, WorkerTimeout
from moondream_station.http.answers import error_response, function_error, json_response, to_json
from moondream_station.http.api import StationApi
from moondream_station.http.arguments import FunctionCall, read_call
from moondream_station.http.attendance import attend
from moondream_station.http.events_stream import EVENT_STREAM_HEADERS, FAREWELL_SECONDS
from moondream_station.http.refusals import MethodRefused

UNREAD_BYTES: Final = 1 << 20
"""How much of a stream is kept for a client that reads more slowly than the backend computes."""


def function_name(path: str) -> str:
    """The function that a path names by its first part (`/v1/chat/completions` is `chat`).

    Raises:
        UnknownFunction: The path names none.
    """
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


class Functions:
    """Calls the active backend's functions; a client that leaves and a station that stops cancel the call."""

    def __init__(self, station: StationApi, *, stopping: anyio.Event) -> None:
        self._station = station
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise why not."""
        request = Request(scope, receive)
        name = function_name(request.url.path)
        known = self._station.functions()
        if known and name not in known:
            raise UnknownFunction(
                f"The active model has no function {name!r}", hint=f"It has: {', '.join(sorted(known))}."
            )
        if request.method != "POST":
            raise MethodRefused(f"{name} takes POST, not {request.method}", headers={"Allow": "POST"})
        call = await read_call(request, name)
        exchange = _Exchange(self._station, call, scope, receive, send)
        try:
            await attend(exchange.run, receive=receive, stopping=self._stopping)
        except StationError as error:
            await exchange.fail(error)
        finally:
            # Tracebacks of cancelled tasks keep the frames, and so an image, until the garbage is collected.
            call.arguments.clear()


class _Unread:
    """What a client has not read yet of a stream: bounded, so that a call waits for a slow client.

    The backend's chunks are put in at its own pace, and taken out together at the client's.
    """

    def __init__(self, most_bytes: int = UNREAD_BYTES) -> None:
        self.is_ended = False
        self.passed_on = anyio.Event()
        self._most_bytes = most_bytes
        self._bytes = bytearray()
        self._changed = anyio.Event()

    def put(self, data: bytes) -> None:
        """Put something in, also over the bound."""
        self._bytes += data
        self._change()

    async def wait_for_room(self, seconds: float) -> None:
        """Wait until less than the bound is in it."""
        await checkpoint()
        try:
            with anyio.fail_after(seconds):
                while len(self._bytes) >= self._most_bytes:
                    await self._changed.wait()
        except TimeoutError:
            raise WorkerTimeout(
                f"The client read nothing of its stream for {seconds:g} s", hint="Read it as it comes."
            ) from None

    def take(self) -> bytes:
        """Take everything out."""
        data, self._bytes = bytes(self._bytes), bytearray()
        self._change()
        return data

    async def wait_for_more(self) -> bool:
        """Wait until something is in it; False at the end."""
        while not self._bytes and not self.is_ended:
            await self._changed.wait()
        return bool(self._bytes)

    def end(self) -> None:
        """Nothing more comes."""
        self.is_ended = True
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class _Exchange:
    """One call and its answer, whole or streamed."""

    def __init__(
        self, station: StationApi, call: FunctionCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._station = station
        self._call = call
        self._scope = scope
        self._receive = receive
        self._send = send
        self._unread: _Unread | None = None
        self._is_answered = False
        self._started = time.monotonic()

    async def run(self, tasks: TaskGroup) -> None:
        """Call the function and answer."""
        call, unread = self._call, _Unread()
        async with self._station.call(
            call.function, call.arguments, timeout_seconds=call.timeout_seconds
        ) as answer:
            if not isinstance(answer, Mapping):
                self._unread = unread
                tasks.start_soon(self._pass_on, unread)
                await self._take(answer, unread)
        # Outside the call: a client that reads slowly must not hold the backend.
        if isinstance(answer, Mapping):
            await self._respond(self._whole(answer))
        else:
            await unread.passed_on.wait()

    async def fail(self, error: StationError) -> None:
        """Answer with an error, or end the stream with it; nothing where the answer was complete."""
        if self._unread is None and not self._is_answered:
            await self._respond(error_response(self._scope["path"], error))
        elif self._unread is not None and not self._is_answered:
            with anyio.move_on_after(FAREWELL_SECONDS):
                self._unread.put(_event(function_error(error)))
                await self._send_body(self._unread.take(), more=False)

    def _whole(self, answer: Mapping[str, Any]) -> Response:
        try:
            if answer.get("error"):
                return json_response({"status": "error", "code": BackendError.code, **answer}, status=500)
            taken = measure(count_tokens(answer), time.monotonic() - self._started)
            return json_response({**answer, "_stats": taken})
        except (TypeError, ValueError) as error:
            raise BackendError(f"The backend's answer can't be written as JSON: {error}") from error

    async def _respond(self, response: Response) -> None:
        self._is_answered = True
        await response(self._scope, self._receive, self._send)

    async def _take(self, chunks: AsyncIterator[Any], unread: _Unread) -> None:
        """Take the stream from the backend, up to its end or an error of either side."""
        patience = self._call.timeout_seconds or self._station.stats()["default_timeout"]
        count = 0
        try:
            async for chunk in chunks:
                unread.put(_event({"chunk": chunk}))
                await unread.wait_for_room(patience)
                count += 1
            unread.put(_event({"stats": measure(count, time.monotonic() - self._started)}))
            unread.put(_event({"completed": True}))
        except StationError as error:
            unread.put(_event(function_error(error)))
        unread.end()

    async def _pass_on(self, unread: _Unread) -> None:
        """Send the stream to the client."""
        await self._send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        while await unread.wait_for_more():
            await self._send_body(unread.take(), more=True)
        await self._send_body(b"", more=False)
        unread.passed_on.set()

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        self._is_answered = not more
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _event(data: Mapping[str, Any]) -> bytes:
    try:
        return b"data: %b\n\n" % to_json(data)
    except (TypeError, ValueError) as error:
        raise BackendError(f"A chunk of the backend's answer can't be written as JSON: {error}") from error
