"""The station's own routes: health, models, counters, status, switch, rollback, cancel and doctor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moondream_station.http.answers import json_response
from moondream_station.http.api import StationApi
from moondream_station.http.arguments import JSON_TYPE, media_type, read_object
from moondream_station.http.attendance import End, attend
from moondream_station.http.guard import Access
from moondream_station.http.refusals import (
    ContentTypeUnsupported,
    MethodRefused,
    RequestInvalid,
    StationStopping,
)

HEALTH = {"status": "ok", "server": "moondream-station"}

Handler = Callable[[Request], Response | Awaitable[Response]]
"""Answers a request; a plain function where there is nothing to wait for."""


class Resource:
    """One path: a handler for GET (and HEAD), or one for POST.

    A POST must say that it brings JSON: a page of another origin can't do that without asking first, and
    nobody answers that question.

    Args:
        get: Answers GET and HEAD.
        post: Answers POST.
    """

    def __init__(self, *, get: Handler | None = None, post: Handler | None = None) -> None:
        self._handlers = {
            method: handler
            for method, handler in (("GET", get), ("HEAD", get), ("POST", post))
            if handler is not None
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise the `Refusal` that says why not."""
        request = Request(scope, receive)
        handler = self._handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(self._handlers)
            raise MethodRefused(
                f"{request.url.path} takes {allowed}, not {request.method}", headers={"Allow": allowed}
            )
        if request.method == "POST" and media_type(request) != JSON_TYPE:
            raise ContentTypeUnsupported(
                f"{request.url.path} takes {JSON_TYPE}, not {media_type(request) or '(none)'!r}",
                hint=f"Send the header 'Content-Type: {JSON_TYPE}'.",
            )
        outcome = handler(request)
        response = outcome if isinstance(outcome, Response) else await outcome
        await response(scope, receive, send)


class StationRoutes:
    """What the station's own paths answer.

    Args:
        station: Whom to ask.
        access: Who may ask for what.
        stopping: Set when the station is about to end.
    """

    def __init__(self, station: StationApi, *, access: Access, stopping: anyio.Event) -> None:
        self._station = station
        self._access = access
        self._stopping = stopping

    def health(self, _request: Request) -> Response:
        """`GET /health`: the server is there; says nothing of the model."""
        return json_response(HEALTH)

    def models(self, _request: Request) -> Response:
        """`GET /v1/models`."""
        return json_response(self._station.models())

    def stats(self, _request: Request) -> Response:
        """`GET /v1/stats`."""
        return json_response(self._station.stats())

    def status(self, _request: Request) -> Response:
        """`GET /v1/station`."""
        return json_response(self._station.status())

    async def switch(self, request: Request) -> Response:
        """`POST /v1/station/switch`; `python` names a program to run, and so only the station's user may."""
        wish = _switch_wish(await read_object(request))
        if wish.python is not None:
            self._access.check_token(
                request.headers, "'python' names a program, and asks for the station's token"
            )
        activation, joined = self._station.request_switch(
            wish.model,
            wish.strategy,
            upgrade=wish.upgrade,
            python=None if wish.python is None else Path(wish.python),
        )
        return json_response({"activation": activation, "joined": joined}, status=202)

    async def rollback(self, request: Request) -> Response:
        """`POST /v1/station/rollback`."""
        activation, joined = self._station.request_rollback(_rollback_wish(await read_object(request)))
        return json_response({"activation": activation, "joined": joined}, status=202)

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/station/cancel`; there is nothing to say in the body."""
        await read_object(request)
        return json_response({"activation": self._station.request_cancel()}, status=202)

    async def doctor(self, request: Request) -> Response:
        """`GET /v1/station/doctor`; a client that leaves ends the examination."""
        report: Mapping[str, Any] | None = None

        async def examine() -> None:
            nonlocal report
            report = await self._station.doctor()

        await request.body()
        end = await attend(examine, receive=request.receive, stopping=self._stopping)
        if report is None:
            raise (
                StationStopping("The station is stopping")
                if end is End.STATION_STOPPING
                else ClientDisconnect
            )
        return json_response(report)


class _Wish(NamedTuple):
    model: str
    strategy: str | None
    upgrade: bool
    python: str | None


def _switch_wish(body: Mapping[str, Any]) -> _Wish:
    model, strategy, upgrade = _model(body), body.get("strategy"), body.get("upgrade", False)
    if not isinstance(strategy, str | None):
        raise RequestInvalid("'strategy' must be text: auto, guide or the name of a build")
    if not isinstance(upgrade, bool):
        raise RequestInvalid("'upgrade' must be true or false")
    python = body.get("python")
    if not isinstance(python, str | None) or (python is not None and not Path(python).is_absolute()):
        raise RequestInvalid("'python' must be the absolute path of an interpreter")
    _refuse_others(body, "A switch", _Wish._fields)
    return _Wish(model, strategy, upgrade, python)


def _rollback_wish(body: Mapping[str, Any]) -> str:
    model = _model(body)
    _refuse_others(body, "A rollback", ("model",))
    return model


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestInvalid("'model' must be the id of a model", hint="GET /v1/models lists them.")
    return model


def _refuse_others(body: Mapping[str, Any], what: str, fields: Sequence[str]) -> None:
    if unknown := sorted(body.keys() - set(fields)):
        raise RequestInvalid(f"{what} takes {', '.join(fields)}, not {unknown[0]!r}")
