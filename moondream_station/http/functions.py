"""`POST /v1/FUNCTION` and `POST /FUNCTION`: the active backend's functions, as in Moondream Station 0.1."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from enum import Enum, auto
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moondream_station.core.facts.errors import BackendError, StationError, UnknownFunction
from moondream_station.http.answers import error_response, function_error, json_response, to_json
from moondream_station.http.api import StationApi
from moondream_station.http.arguments import FunctionCall, read_call
from moondream_station.http.attendance import attend
from moondream_station.http.events_stream import EVENT_STREAM_HEADERS, FAREWELL_SECONDS
from moondream_station.http.refusals import MethodRefused


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
        exchange = _Exchange(self._station, await read_call(request, name), scope, receive, send)
        try:
            await attend(exchange.run, receive=receive, stopping=self._stopping)
        except StationError as error:
            await exchange.fail(error)


class _Phase(Enum):
    CALLING = auto()
    STREAMING = auto()
    ANSWERED = auto()


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
        self._phase = _Phase.CALLING
        self._started = time.monotonic()

    async def run(self) -> None:
        """Call the function and answer."""
        call = self._call
        async with self._station.call(
            call.function, call.arguments, timeout_seconds=call.timeout_seconds
        ) as answer:
            if not isinstance(answer, Mapping):
                await self._stream(answer)
                return
        # Outside the call: a client that reads slowly must not hold the backend.
        await self._respond(self._whole(answer))

    async def fail(self, error: StationError) -> None:
        """Answer with an error, or end the stream with it; nothing where the answer was complete."""
        match self._phase:
            case _Phase.CALLING:
                await self._respond(error_response(self._scope["path"], error))
            case _Phase.STREAMING:
                with anyio.move_on_after(FAREWELL_SECONDS):
                    await self._send_data(function_error(error))
                    await self._end_stream()
            case _Phase.ANSWERED:
                pass

    def _whole(self, answer: Mapping[str, Any]) -> Response:
        try:
            if answer.get("error"):
                return json_response({"status": "error", "code": BackendError.code, **answer}, status=500)
            taken = measure(count_tokens(answer), time.monotonic() - self._started)
            return json_response({**answer, "_stats": taken})
        except (TypeError, ValueError) as error:
            raise BackendError(f"The backend's answer can't be written as JSON: {error}") from error

    async def _respond(self, response: Response) -> None:
        self._phase = _Phase.ANSWERED
        await response(self._scope, self._receive, self._send)

    async def _stream(self, chunks: AsyncIterator[Any]) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        self._phase = _Phase.STREAMING
        count = 0
        async for chunk in chunks:
            await self._send_data({"chunk": chunk})
            count += 1
        await self._send_data({"stats": measure(count, time.monotonic() - self._started)})
        await self._send_data({"completed": True})
        await self._end_stream()

    async def _send_data(self, data: Mapping[str, Any]) -> None:
        try:
            body = b"data: %b\n\n" % to_json(data)
        except (TypeError, ValueError) as error:
            raise BackendError(
                f"A chunk of the backend's answer can't be written as JSON: {error}"
            ) from error
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _end_stream(self) -> None:
        self._phase = _Phase.ANSWERED
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
