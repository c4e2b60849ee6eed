"""Answers on the wire: JSON, errors in the shape of their route, and the end of those whose client leaves."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive

from moondream_station.core.facts import errors
from moondream_station.core.facts.errors import StationError
from moondream_station.core.home.task_groups import as_raised
from moondream_station.http.refusals import Refusal, StationStopping
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


async def attend(
    work: Callable[[TaskGroup], Awaitable[None]],
    *,
    receive: Receive,
    stopping: anyio.Event,
    patience_seconds: float = 0.0,
) -> None:
    """Work for a client until the work ends, the client leaves or the station stops.

    The work may start tasks in the group it is given; they end with it. `receive` is the request's ASGI
    channel, its body already read, so that only the disconnect is left. When the station stops, the work may
    continue for `patience_seconds`. Raises `ClientDisconnect` or `StationStopping` where that ended it.
    """
    end: Exception | None = None

    async def until_gone() -> None:
        nonlocal end
        while (await receive())["type"] != "http.disconnect":
            pass
        end = ClientDisconnect()
        attending.cancel_scope.cancel()

    async def until_stopping() -> None:
        nonlocal end
        await stopping.wait()
        with anyio.move_on_after(patience_seconds):
            await anyio.sleep_forever()
        end = StationStopping("The station is stopping")
        attending.cancel_scope.cancel()

    with as_raised():
        async with anyio.create_task_group() as attending:
            attending.start_soon(until_gone)
            attending.start_soon(until_stopping)
            await work(attending)
            end = None
            attending.cancel_scope.cancel()
    if end is not None:
        raise end
