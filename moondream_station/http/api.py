"""The one interface that the routes need from the station."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from moondream_station.core.facts.events import Event
from moondream_station.core.facts.state import StationState

Answer: TypeAlias = Mapping[str, Any] | AsyncIterator[Any]
"""What a function returns: its whole answer, or the chunks of a streamed one as they arise."""


class EventFeed(Protocol):
    """A subscription to events.

    Iterating ends when the bus closes, and raises `SubscriberOverflowed` where the reader was too slow.
    """

    @property
    def state(self) -> StationState:
        """The state at the moment of subscribing; the first event of the iteration follows it."""
        ...

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events, in order."""
        ...


class StationApi(Protocol):
    """A serving station, as HTTP sees it. What is not `async` returns at once, but for `models`."""

    @property
    def state(self) -> StationState:
        """Everything there is to show, as of now."""
        ...

    def status(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/station`."""
        ...

    def models(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/models`; reads a file, so call it in a thread."""
        ...

    def stats(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/stats`."""
        ...

    def functions(self) -> frozenset[str]:
        """Names of the active backend's functions; empty while no backend is active."""
        ...

    def call(
        self, function: str, arguments: Mapping[str, Any], *, timeout_seconds: float | None
    ) -> AbstractAsyncContextManager[Answer]:
        """Call a function of the active backend; leaving the context early cancels the call.

        Args:
            function: One of `functions()`.
            arguments: Keyword arguments, JSON values only.
            timeout_seconds: Limit for the whole call; None for the configured default.

        Raises:
            NoActiveModel: No model is active.
            StationError: The queue is full, time is up, or the backend failed; also while iterating over a
                streamed answer.
        """
        ...

    def request_switch(
        self, model: str, strategy: str | None, *, upgrade: bool, python: Path | None
    ) -> tuple[str, bool]:
        """Request that a model becomes the active one.

        Returns:
            The activation's id, and whether it was running already for the same model and strategy.

        Raises:
            UnknownModel: The manifest has no such model.
            UsageError: There is no such strategy.
        """
        ...

    def request_rollback(self, model: str) -> tuple[str, bool]:
        """Request that the active model goes back to its previous environment; returns as `request_switch`.

        Raises:
            UnknownModel: The manifest has no such model.
            NothingToRollBack: It has no previous environment, or is not the active one.
        """
        ...

    def request_cancel(self) -> str:
        """Request the end of the running activation, and return its id.

        Raises:
            NothingToCancel: None runs.
        """
        ...

    def subscribe(self, *, after: int | None = None) -> AbstractAsyncContextManager[EventFeed]:
        """Subscribe to the events after `after` (a sequence number), or from now on.

        Raises:
            HistoryGone: `after` is no longer in the history.
        """
        ...

    async def doctor(self) -> Mapping[str, Any]:
        """Examine the machine and the station, as `doctor --json` does."""
        ...
