"""The station's own routes: the application and docs/reference/routes.md are made from this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteInfo:
    """A route.

    Args:
        method: GET includes HEAD, but for a stream.
        path: The path.
        gives: What it answers, for the reference.
        answer: The answer's schema, by its name below docs/reference/schemas; None where it is not JSON.
        status: The answer's status.
        request: The body's schema, likewise; None where it is empty.
        is_stream: Whether it streams answers of that schema.
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
        gives="that the server runs, whatever the model does; never needs the token",
        answer="health",
    ),
    RouteInfo(method="GET", path="/v1/models", gives="the manifest's models", answer="models"),
    RouteInfo(method="GET", path="/v1/stats", gives="counters of the inference queue", answer="stats"),
    RouteInfo(method="GET", path="/v1/station", gives="the station's status", answer="status"),
    RouteInfo(
        method="GET",
        path="/v1/station/events",
        gives="the events as they are published, after a snapshot",
        answer="event",
        is_stream=True,
    ),
    RouteInfo(
        method="POST",
        path="/v1/station/switch",
        gives="activates a model",
        answer="switch-answer",
        status=202,
        request="switch-request",
    ),
    RouteInfo(
        method="POST",
        path="/v1/station/rollback",
        gives="rolls the active model back to its previous environment",
        answer="switch-answer",
        status=202,
        request="rollback-request",
    ),
    RouteInfo(
        method="POST",
        path="/v1/station/cancel",
        gives="cancels the running activation",
        answer="cancel-answer",
        status=202,
    ),
    RouteInfo(method="GET", path="/v1/station/doctor", gives="the doctor's report", answer="doctor"),
)
"""The station's own; any other path may name a backend's function."""
