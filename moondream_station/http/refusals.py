"""Errors of a request itself, which never reaches the station; each has its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from moondream_station.core.facts.errors import StationError


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
