"""The application: guard, routes, and the one boundary where errors become answers."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moondream_station.core.facts.errors import StationError
from moondream_station.core.home.log import Log
from moondream_station.http.answers import error_response, is_station_path, json_response
from moondream_station.http.api import StationApi
from moondream_station.http.events_stream import COMMENT_SECONDS, EventStream
from moondream_station.http.functions import Functions
from moondream_station.http.guard import Access, Guard
from moondream_station.http.refusals import RouteUnknown
from moondream_station.http.routes import ROUTES
from moondream_station.http.station_routes import HEALTH, Handler, Resource, StationRoutes, status_page

_log = Log()


def create_app(station: StationApi, *, access: Access, comment_seconds: float = COMMENT_SECONDS) -> ASGIApp:
    """The ASGI application of a serving station, for `server.serve` alone."""
    routes = StationRoutes(station, access=access)
    functions = Functions(station)
    events = EventStream(station, comment_seconds=comment_seconds)

    async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
        if is_station_path(scope["path"]):
            raise RouteUnknown(f"There is no route {scope['path']}")
        await functions(scope, receive, send)

    handlers: Mapping[str, Handler] = {
        "/": status_page(station),
        "/health": lambda _: json_response(HEALTH),
        "/v1/models": routes.models,
        "/v1/stats": lambda _: json_response(station.stats()),
        "/v1/station": lambda _: json_response(station.status()),
        "/v1/station/switch": routes.switch,
        "/v1/station/rollback": routes.rollback,
        "/v1/station/cancel": routes.cancel,
        "/v1/station/doctor": routes.doctor,
    }

    router = Router(
        [
            Route(route.path, events if route.is_stream else Resource(route.method, handlers[route.path]))
            for route in ROUTES
        ],
        redirect_slashes=False,
        default=elsewhere,
    )
    return Boundary(Guard(router, access=access))


class Boundary:
    """Turns every error into an answer, and unexpected ones into a log entry too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, always."""
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
            await self._app(scope, receive, send_plain)
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
