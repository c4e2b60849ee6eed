"""The station's own routes: the application and docs/reference/routes.md are made from this table."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class RouteInfo(NamedTuple):
    """A route; schemas are named as they are below docs/reference/schemas, and None is no JSON."""

    method: Literal["GET", "POST"]
    """GET includes HEAD, but for a stream."""
    path: str
    gives: str
    answer: str | None
    request: str | None = None
    is_stream: bool = False

    @property
    def status(self) -> int:
        """The answer's status: what is asked for by POST is done later."""
        return 202 if self.method == "POST" else 200


_EVENTS: Final = "the events as they are published, after a snapshot"
_ROLLBACK: Final = "rolls the active model back to its previous environment"

ROUTES: Final = (
    RouteInfo("GET", "/", "the status page", None),
    RouteInfo(
        "GET", "/health", "that the server runs, whatever the model does; never needs the token", "health"
    ),
    RouteInfo("GET", "/v1/models", "the manifest's models", "models"),
    RouteInfo("GET", "/v1/stats", "counters of the inference queue", "stats"),
    RouteInfo("GET", "/v1/station", "the station's status", "status"),
    RouteInfo("GET", "/v1/station/events", _EVENTS, "event", is_stream=True),
    RouteInfo("POST", "/v1/station/switch", "activates a model", "switch-answer", "switch-request"),
    RouteInfo("POST", "/v1/station/rollback", _ROLLBACK, "switch-answer", "rollback-request"),
    RouteInfo("POST", "/v1/station/cancel", "cancels the running activation", "cancel-answer"),
    RouteInfo("GET", "/v1/station/doctor", "the doctor's report", "doctor"),
)
"""The station's own; any other path may name a backend's function."""
