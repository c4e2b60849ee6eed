"""The one interface that the routes need from the station."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from moondream_station.core.facts.events import Event
from moondream_station.core.facts.state import StationState

Progress: TypeAlias = Callable[[int, int | None, str], object]
"""Called with how far a call is: done, total where known, and of what."""


class ChunkStream(Protocol):
    """The chunks of a streamed answer, as they arise."""

    @property
    def rest(self) -> Mapping[str, Any]:
        """What the answer holds beside them."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the chunks; may also fail."""


Answer: TypeAlias = Mapping[str, Any] | ChunkStream
"""What a function returns: its whole answer, or a streamed one."""


class EventFeed(Protocol):
    """A subscription to events; ends when the bus closes, raises `SubscriberOverflowed` for a slow reader."""

    @property
    def state(self) -> StationState:
        """The state at the moment of subscribing; the first event follows it."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events, in order."""


class StationApi(Protocol):
    """A serving station, as HTTP sees it. What is not `async` returns at once, but for `models`.

    Whatever can't be done is a `StationError` with its own code.
    """

    @property
    def state(self) -> StationState:
        """Everything there is to show, as of now."""

    def status(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/station`."""

    def models(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/models`; reads a file, so call it in a thread."""

    def stats(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/stats`."""

    def functions(self) -> frozenset[str]:
        """Names of the active backend's functions; empty while no backend is active."""

    def call(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        timeout_seconds: float | None,
        progress: Progress = lambda *_: None,
    ) -> AbstractAsyncContextManager[Answer]:
        """Call a function of the active backend with JSON values; leaving the context early cancels the call.

        Without a limit the configured one counts. `progress` may be called until the context is entered.
        """

    def request_switch(
        self,
        model: str,
        strategy: str | None,
        *,
        upgrade: bool,
        python: Path | None,
        anyway: bool,
        accept_notice: bool,
    ) -> tuple[str, bool]:
        """Request a model to become the active one; gives the activation's id, and whether it ran already."""

    def request_rollback(self, model: str) -> tuple[str, bool]:
        """Request the active model to go back to its previous environment; returns as `request_switch`."""

    def request_cancel(self) -> str:
        """Request the end of the running activation, and return its id."""

    def subscribe(self, *, after: int | None = None) -> AbstractAsyncContextManager[EventFeed]:
        """Subscribe to the events after a sequence number (or `HistoryGone`), or from now on."""

    async def doctor(self) -> Mapping[str, Any]:
        """Examine the machine and the station, as `doctor --json` does."""
