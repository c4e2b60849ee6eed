"""Answers on the wire: JSON, and errors in the shape of their route."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from starlette.responses import Response

from moondream_station.core.facts import errors
from moondream_station.core.facts.errors import StationError
from moondream_station.http.refusals import Refusal
from moondream_station.http.routes import ROUTES

_STATUS: Final[Mapping[str, int]] = {
    kind.code: status
    for status, kinds in {
        400: (errors.UsageError, errors.ArgumentInvalid),
        404: (errors.UnknownModel, errors.UnknownFunction),
        409: (errors.UnsupportedModel, errors.NothingToCancel, errors.NothingToRollBack),
        429: (errors.WorkerBusy,),
        503: (errors.NoActiveModel, errors.WorkerLoading, errors.WorkerReplaced),
        504: (errors.WorkerTimeout,),
    }.items()
    for kind in kinds
}
"""HTTP statuses of the station's errors, by code; every other one is 500."""

_PASSING: Final = frozenset({errors.WorkerBusy.code, errors.WorkerLoading.code, errors.WorkerReplaced.code})
"""What is over soon: the same request may succeed a second later, and then waits by itself."""


_STATION_PATHS: Final = frozenset(route.path for route in ROUTES)


def is_station_path(path: str) -> bool:
    """Whether a path is one of the station's own; any other may name a backend's function."""
    return path in _STATION_PATHS or path.startswith("/v1/station/")


def to_json(value: Any) -> bytes:
    """Encode as JSON in ASCII, so that no line break or lone surrogate in a text breaks a stream.

    Raises:
        ValueError: It holds NaN or an infinity.
        TypeError: It holds a type that JSON does not have.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(
        to_json(value), status_code=status, media_type="application/json", headers=dict(headers or {})
    )


def status_of(error: StationError) -> int:
    """The HTTP status of an error."""
    return error.status if isinstance(error, Refusal) else _STATUS.get(error.code, 500)


def function_error(error: StationError) -> dict[str, str]:
    """An error in the shape of FUNCTION routes, which Moondream Station 0.1 had."""
    kind = {504: "timeout", 500: "error"}.get(status_of(error), "rejected")
    text = f"{error.message.rstrip('.')}. {error.hint}" if error.hint else error.message
    shape = {"error": text, "status": kind, "code": error.code}
    if isinstance(error, errors.ArgumentInvalid) and error.argument is not None:
        shape["argument"] = error.argument
    return shape


def error_response(path: str, error: StationError) -> Response:
    """The answer to a request that failed, in the shape of its route."""
    headers = dict(error.headers) if isinstance(error, Refusal) else {}
    if error.code in _PASSING:
        headers["Retry-After"] = "1"
    if is_station_path(path):
        shape: Mapping[str, Any] = {"error": asdict(error.info)}
    else:
        shape = function_error(error)
    return json_response(shape, status=status_of(error), headers=headers)
