"""Counts what becomes of requests, workers and activations for as long as a station runs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from moondream_station.core.facts import errors
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    DownloadProgressed,
    Event,
    StopReason,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.facts.figures import (
    BUCKETS,
    ActivationStats,
    Durations,
    FunctionStats,
    Outcome,
    Stats,
    bucket_of,
    durations,
)

_REJECTED = (
    errors.ArgumentInvalid,
    errors.NoActiveModel,
    errors.UnknownFunction,
    errors.WorkerBusy,
    errors.WorkerLoading,
    errors.WorkerReplaced,
)
_NAMELESS = (errors.NoActiveModel, errors.UnknownFunction)
"""Where a function's name is whatever a client wrote: counted by it, anybody could fill the memory."""
_UNKNOWN = "unknown"
_RECENT = 256


def outcome_of(error: StationError | None) -> Outcome:
    """How a request ended that ended so."""
    if error is None:
        return Outcome.OK
    if isinstance(error, errors.WorkerTimeout):
        return Outcome.TIMEOUT
    return Outcome.REJECTED if isinstance(error, _REJECTED) else Outcome.ERROR


@dataclass(slots=True, eq=False)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def add(self, seconds: float) -> None:
        self.counts[bucket_of(seconds)] += 1
        self.seconds += seconds
        self.recent.append(seconds)

    def shown(self) -> Durations:
        return durations(self.counts, self.seconds, self.recent)


@dataclass(slots=True, eq=False)
class _Function:
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    tokens: int = 0
    taken: _Histogram = field(default_factory=_Histogram)


@dataclass(eq=False)
class Tally:
    """The counts. Everything is synchronous."""

    def __post_init__(self) -> None:
        self.started_at = datetime.now(UTC)
        self.restarts = 0
        self._crashes_to_mend = 0
        self._waited = _Histogram()
        self._functions: dict[str, _Function] = {}
        self._ended: Counter[type] = Counter()
        self._downloaded = 0
        self._last_download: tuple[str | None, int] = (None, 0)

    def waited(self, seconds: float) -> None:
        """A request has got its turn."""
        self._waited.add(seconds)

    def ended(
        self, function: str, outcome: Outcome, error: StationError | None, *, seconds: float, tokens: int
    ) -> None:
        """A request is over."""
        name = _UNKNOWN if isinstance(error, _NAMELESS) else function
        counted = self._functions.setdefault(name, _Function())
        counted.outcomes[outcome] += 1
        counted.tokens += tokens
        if outcome is Outcome.OK:
            counted.taken.add(seconds)

    def observe(self, event: Event) -> None:
        """A fact was published."""
        match event.fact:
            case WorkerStopped(reason=StopReason.CRASHED):
                self._crashes_to_mend += 1
            case WorkerStarted() if event.activation is None and self._crashes_to_mend:
                self._crashes_to_mend -= 1
                self.restarts += 1
            case ActivationSucceeded() | ActivationFailed() | ActivationCancelled():
                self._ended[type(event.fact)] += 1
            case DownloadProgressed(overall_transferred_bytes=transferred):
                activation, before = self._last_download
                is_further = activation == event.activation and transferred >= before
                self._downloaded += transferred - before if is_further else transferred
                self._last_download = (event.activation, transferred)
            case _:
                pass

    def stats(self, counters: Mapping[str, Any], *, limited: str | None) -> Stats:
        """All figures; `counters` are the pool's."""
        functions = (
            FunctionStats(
                function=name,
                requests={str(outcome): counted.outcomes[outcome] for outcome in Outcome},
                tokens=counted.tokens,
                seconds=counted.taken.shown(),
            )
            for name, counted in sorted(self._functions.items())
        )
        return Stats(
            **counters,
            started_at=self.started_at,
            workers_limited=limited,
            worker_restarts=self.restarts,
            waiting=self._waited.shown(),
            functions=tuple(functions),
            activations=ActivationStats(
                succeeded=self._ended[ActivationSucceeded],
                failed=self._ended[ActivationFailed],
                cancelled=self._ended[ActivationCancelled],
                downloaded_bytes=self._downloaded,
            ),
        )
