"""What the routes need from the station, and nothing else of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from moondream_station.core.facts.events import Event
from moondream_station.core.facts.state import StationState

Answer: TypeAlias = Mapping[str, Any] | AsyncIterator[Any]
"""What a function gives: its whole answer, or the chunks of a streamed one as they arise."""


class EventFeed(Protocol):
    """A subscription: the state when it began, then every event from there on.

    Iterating ends when the bus closes and raises `SubscriberOverflowed` where the reader was too slow.
    """

    @property
    def state(self) -> StationState:
        """The state at the moment of subscribing; the first event of the iteration follows it."""
        ...

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events, in order."""
        ...


class StationApi(Protocol):
    """A serving station, as seen by HTTP. Everything that is not `async` answers at once."""

    @property
    def state(self) -> StationState:
        """Everything there is to show, as of now."""
        ...

    def status(self) -> Mapping[str, Any]:
        """The status shape, as `GET /v1/station` gives it."""
        ...

    def models(self) -> Mapping[str, Any]:
        """The manifest's models, as `GET /v1/models` gives them."""
        ...

    def stats(self) -> Mapping[str, Any]:
        """Counters of the inference queue, as `GET /v1/stats` gives them."""
        ...

    def functions(self) -> frozenset[str]:
        """Names of the active backend's functions; empty while no backend is active."""
        ...

    def call(
        self, function: str, arguments: Mapping[str, Any], *, timeout_seconds: float | None
    ) -> AbstractAsyncContextManager[Answer]:
        """Let the active backend run a function; leaving the context before the end cancels it.

        Args:
            function: One of `functions()`.
            arguments: Keyword arguments for it, JSON values only.
            timeout_seconds: For the whole call; None for the configured default.

        Raises:
            NoActiveModel: No model is active.
            StationError: The queue is full, the time is over, or the backend failed; also while iterating
                over a streamed answer.
        """
        ...

    def request_switch(
        self, model: str, strategy: str | None, *, upgrade: bool, python: Path | None
    ) -> tuple[str, bool]:
        """Ask for a model to become the active one.

        Args:
            model: The model's id.
            strategy: How its build is chosen, None for the station's setting.
            upgrade: Whether to resolve anew although an environment exists.
            python: The interpreter to make the environment from, None for the station's own.

        Returns:
            The activation's id, and whether it was running already for the same model and strategy.

        Raises:
            UnknownModel: The manifest has no such model.
            UsageError: There is no such strategy.
        """
        ...

    def request_rollback(self, model: str) -> tuple[str, bool]:
        """Ask for the active model to go back to the environment that it had before.

        Returns:
            The activation's id, and whether it was running already.

        Raises:
            UnknownModel: The manifest has no such model.
            NothingToRollBack: It had no environment before, or is not the active one.
        """
        ...

    def request_cancel(self) -> str:
        """Ask the running activation to end, and return its id.

        Raises:
            NothingToCancel: None runs.
        """
        ...

    def subscribe(self, *, after: int | None = None) -> AbstractAsyncContextManager[EventFeed]:
        """Follow the events: those after `after` from the history, or only what comes from now on.

        Raises:
            HistoryGone: `after` is no longer in the history.
        """
        ...

    async def doctor(self) -> Mapping[str, Any]:
        """Look at the machine and the station, as `doctor --json` does."""
        ...
