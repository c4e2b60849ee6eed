"""`POST /v1/FUNCTION` and `POST /FUNCTION`: the active backend's functions, as in Moondream Station 0.1."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moondream_station.core.facts.errors import BackendError, StationError, UnknownFunction, WorkerTimeout
from moondream_station.core.home.task_groups import as_raised
from moondream_station.http.answers import error_response, function_error, json_response, to_json
from moondream_station.http.api import StationApi
from moondream_station.http.arguments import FunctionCall, read_call
from moondream_station.http.connection import attend
from moondream_station.http.events_stream import EVENT_STREAM_HEADERS, FAREWELL_SECONDS
from moondream_station.http.refusals import MethodRefused

UNREAD_CHUNKS: Final = 1024
"""How much of a stream is kept for a client that reads more slowly than the backend computes."""


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


class Functions:
    """Calls the active backend's functions; a client that leaves and a station that stops cancel the call."""

    def __init__(self, station: StationApi) -> None:
        self._station = station

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
            await attend(exchange.run, scope)
        except StationError as error:
            await exchange.fail(error)
        finally:
            # Tracebacks of cancelled tasks keep the frames, and so an image, until the garbage is collected.
            call.arguments.clear()


@dataclass(slots=True)
class _Exchange:
    """One call and its answer, whole or streamed."""

    station: StationApi
    call: FunctionCall
    scope: Scope
    receive: Receive
    send: Send
    is_streaming: bool = False
    is_answered: bool = False
    last: bytes = b""
    started: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Call the function and answer."""
        call = self.call
        with as_raised():
            async with AsyncExitStack() as streaming:
                async with self.station.call(
                    call.function, call.arguments, timeout_seconds=call.timeout_seconds
                ) as answer:
                    if not isinstance(answer, Mapping):
                        self.is_streaming = True
                        tasks = await streaming.enter_async_context(anyio.create_task_group())
                        unread, read = anyio.create_memory_object_stream[bytes](UNREAD_CHUNKS)
                        tasks.start_soon(self._pass_on, read)
                        with unread:
                            await self._take(answer, unread)
                # Outside the call: a client that reads slowly must not hold the backend.
                if isinstance(answer, Mapping):
                    await self._respond(self._whole(answer))

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

    async def _take(self, chunks: AsyncIterator[Any], unread: MemoryObjectSendStream[bytes]) -> None:
        """Take the stream from the backend at its pace, up to its end or an error of either side."""
        patience = self.call.timeout_seconds or self.station.stats()["default_timeout"]
        count = 0
        try:
            async for chunk in chunks:
                with anyio.fail_after(patience):
                    await unread.send(_event({"chunk": chunk}))
                count += 1
            taken = measure(count, time.monotonic() - self.started)
            last: list[Mapping[str, Any]] = [{"stats": taken}, {"completed": True}]
        except TimeoutError:
            text = f"The client read nothing of its stream for {patience:g} s"
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
