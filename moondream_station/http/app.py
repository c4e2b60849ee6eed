"""The application: the station's own routes and events, and the boundary where an error is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import anyio
import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import HistoryGone, StationError, SubscriberOverflowed, UnknownModel
from moondream_station.core.facts.state import status
from moondream_station.core.home.log import Log
from moondream_station.core.home.task_groups import accompanied
from moondream_station.http.api import (
    ROUTES,
    ContentTypeUnsupported,
    McpDisabled,
    MethodRefused,
    RouteUnknown,
    StationApi,
    StationStopping,
)
from moondream_station.http.connection import attend
from moondream_station.http.functions import call_function
from moondream_station.http.guard import Access, guarded
from moondream_station.http.inspection import ACTIVATION_PATH, inspection_handlers
from moondream_station.http.messages import (
    CHAT_PATH,
    EVENT_STREAM_HEADERS,
    FAREWELL_SECONDS,
    JSON_TYPE,
    MCP_PATH,
    MODEL_PATH,
    error_response,
    is_station_path,
    json_response,
    media_type,
    read_object,
    to_json,
)
from moondream_station.http.page.files import page_files, page_handler

_HEALTH: Final = {"status": "ok", "server": "moondream-station"}

_Handler: TypeAlias = Callable[[Request], Response | Awaitable[Response]]
"""Answers a request; a plain function where it has nothing to wait for."""

COMMENT_SECONDS: Final = 15.0
"""How often a stream sends a comment, so that neither proxies nor clients take it for dead."""

_log = Log()


def create_app(
    station: StationApi,
    *,
    access: Access,
    mcp: ASGIApp | None = None,
    comment_seconds: float = COMMENT_SECONDS,
) -> ASGIApp:
    """The ASGI application of a serving station, for `server.serve` alone; `mcp` is that of agents."""
    handlers: Mapping[str, _Handler] = {
        "/health": lambda _: json_response(_HEALTH),
        "/openapi.json": partial(_openapi, station),
        "/v1/models": partial(_models, station),
        "/v1/models/{id}": partial(_model_by_id, station),
        "/v1/stats": lambda _: json_response(station.figures()),
        "/metrics": partial(_metrics, station),
        "/v1/station": lambda _: json_response(station.status()),
        "/v1/station/switch": partial(_switch, station, access),
        "/v1/station/rollback": partial(_rollback, station),
        "/v1/station/cancel": partial(_cancel, station),
        "/v1/station/stop": partial(_stop, station),
        "/v1/station/doctor": partial(_doctor, station),
        **inspection_handlers(station.inspection),
    }
    own: Mapping[str, ASGIApp] = {
        **{
            route.path: partial(_resource, route.method, handlers[route.path])
            for route in ROUTES
            if route.path in handlers
        },
        **{
            path: partial(_resource, "GET", page_handler(media_type, content))
            for path, media_type, content in page_files()
        },
        "/v1/station/events": partial(_send_events, station, comment_seconds),
        CHAT_PATH: partial(_complete_chat, station),
        MCP_PATH: mcp or _refuse_agents,
    }

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in own:
            await own[path](scope, receive, send)
        elif path.startswith(MODEL_PATH):
            await own["/v1/models/{id}"](scope, receive, send)
        elif path.startswith(ACTIVATION_PATH):
            await own[f"{ACTIVATION_PATH}{{id}}"](scope, receive, send)
        elif is_station_path(path):
            raise RouteUnknown(f"There is no route {path}")
        else:
            await call_function(station, scope, receive, send)

    return partial(_answer, guarded(routed, access=access))


async def _answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, always: an error too, and an unexpected one is logged as well."""
    has_started = False

    async def send_plain(message: Message) -> None:
        nonlocal has_started
        if message["type"] == "http.response.start":
            has_started = True
            headers = MutableHeaders(scope=message)
            headers.setdefault("Cache-Control", "no-store")
            headers.setdefault("X-Content-Type-Options", "nosniff")
        await send(message)

    try:
        await app(scope, receive, send_plain)
    except ClientDisconnect:
        return
    except StationError as error:
        failure = error
    except Exception as error:  # noqa: BLE001  the boundary of HTTP: a bug of ours is answered too
        _log.exception("request failed", method=scope["method"], path=scope["path"])
        # Without its text, which may hold paths of this computer or data of the request.
        failure = StationError(
            f"Internal error (a bug in Moondream Station): {type(error).__name__}",
            hint="The station's log has the traceback; please report it.",
        )
    else:
        return
    if not has_started:
        await error_response(scope["path"], failure)(scope, receive, send_plain)


async def _resource(
    method: Literal["GET", "POST"], handler: _Handler, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer GET (and HEAD), or POST, by a handler.

    A POST must have `Content-Type: application/json`: a page of another origin can send that only after a
    CORS preflight, which is never granted.
    """
    request, path = Request(scope, receive), scope["path"]
    methods = ("GET", "HEAD") if method == "GET" else ("POST",)
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise MethodRefused(f"{path} takes {allowed}, not {request.method}", headers={"Allow": allowed})
    if request.method == "POST" and media_type(request) != JSON_TYPE:
        raise ContentTypeUnsupported(
            f"{path} takes {JSON_TYPE}, not {media_type(request) or '(none)'!r}",
            hint=f"Send the header 'Content-Type: {JSON_TYPE}'.",
        )
    outcome = handler(request)
    response = outcome if isinstance(outcome, Response) else await outcome
    await response(scope, receive, send)


async def _openapi(station: StationApi, _request: Request) -> Response:
    def describe() -> Response:
        from moondream_station.http.openapi import document  # noqa: PLC0415  150 ms of making schemas

        return json_response(document(station.signatures()))

    return await anyio.to_thread.run_sync(describe)


async def _models(station: StationApi, _request: Request) -> Response:
    models = await anyio.to_thread.run_sync(station.models)
    # The active one first: programs take the first by default.
    ordered = sorted(models["models"], key=lambda model: not model["active"])
    data = [_as_openai(model["id"]) for model in ordered]
    return json_response({**models, "object": "list", "data": data})


async def _model_by_id(station: StationApi, request: Request) -> Response:
    name = request.scope["path"].removeprefix(MODEL_PATH)
    models = await anyio.to_thread.run_sync(station.models)
    if all(model["id"] != name for model in models["models"]):
        raise UnknownModel(f"There is no model {name!r}", hint="GET /v1/models lists them.")
    return json_response(_as_openai(name))


def _as_openai(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "moondream-station"}


async def _complete_chat(station: StationApi, scope: Scope, receive: Receive, send: Send) -> None:
    from moondream_station.http.openai import complete_chat  # noqa: PLC0415  4 ms that only chats should pay

    await complete_chat(station, scope, receive, send)


async def _refuse_agents(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise McpDisabled(
        "This station serves no agents over HTTP",
        hint='Let the agent run `moondream-station mcp`, or set "mcp": true in config.json and serve again.',
    )


async def _switch(station: StationApi, access: Access, request: Request) -> Response:
    """`python` names a program to run, so it needs the token."""
    from moondream_station.http.requests import SwitchRequest  # noqa: PLC0415  2 ms that starting should not pay

    wish = SwitchRequest.read(await read_object(request))
    if wish.python is not None:
        access.check_token(
            request.headers, "'python' names a program to run, and requires the station's token"
        )
    return _accepted(
        *station.request_switch(
            wish.model,
            wish.strategy,
            upgrade=wish.upgrade,
            python=Path(wish.python) if wish.python else None,
            anyway=wish.anyway,
            accept_notice=wish.accept_notice,
        )
    )


async def _rollback(station: StationApi, request: Request) -> Response:
    from moondream_station.http.requests import RollbackRequest  # noqa: PLC0415  as above

    return _accepted(*station.request_rollback(RollbackRequest.read(await read_object(request)).model))


async def _cancel(station: StationApi, request: Request) -> Response:
    """Its body is empty or an object."""
    await read_object(request)
    return json_response({"activation": station.request_cancel()}, status=202)


async def _metrics(station: StationApi, _request: Request) -> Response:
    from moondream_station.http.metrics.exposition import CONTENT_TYPE, metrics_text  # noqa: PLC0415  see there

    figures, usage = station.figures(), await station.inspection.usage()
    content = await anyio.to_thread.run_sync(metrics_text, figures, usage)
    return Response(content, headers={"Content-Type": CONTENT_TYPE})


async def _stop(station: StationApi, request: Request) -> Response:
    """Its body is empty or an object."""
    await read_object(request)
    return json_response(await station.stop(), status=202)


async def _doctor(station: StationApi, request: Request) -> Response:
    """A client that leaves cancels the examination."""
    await request.body()
    return json_response(await attend(station.doctor, request.scope))


def _accepted(activation: str, joined: bool) -> Response:  # noqa: FBT001  as the station gives it
    return json_response({"activation": activation, "joined": joined}, status=202)


async def _send_events(
    station: StationApi, comment_seconds: float, scope: Scope, _receive: Receive, send: Send
) -> None:
    """Send a client the bus's events at its own speed, until it leaves or the station stops.

    A client that reads too slowly overflows its own subscription only, and gets a snapshot, as does one
    without `Last-Event-ID` or with one that is no longer in the history.
    """
    if scope["method"] != "GET":
        raise MethodRefused("/v1/station/events takes GET", headers={"Allow": "GET"})
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
    follow = partial(_follow, station, last_event_id(Headers(scope=scope)), send)
    follow_alive = partial(accompanied, follow, by=partial(_comment, comment_seconds, send))
    with suppress(StationStopping):  # what was published before the station began to stop is still sent
        await attend(follow_alive, scope, patience_seconds=FAREWELL_SECONDS)
    with anyio.move_on_after(FAREWELL_SECONDS):
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _follow(station: StationApi, after: int | None, send: Send) -> None:
    while True:
        try:
            async with station.subscribe(after=after) as feed:
                if after is None:
                    state = feed.state
                    snapshot = {"event": "Snapshot", "seq": state.seq, "state": status(state)}
                    await send(_message(state.seq, snapshot))
                async for event in feed:
                    await send(_message(event.seq, event_to_json(event)))
        except (HistoryGone, SubscriberOverflowed):
            after = None
        else:
            return


async def _comment(seconds: float, send: Send) -> None:
    while True:
        await anyio.sleep(seconds)
        await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})


def _message(seq: int, data: dict[str, Any]) -> dict[str, Any]:
    body = b"id: %d\ndata: %b\n\n" % (seq, to_json(data))
    return {"type": "http.response.body", "body": body, "more_body": True}


def last_event_id(headers: Headers) -> int | None:
    """The sequence number to resume after; None without a valid one."""
    text = headers.get("last-event-id", "")
    # Sequence numbers are microseconds since 1970: 20 digits last for three million years.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None  # noqa: PLR2004
