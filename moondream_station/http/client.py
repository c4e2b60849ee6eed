"""A client of a serving station, for the command line; raises the station's errors as their own classes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeAlias

import anyio
import httpx2

from moondream_station.core.facts import errors
from moondream_station.core.facts.errors import (
    ArgumentInvalid,
    StationError,
    StationUnreachable,
    WorkerFailed,
)
from moondream_station.http import api

Message: TypeAlias = dict[str, Any]

_ANSWER_SECONDS: Final = 10.0
_GOODBYE_SECONDS: Final = 1.0
_SILENCE_SECONDS: Final = 40.0
"""After this long without data (two comments are missed) an event stream is taken for dead."""
_RECONNECT_SECONDS: Final = (0.0, 0.1, 0.5, 1.0, 2.0)
_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
_KINDS: Final = {
    kind.code: kind
    for module in (api, errors)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, StationError)
}


class Accepted(NamedTuple):
    """An activation that the station accepted; `joined` if it was running already."""

    activation: str
    joined: bool


class StationClient:
    """Talks to one station; an async context manager.

    Every method raises `StationUnreachable` where no station answers at the address (a base URL), and the
    station's own error as the class with its code.
    """

    def __init__(
        self, address: str, *, token: str | None = None, pauses: Sequence[float] = _RECONNECT_SECONDS
    ) -> None:
        self._address = address
        self._pauses = pauses
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # trust_env: a proxy from the environment could not reach loopback.
        self._http = httpx2.AsyncClient(
            base_url=address, headers=headers, timeout=_ANSWER_SECONDS, trust_env=False
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.move_on_after(_GOODBYE_SECONDS, shield=True):
            await self._http.aclose()

    async def is_healthy(self) -> bool:
        """Whether a Moondream Station answers at this address."""
        try:
            health = await self._ask("GET", "/health")
        except StationError:
            return False
        return health.get("server") == "moondream-station"

    async def status(self) -> Message:
        """The status shape."""
        return await self._ask("GET", "/v1/station")

    async def models(self) -> Message:
        """The models shape, without what OpenAI's clients read."""
        answer = await self._ask("GET", "/v1/models")
        return {name: value for name, value in answer.items() if name not in {"object", "data"}}

    async def openapi(self) -> Message:
        """Its OpenAPI document."""
        return await self._ask("GET", "/openapi.json")

    async def switch(
        self,
        model: str,
        strategy: str | None = None,
        *,
        upgrade: bool = False,
        python: Path | None = None,
        anyway: bool = False,
        accept_notice: bool = False,
    ) -> Accepted:
        """Request that a model becomes the active one; `python` needs the station's token."""
        options = {
            "strategy": strategy,
            "upgrade": upgrade,
            "python": python and str(python),
            "anyway": anyway,
            "accept_notice": accept_notice,
        }
        body = {"model": model, **{name: value for name, value in options.items() if value}}
        return Accepted(**await self._ask("POST", "/v1/station/switch", body))

    async def rollback(self, model: str) -> Accepted:
        """Request that the active model goes back to its previous environment."""
        return Accepted(**await self._ask("POST", "/v1/station/rollback", {"model": model}))

    async def cancel(self) -> str:
        """Request the end of the running activation, and return its id."""
        return str((await self._ask("POST", "/v1/station/cancel", {}))["activation"])

    async def stop(self) -> Message:
        """End the active model's worker; gives the model, and whether a worker ran."""
        return await self._ask("POST", "/v1/station/stop", {})

    async def figures(self) -> tuple[Message, Message]:
        """What the station has done since it started, and what memory and disk it has."""
        return await self._ask("GET", "/v1/stats"), await self._ask("GET", "/v1/station/usage")

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Message:
        """A function's whole answer. The station says when it takes too long."""
        async with self._function(function, arguments) as response:
            return _object(self._address, response)

    @asynccontextmanager
    async def stream(
        self, function: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[AsyncIterator[Message], None]:
        """A function's answer as it comes: `chunk`s, then `stats`; whole, where the backend does not stream.

        When the context is left early, the station ends the call.
        """
        async with self._function(function, {**arguments, "stream": True}) as response:
            yield self._messages(response)

    async def _messages(self, response: httpx2.Response) -> AsyncGenerator[Message, None]:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            yield _object(self._address, response)
            return
        async for event in httpx2.EventSource(response, max_event_size=_MAX_MESSAGE_BYTES):
            message = _object(self._address, event)
            if "code" in message and "error" in message:
                raise _error_of(message)
            yield message
            if message.get("completed"):
                return
        raise WorkerFailed(
            "The answer broke off.", hint="`moondream-station status` shows whether it serves."
        )

    @asynccontextmanager
    async def _function(
        self, function: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[httpx2.Response, None]:
        """The answer to a call that succeeded, whole but for an event stream."""
        timeout = httpx2.Timeout(_ANSWER_SECONDS, read=None, write=None)
        try:
            async with self._http.stream(
                "POST", f"/v1/{function}", json=arguments, timeout=timeout
            ) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    await response.aread()
                if not response.is_success:
                    raise _error(self._address, response)
                yield response
        except httpx2.TransportError as error:
            raise _unreachable(self._address, error) from error

    @asynccontextmanager
    async def follow(self, *, after: int | None = None) -> AsyncGenerator[AsyncIterator[Message], None]:
        """Follow the station's events, subscribed when the context is entered.

        A broken connection is resumed. Messages are events as JSON and `Snapshot`s: the first message without
        `after` (a sequence number), and wherever the history does not reach back. Ends only with
        `StationUnreachable`.
        """
        feed = _Feed(self._http, self._address, after, self._pauses)
        try:
            await feed.begin()
            yield feed
        finally:
            with anyio.move_on_after(_GOODBYE_SECONDS, shield=True):
                await feed.close()

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Message:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx2.TransportError as error:
            raise _unreachable(self._address, error) from error
        if not response.is_success:
            raise _error(self._address, response)
        return _object(self._address, response)


@dataclass(eq=False)
class _Feed(AsyncIterator[Message]):
    """One event stream, over as many connections as needed."""

    http: httpx2.AsyncClient
    address: str
    after: int | None
    pauses: Sequence[float]
    first: Message | None = None
    connection: AsyncExitStack = field(default_factory=AsyncExitStack)
    events: AsyncIterator[httpx2.ServerSentEvent] | None = None

    async def begin(self) -> None:
        """Connect, and wait for the snapshot if one comes first: from then on nothing is missed."""
        await self._connect()
        if self.after is None:
            self.first = await anext(self)

    async def _connect(self) -> None:
        headers = {} if self.after is None else {"Last-Event-ID": str(self.after)}
        timeout = httpx2.Timeout(_ANSWER_SECONDS, read=_SILENCE_SECONDS)
        stream = self.http.stream("GET", "/v1/station/events", headers=headers, timeout=timeout)
        try:
            response = await self.connection.enter_async_context(stream)
            if not response.is_success:
                await response.aread()
        except httpx2.TransportError as error:
            raise _unreachable(self.address, error) from error
        if not response.is_success:
            raise _error(self.address, response)
        events = self.events = aiter(httpx2.EventSource(response, max_event_size=_MAX_MESSAGE_BYTES))
        if isinstance(events, AsyncGenerator):
            self.connection.push_async_callback(events.aclose)

    async def close(self) -> None:
        self.events = None
        await self.connection.aclose()

    async def __anext__(self) -> Message:
        """The next message, over a new connection where the current one broke."""
        if (first := self.first) is not None:
            self.first = None
            return first
        pauses = iter(self.pauses)
        while True:
            event = None
            with suppress(httpx2.TransportError):
                event = await anext(self.events, None) if self.events is not None else None
            if event is not None:
                self.after = int(event.id)
                return _object(self.address, event)
            await self._reconnect(pauses)

    async def _reconnect(self, pauses: Iterator[float]) -> None:
        for pause in pauses:
            await self.close()
            await anyio.sleep(pause)
            try:
                await self._connect()
            except StationUnreachable:
                continue
            return
        raise StationUnreachable(
            f"The station at {self.address} no longer answers",
            hint="`moondream-station serve` starts it.",
        )


def _unreachable(address: str, error: Exception) -> StationUnreachable:
    return StationUnreachable(
        f"No station answers at {address}: {str(error) or type(error).__name__}",
        hint="`moondream-station serve` starts one.",
    )


def _error(address: str, response: httpx2.Response) -> StationError:
    """The station's error, as the class with its code."""
    data = _object(address, response)
    if isinstance(data.get("error"), str) and "code" in data:
        return _error_of(data)
    error = data.get("error")
    if not isinstance(error, dict):
        return _no_station(address)
    kind = _KINDS.get(str(error.get("code")), StationError)
    return kind(str(error.get("message")), hint=error.get("hint"))


def _error_of(answer: Mapping[str, Any]) -> StationError:
    """The error that a function's answer is, with its one sentence for message and hint."""
    error = _KINDS.get(str(answer["code"]), StationError)(str(answer["error"]))
    if isinstance(error, ArgumentInvalid):
        error.argument = answer.get("argument")
    return error


def _object(address: str, answer: httpx2.Response | httpx2.ServerSentEvent) -> Message:
    try:
        content = answer.json()
    except ValueError as error:
        raise _no_station(address) from error
    if not isinstance(content, dict):
        raise _no_station(address)
    return content


def _no_station(address: str) -> StationUnreachable:
    return StationUnreachable(
        f"The server at {address} is not a Moondream Station",
        hint="`moondream-station doctor --fix` removes a stale station.json; `serve` starts another.",
    )
