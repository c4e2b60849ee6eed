"""`POST /v1/FUNCTION` and `POST /FUNCTION`: the active backend's functions, as in Moondream Station 0.1."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moondream_station.core.facts.errors import BackendError, StationError, UnknownFunction, WorkerTimeout
from moondream_station.core.facts.figures import count_tokens
from moondream_station.core.home.task_groups import as_raised
from moondream_station.http.api import ChunkStream, MethodRefused, StationApi
from moondream_station.http.connection import attend
from moondream_station.http.guard import client_of
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


def measure(tokens: int, seconds: float) -> dict[str, int | float]:
    """The statistics of a call, rounded as 0.1 does."""
    per_second = tokens / seconds if seconds > 0 else 0.0
    return {"tokens": tokens, "duration": round(seconds, 2), "tokens_per_sec": round(per_second, 1)}


@dataclass(slots=True)
class FunctionForm:
    """How the answer to one call is written: as Moondream Station 0.1 did, or as a subclass does."""

    streams_whole: ClassVar[bool] = False
    """Whether who asked for a stream gets one even from a backend that answers at once."""
    count: int = 0
    is_over: bool = False
    """Whether nothing more of the stream is wanted, so that the call can end."""
    began: float = field(default_factory=time.monotonic)

    def whole(self, answer: Mapping[str, Any]) -> Response:
        """A whole answer."""
        try:
            if answer.get("error"):
                return json_response({"status": "error", "code": BackendError.code, **answer}, status=500)
            return json_response({**answer, "_stats": self.taken(count_tokens(answer))})
        except (TypeError, ValueError) as error:
            raise BackendError(f"The backend's answer can't be written as JSON: {error}") from error

    def streamed(self, answer: Mapping[str, Any]) -> bytes:
        """A whole answer where a stream has begun."""
        return b"data: %b\n\n%b" % (bytes(self.whole(answer).body), event({"completed": True}))

    def progress(self, done: int, total: int | None, unit: str) -> bytes:
        """How far the answer is, before its first chunk."""
        return event({"progress": {"done": done, "total": total, "unit": unit}})

    def first(self, rest: Mapping[str, Any]) -> bytes:
        """What the answer holds beside its stream; as everything below, may be nothing."""
        rest = {name: value for name, value in rest.items() if name not in _OF_STREAMS}
        return event(rest) if rest else b""

    def chunk(self, chunk: Any) -> bytes:
        """A chunk of the stream."""
        self.count += 1
        return event({"chunk": chunk})

    def last(self) -> bytes:
        """The end of a stream that is complete."""
        return event({"stats": self.taken(self.count)}) + event({"completed": True})

    def failed(self, error: StationError) -> bytes:
        """The end of a stream that is not."""
        return event(function_error(error))

    def taken(self, tokens: int) -> dict[str, int | float]:
        """The statistics of the call."""
        return measure(tokens, time.monotonic() - self.began)


@dataclass(slots=True)
class SegmentForm(FunctionForm):
    """Streams an outline as the `moondream` client reads it: its box, pieces of a path, and the whole.

    A backend streams either the path's pieces, or what that client's own models do: objects with `bbox`,
    `chunk`, or `path` and `bbox`.
    """

    streams_whole: ClassVar[bool] = True
    outline: dict[str, Any] = field(default_factory=dict)

    def streamed(self, answer: Mapping[str, Any]) -> bytes:
        """The box, if there is one, and the whole outline."""
        if answer.get("error"):
            raise BackendError(f"{answer['error']}")
        self.count = count_tokens(answer)
        self.outline = dict(answer)
        return self._box() + self.last()

    def first(self, rest: Mapping[str, Any]) -> bytes:
        """The box, where the backend knows it before the path."""
        self.outline = dict(rest)
        return self._box()

    def chunk(self, chunk: Any) -> bytes:
        """A piece of the path, or what is known of the outline by now."""
        self.count += 1
        update = chunk if isinstance(chunk, Mapping) else {"chunk": chunk}
        if "chunk" in update:
            self.outline["path"] = f"{self.outline.get('path', '')}{update['chunk']}"
            return event({"type": "path_delta", "chunk": update["chunk"], "completed": False})
        self.outline |= update
        return b"" if "path" in update else self._box()

    def last(self) -> bytes:
        """The statistics, and the whole outline."""
        final = {"path": "", "bbox": None, **self.outline, "type": "final", "completed": True}
        return event({"stats": self.taken(self.count)}) + event(final)

    def _box(self) -> bytes:
        box = self.outline.get("bbox")
        return event({"type": "bbox", "bbox": box}) if box else b""


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
    form = SegmentForm() if name == "segment" else FunctionForm()
    await answer_call(Exchange(station, name, arguments, timeout_seconds, form, scope, receive, send))


async def answer_call(exchange: Exchange) -> None:
    """Call and answer, for as long as the client is there and the station serves."""
    try:
        await attend(exchange.run, exchange.scope)
    except StationError as error:
        await exchange.fail(error)
    finally:
        # Tracebacks of cancelled tasks keep the frames, and so an image, until the garbage is collected.
        exchange.arguments.clear()


@dataclass(slots=True)
class Exchange:
    """One call and its answer, whole or streamed."""

    station: StationApi
    function: str
    arguments: dict[str, Any]
    timeout_seconds: float | None
    """None for the configured default."""
    form: FunctionForm
    scope: Scope
    receive: Receive
    send: Send
    is_streaming: bool = False
    is_answered: bool = False
    last: bytes = b""

    async def run(self) -> None:
        """Call the function and answer."""
        if not self.arguments.get("stream"):
            async with self.station.call(
                self.function,
                self.arguments,
                timeout_seconds=self.timeout_seconds,
                client=client_of(self.scope),
            ) as answer:
                assert isinstance(answer, Mapping)  # noqa: S101  only who asks for a stream gets one
            await self._respond(self.form.whole(answer))
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
                unread.send_nowait(self.form.progress(done, total, unit))

        try:
            async with self.station.call(
                self.function,
                self.arguments,
                timeout_seconds=self.timeout_seconds,
                progress=tell,
                client=client_of(self.scope),
            ) as answer:
                if not isinstance(answer, Mapping):
                    stream()
                    await self._take(answer, unread)
                    return None
            if not self.is_streaming and not self.form.streams_whole:
                return self.form.whole(answer)
            self.last = self.form.streamed(answer)
            stream()
        except StationError as error:
            if not self.is_streaming:
                raise
            self.last = self.form.failed(error)
        return None

    async def fail(self, error: StationError) -> None:
        """Answer with an error, or end the stream with it; nothing where the answer was complete."""
        if self.is_answered:
            return
        if not self.is_streaming:
            await self._respond(error_response(self.scope["path"], error))
            return
        with anyio.move_on_after(FAREWELL_SECONDS):
            await self._send_body(self.form.failed(error), more=False)

    async def _respond(self, response: Response) -> None:
        self.is_answered = True
        await response(self.scope, self.receive, self.send)

    async def _take(self, chunks: ChunkStream, unread: MemoryObjectSendStream[bytes]) -> None:
        """Take the stream from the backend at its pace, up to its end or an error of either side."""
        patience = self.timeout_seconds or self.station.stats()["default_timeout"]
        try:
            if first := self.form.first(chunks.rest):
                await unread.send(first)
            async for chunk in chunks:
                if piece := self.form.chunk(chunk):
                    with anyio.fail_after(patience):
                        await unread.send(piece)
                if self.form.is_over:
                    break
            self.last = self.form.last()
        except TimeoutError:
            text = f"The client has read nothing of its stream for {patience:g} s"
            self.last = self.form.failed(WorkerTimeout(text, hint="Read it as it comes."))
        except StationError as error:
            self.last = self.form.failed(error)

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


def event(data: Mapping[str, Any]) -> bytes:
    """A message of a stream."""
    try:
        return b"data: %b\n\n" % to_json(data)
    except (TypeError, ValueError) as error:
        raise BackendError(f"A chunk of the backend's answer can't be written as JSON: {error}") from error
