"""Every path of the station's own, and what is published about it: the application serves this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteInfo:
    """A path of the station's own.

    Args:
        method: What it takes; GET includes HEAD, but for a stream.
        path: The path.
        gives: What it answers, in a sentence's second half.
        answer: The schema of the answer, by its name below docs/reference/schemas; None where it is no JSON.
        status: The status of that answer.
        request: The schema of the body, likewise; None where nothing needs saying in it.
        is_stream: Whether it goes on answering, with one answer of that schema after the other.
    """

    method: Literal["GET", "POST"]
    path: str
    gives: str
    answer: str | None
    status: int = 200
    request: str | None = None
    is_stream: bool = False


ROUTES: Final = (
    RouteInfo(method="GET", path="/", gives="the status page", answer=None),
    RouteInfo(
        method="GET",
        path="/health",
        gives="that the server runs, whatever the model does; the one route that never needs the token",
        answer="health",
    ),
    RouteInfo(method="GET", path="/v1/models", gives="the manifest's models", answer="models"),
    RouteInfo(method="GET", path="/v1/stats", gives="counters of the inference queue", answer="stats"),
    RouteInfo(method="GET", path="/v1/station", gives="the station's status", answer="status"),
    RouteInfo(
        method="GET",
        path="/v1/station/events",
        gives="its events as they are published, a snapshot first",
        answer="event",
        is_stream=True,
    ),
    RouteInfo(
        method="POST",
        path="/v1/station/switch",
        gives="makes another model the active one",
        answer="switch-answer",
        status=202,
        request="switch-request",
    ),
    RouteInfo(
        method="POST",
        path="/v1/station/rollback",
        gives="takes the active model back to the environment it had before",
        answer="switch-answer",
        status=202,
        request="rollback-request",
    ),
    RouteInfo(
        method="POST",
        path="/v1/station/cancel",
        gives="ends the running activation",
        answer="cancel-answer",
        status=202,
    ),
    RouteInfo(method="GET", path="/v1/station/doctor", gives="the doctor's report", answer="doctor"),
)
"""The station's own paths; every other one may name a backend's function."""
