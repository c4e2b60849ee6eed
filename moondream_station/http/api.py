"""HTTP in data: the routes, what they need from the station, and how a request is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol, TypeAlias

from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.events import Event
from moondream_station.core.facts.functions import Signature
from moondream_station.core.facts.state import StationState


class RouteInfo(NamedTuple):
    """A route; schemas are named as they are below docs/reference/schemas, and None is no JSON."""

    method: Literal["GET", "POST"]
    """GET includes HEAD, but for a stream."""
    path: str
    gives: str
    answer: str | None
    request: str | None = None
    is_stream: bool = False
    query: Mapping[str, str] = MappingProxyType({})
    """The parameters of its query, and what each is."""

    @property
    def status(self) -> int:
        """The answer's status: what is asked of the station by POST is done later."""
        return 202 if self.path.startswith("/v1/station/") and self.method == "POST" else 200


_EVENTS: Final = "the events as they are published, after a snapshot"
_MCP: Final = "the active model's functions as tools of MCP, where the setting `mcp` is true"
_PLAN: Final = {"model": "The id of the model.", "strategy": "`auto`, `guide` or a build; else the setting."}
_LOGS: Final = {"model": "The id of the model; else the active one."}
_ROLLBACK: Final = "rolls the active model back to its previous environment"

ROUTES: Final = (
    RouteInfo("GET", "/", "the status page", None),
    RouteInfo(
        "GET", "/health", "that the server runs, whatever the model does; never needs the token", "health"
    ),
    RouteInfo("GET", "/openapi.json", "this list with all shapes, as OpenAPI 3.1", "openapi"),
    RouteInfo("GET", "/v1/models", "the manifest's models, in OpenAI's form too", "models"),
    RouteInfo("GET", "/v1/models/{id}", "one of them, in OpenAI's form", "model"),
    RouteInfo(
        "POST",
        "/v1/chat/completions",
        "completes a chat, as OpenAI's API does",
        "chat-completion",
        "chat-request",
    ),
    RouteInfo("POST", "/mcp", _MCP, "mcp-message", "mcp-message"),
    RouteInfo("GET", "/v1/stats", "figures since the station started", "stats"),
    RouteInfo("GET", "/metrics", "the same, with memory and disk, as Prometheus scrapes it", None),
    RouteInfo("GET", "/v1/station", "the station's status", "status"),
    RouteInfo("GET", "/v1/station/events", _EVENTS, "event", is_stream=True),
    RouteInfo("POST", "/v1/station/switch", "activates a model", "switch-answer", "switch-request"),
    RouteInfo("POST", "/v1/station/rollback", _ROLLBACK, "switch-answer", "rollback-request"),
    RouteInfo("POST", "/v1/station/cancel", "cancels the running activation", "cancel-answer"),
    RouteInfo("POST", "/v1/station/stop", "ends the worker; the next request starts it", "stop-answer"),
    RouteInfo("GET", "/v1/station/doctor", "the doctor's report", "doctor"),
    RouteInfo("GET", "/v1/station/plan", "which build a switch would install", "plan", query=_PLAN),
    RouteInfo("GET", "/v1/station/activations", "the last activations, and how each ended", "activations"),
    RouteInfo("GET", "/v1/station/activations/{id}", "an activation's journal", "activation-journal"),
    RouteInfo("GET", "/v1/station/logs", "what a model's workers wrote last", "worker-log", query=_LOGS),
    RouteInfo("GET", "/v1/station/usage", "memory and disk, in bytes", "usage"),
    RouteInfo(
        "POST", "/v1/station/remove", "forgets a model's environments", "remove-answer", "remove-request"
    ),
)
"""The application and docs/reference/routes.md are made from it; any other path may name a function."""

Progress: TypeAlias = Callable[[int, int | None, str], object]
"""Called with how far a call is: done, total where known, and of what."""


class ChunkStream(Protocol):
    """The chunks of a streamed answer, as they arise."""

    @property
    def rest(self) -> Mapping[str, Any]:
        """What the answer holds beside them."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the chunks; may also fail."""


Answer: TypeAlias = Mapping[str, Any] | ChunkStream
"""What a function returns: its whole answer, or a streamed one."""


class EventFeed(Protocol):
    """A subscription to events; ends when the bus closes, raises `SubscriberOverflowed` for a slow reader."""

    @property
    def state(self) -> StationState:
        """The state at the moment of subscribing; the first event follows it."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events, in order."""


class InspectionApi(Protocol):
    """What of a station people look at beside its state. Whatever can't be done is a `StationError`."""

    async def plan(self, model: str, strategy: str | None) -> Mapping[str, Any]:
        """The shape of `plan --json` for a model."""

    async def activations(self) -> Mapping[str, Any]:
        """The last activations, the newest first."""

    async def activation(self, activation: str) -> Mapping[str, Any] | None:
        """One activation's journal; None where there is none."""

    async def logs(self, model: str | None) -> Mapping[str, Any]:
        """The last lines that the workers of a model, by default of the active one, wrote."""

    async def usage(self) -> Mapping[str, Any]:
        """Memory of the station, its worker, the machine and its GPUs, and the home's disk, in bytes."""

    async def remove(self, model: str) -> None:
        """Forget a model's environments, once nothing else changes the home."""


class StationApi(Protocol):
    """A serving station, as HTTP sees it. What is not `async` returns at once, but for `models`.

    Whatever can't be done is a `StationError` with its own code.
    """

    @property
    def state(self) -> StationState:
        """Everything there is to show, as of now."""

    @property
    def inspection(self) -> InspectionApi:
        """What else there is to look at."""

    def status(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/station`."""

    def models(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/models`; reads a file, so call it in a thread."""

    def stats(self) -> Mapping[str, Any]:
        """What `figures` has of the queue, at once."""

    def functions(self) -> frozenset[str]:
        """Names of the active backend's functions; empty while no backend is active."""

    def signatures(self) -> Mapping[str, Signature]:
        """The same, each with its arguments as far as its code tells; reads files, so call it in a thread."""

    def call(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        timeout_seconds: float | None,
        progress: Progress = lambda *_: None,
        client: Hashable = None,
    ) -> AbstractAsyncContextManager[Answer]:
        """Call a function of the active backend with JSON values; leaving the context early cancels the call.

        Without a limit the configured one counts. `progress` may be called until the context is entered.
        Clients take turns.
        """

    def request_switch(
        self,
        model: str,
        strategy: str | None,
        *,
        upgrade: bool,
        python: Path | None,
        anyway: bool,
        accept_notice: bool,
    ) -> tuple[str, bool]:
        """Request a model to become the active one; gives the activation's id, and whether it ran already."""

    def request_rollback(self, model: str) -> tuple[str, bool]:
        """Request the active model to go back to its previous environment; returns as `request_switch`."""

    def request_cancel(self) -> str:
        """Request the end of the running activation, and return its id."""

    async def stop(self) -> Mapping[str, Any]:
        """End the active model's worker, and return the model and whether one ran."""

    def figures(self) -> Mapping[str, Any]:
        """The shape of `GET /v1/stats`."""

    def subscribe(self, *, after: int | None = None) -> AbstractAsyncContextManager[EventFeed]:
        """Subscribe to the events after a sequence number (or `HistoryGone`), or from now on."""

    async def doctor(self) -> Mapping[str, Any]:
        """Examine the machine and the station, as `doctor --json` does."""


class Refusal(StationError):
    """A request that is refused, with further response headers."""

    status: ClassVar[int] = 400

    def __init_subclass__(cls, *, code: str, status: int) -> None:
        super().__init_subclass__(code=code)
        cls.status = status

    def __init__(
        self, message: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.headers = dict(headers or {})


class RequestInvalid(Refusal, code="request-invalid", status=400):
    """The body or a parameter can't be used."""


class TokenRequired(Refusal, code="token-required", status=401):
    """The request needs the station's token, and does not have it."""


class HostForbidden(Refusal, code="host-forbidden", status=403):
    """The `Host` header names something other than this station, as DNS rebinding does."""


class OriginForbidden(Refusal, code="origin-forbidden", status=403):
    """A page of another origin sent the request through a browser."""


class RouteUnknown(Refusal, code="not-found", status=404):
    """There is no such route."""


class McpDisabled(Refusal, code="mcp-disabled", status=404):
    """Agents are not served over HTTP, because the setting `mcp` is not true."""


class MethodRefused(Refusal, code="method-not-allowed", status=405):
    """The route does not take this method."""


class RequestTimeout(Refusal, code="request-timeout", status=408):
    """The client did not send its whole request in time."""


class BodyTooLarge(Refusal, code="body-too-large", status=413):
    """The body is too large."""


class ContentTypeUnsupported(Refusal, code="content-type-unsupported", status=415):
    """The route does not take this content type."""


class ContentEncodingUnsupported(Refusal, code="content-encoding-unsupported", status=415):
    """The body is compressed, and no route takes that."""


class ConnectionsExhausted(Refusal, code="too-many-connections", status=503):
    """More clients are connected than the system has descriptors for."""


class StationStopping(Refusal, code="station-stopping", status=503):
    """The station is stopping."""
