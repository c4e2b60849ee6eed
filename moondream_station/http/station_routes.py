"""The station's own routes: its page, health, models, stats, status, switch, rollback, cancel, doctor."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moondream_station.core.facts.events import ActivationSucceeded
from moondream_station.core.facts.state import StationState
from moondream_station.http.answers import json_response
from moondream_station.http.api import StationApi
from moondream_station.http.arguments import JSON_TYPE, media_type, read_object
from moondream_station.http.connection import attend
from moondream_station.http.guard import Access
from moondream_station.http.refusals import ContentTypeUnsupported, MethodRefused, RequestInvalid

NOT_KNOWN: Final = "It was chosen before this station started; `moondream-station logs` shows how."
_FLAGS: Final = ("upgrade", "anyway", "accept_notice")
HEALTH: Final = {"status": "ok", "server": "moondream-station"}

Handler = Callable[[Request], Response | Awaitable[Response]]
"""Answers a request; a plain function where it has nothing to wait for."""


class Resource:
    """One path with a handler for GET (and HEAD), or for POST.

    A POST must have `Content-Type: application/json`: a page of another origin can send that only after a
    CORS preflight, which is never granted.
    """

    def __init__(self, method: Literal["GET", "POST"], handler: Handler) -> None:
        self._methods = ("GET", "HEAD") if method == "GET" else ("POST",)
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise why not."""
        request = Request(scope, receive)
        if request.method not in self._methods:
            methods = ", ".join(self._methods)
            raise MethodRefused(
                f"{request.url.path} takes {methods}, not {request.method}", headers={"Allow": methods}
            )
        if request.method == "POST" and media_type(request) != JSON_TYPE:
            raise ContentTypeUnsupported(
                f"{request.url.path} takes {JSON_TYPE}, not {media_type(request) or '(none)'!r}",
                hint=f"Send the header 'Content-Type: {JSON_TYPE}'.",
            )
        outcome = self._handler(request)
        response = outcome if isinstance(outcome, Response) else await outcome
        await response(scope, receive, send)


class StationRoutes:
    """The handlers of the station's own routes."""

    def __init__(self, station: StationApi, *, access: Access) -> None:
        self._station = station
        self._access = access

    async def models(self, _request: Request) -> Response:
        """`GET /v1/models`."""
        return json_response(await anyio.to_thread.run_sync(self._station.models))

    async def switch(self, request: Request) -> Response:
        """`POST /v1/station/switch`; `python` names a program to run, so it needs the token."""
        body = await read_object(request)
        model, strategy = _model(body), body.get("strategy")
        if not isinstance(strategy, str | None):
            raise RequestInvalid("'strategy' must be text: auto, guide or the name of a build")
        for name in _FLAGS:
            if not isinstance(body.get(name, False), bool):
                raise RequestInvalid(f"{name!r} must be true or false")
        python = body.get("python")
        if not isinstance(python, str | None) or (python is not None and not Path(python).is_absolute()):
            raise RequestInvalid("'python' must be the absolute path of an interpreter")
        _refuse_others(body, "A switch", "model", "strategy", *_FLAGS, "python")
        if python is not None:
            self._access.check_token(
                request.headers, "'python' names a program to run, and requires the station's token"
            )
        path = Path(python) if python else None
        flags = {name: bool(body.get(name)) for name in _FLAGS}
        return _accepted(self._station.request_switch(model, strategy, python=path, **flags))

    async def rollback(self, request: Request) -> Response:
        """`POST /v1/station/rollback`."""
        body = await read_object(request)
        model = _model(body)
        _refuse_others(body, "A rollback", "model")
        return _accepted(self._station.request_rollback(model))

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/station/cancel`; its body is empty or an object."""
        await read_object(request)
        return json_response({"activation": self._station.request_cancel()}, status=202)

    async def doctor(self, request: Request) -> Response:
        """`GET /v1/station/doctor`; a client that leaves cancels the examination."""
        await request.body()
        return json_response(await attend(self._station.doctor, request.scope))


def _accepted(activation: tuple[str, bool]) -> Response:
    return json_response(dict(zip(("activation", "joined"), activation, strict=True)), status=202)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestInvalid("'model' must be the id of a model", hint="GET /v1/models lists them.")
    return model


def _refuse_others(body: Mapping[str, Any], what: str, *fields: str) -> None:
    if unknown := sorted(body.keys() - set(fields)):
        raise RequestInvalid(f"{what} takes {', '.join(fields)}, not {unknown[0]!r}")


def load_page() -> str:
    """The page's source, with `{{why}}` where the reason for the active build goes."""
    return files("moondream_station.http").joinpath("status_page.html").read_text(encoding="utf-8")


def content_policy(page: str) -> str:
    """The strictest Content-Security-Policy that the page works with: its own style, script and station."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_digest(page, 'style')}",
            f"script-src {_digest(page, 'script')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def why(state: StationState) -> str:
    """Why the active model has its build, by the reason of its activation."""
    if state.active is None or state.last is None or state.last.activation.selection is None:
        return NOT_KNOWN
    outcome = state.last.outcome
    if not isinstance(outcome, ActivationSucceeded) or outcome.environment != state.active.environment:
        return NOT_KNOWN
    return state.last.activation.selection.reason


def status_page(station: StationApi) -> Callable[[Request], Response]:
    """The handler of the page; what changes in it comes from the station's other routes."""
    page = load_page()
    headers = {"Content-Security-Policy": content_policy(page), "Referrer-Policy": "no-referrer"}

    def get(_request: Request) -> Response:
        reason = html.escape(why(station.state))
        return Response(page.replace("{{why}}", reason), media_type="text/html", headers=headers)

    return get


def _digest(page: str, tag: str) -> str:
    """The source expression that allows the page's one inline element with this tag."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
