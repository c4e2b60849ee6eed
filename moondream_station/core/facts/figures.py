"""What a station has done since it started, in figures: `/v1/stats`, `/metrics` and `status` show them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import accumulate
from statistics import median
from typing import Any, Final, Literal

BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bounds of the histograms, in seconds: from a function that looks a pixel up to a caption on a CPU."""


class Outcome(StrEnum):
    """How a request ended; the last is that its client left."""

    OK = "ok"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    ERROR = "error"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """How many took at most `le` seconds."""

    le: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long something took.

    Args:
        count: How often it was measured.
        sum: Seconds altogether.
        median: Half of the last 256 took at most so many seconds; null without any.
        p95: As the median, for 95 %.
        buckets: How many took at most so long, each with those before it.
    """

    count: int
    sum: float
    median: float | None
    p95: float | None
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStats:
    """What became of the requests for one function.

    Args:
        function: Its name; `unknown` for what no active model has.
        requests: How many ended, by how: `ok`, `rejected`, `timeout`, `error`, `cancelled`.
        tokens: Words of whole answers, and pieces of streams, of all together.
        seconds: From the request to the end of its answer, for those that were answered.
    """

    function: str
    requests: Mapping[str, int]
    tokens: int
    seconds: Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationStats:
    """The activations that ended, by how, and what they downloaded."""

    succeeded: int
    failed: int
    cancelled: int
    downloaded_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Figures since the station started; the first nine as Moondream Station 0.1 had them.

    Args:
        workers: How many requests are answered at the same time; 0 while no worker runs.
        queue_size: Requests that wait.
        max_queue_size: How many may wait.
        processing: Requests that are being answered.
        timeouts: Requests that were not answered in time.
        default_timeout: Seconds that a request may take that names no `timeout`.
        model: The model that is served.
        status: `running`, or `stopped` where no model is active.
        requests_processed: Requests that a worker was done with.
        started_at: When the station started.
        workers_limited: Why fewer requests are answered at once than `inference_workers` says.
        worker_restarts: How often a worker was started again after it had crashed.
        waiting: How long requests waited for their turn.
        functions: What became of requests, by function.
        activations: What became of activations.
    """

    workers: int
    queue_size: int
    max_queue_size: int
    processing: int
    timeouts: int
    default_timeout: float
    model: str | None
    status: Literal["running", "stopped"]
    requests_processed: int
    started_at: datetime
    workers_limited: str | None
    worker_restarts: int
    waiting: Durations
    functions: tuple[FunctionStats, ...]
    activations: ActivationStats


def count_tokens(answer: Mapping[str, Any]) -> int:
    """The tokens of a whole answer as 0.1 counts them: the words of its texts."""
    return sum(len(value.split()) for value in answer.values() if isinstance(value, str))


def bucket_of(seconds: float) -> int:
    """Which bucket a duration belongs to; the one after the last has no bound."""
    return bisect_left(BUCKETS, seconds)


def durations(counts: Sequence[int], total_seconds: float, recent: Collection[float]) -> Durations:
    """The shape of what was measured.

    Args:
        counts: How many fell into each bucket, the one without a bound last.
        total_seconds: All of them together.
        recent: The last of them, which median and 95 % are of.
    """
    up_to = list(accumulate(counts))
    ranked = sorted(recent)
    return Durations(
        count=up_to[-1],
        sum=round(total_seconds, 6),
        median=round(median(ranked), 6) if ranked else None,
        p95=round(ranked[math.ceil(0.95 * len(ranked)) - 1], 6) if ranked else None,
        buckets=tuple(Bucket(le=le, count=count) for le, count in zip(BUCKETS, up_to, strict=False)),
    )
