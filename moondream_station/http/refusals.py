"""Errors of a request itself, which never reaches the station; each has its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from moondream_station.core.facts.errors import StationError


class Refusal(StationError):
    """A request that is refused, with further response headers."""

    status: ClassVar[int] = 400

    def __init__(
        self, message: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.headers = dict(headers or {})


class RequestInvalid(Refusal):
    """The body or a parameter can't be used."""

    code = "request-invalid"


class TokenRequired(Refusal):
    """The request needs the station's token, and does not have it."""

    code = "token-required"
    status = 401


class HostForbidden(Refusal):
    """The `Host` header names something other than this station, as DNS rebinding does."""

    code = "host-forbidden"
    status = 403


class OriginForbidden(Refusal):
    """A page of another origin sent the request through a browser."""

    code = "origin-forbidden"
    status = 403


class RouteUnknown(Refusal):
    """There is no such route."""

    code = "not-found"
    status = 404


class MethodRefused(Refusal):
    """The route does not take this method."""

    code = "method-not-allowed"
    status = 405


class BodyTooLarge(Refusal):
    """The body is too large."""

    code = "body-too-large"
    status = 413


class ContentTypeUnsupported(Refusal):
    """The route does not take this content type."""

    code = "content-type-unsupported"
    status = 415


class ContentEncodingUnsupported(Refusal):
    """The body is compressed, and no route takes that."""

    code = "content-encoding-unsupported"
    status = 415


class StationStopping(Refusal):
    """The station is stopping."""

    code = "station-stopping"
    status = 503
