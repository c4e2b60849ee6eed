"""Why a request is refused before anything is asked of the station, each with its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from moondream_station.core.facts.errors import StationError


class Refusal(StationError):
    """A request that is not carried out.

    Args:
        message: What is wrong with the request, and what was seen.
        hint: What the client can do about it.
        headers: Response headers that belong to the refusal.
    """

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
    """The request needs the station's token, and does not carry it."""

    code = "token-required"
    status = 401


class HostForbidden(Refusal):
    """The `Host` header names something that is not this station: DNS rebinding looks like that."""

    code = "host-forbidden"
    status = 403


class OriginForbidden(Refusal):
    """A page that is not the station's own sent the request through somebody's browser."""

    code = "origin-forbidden"
    status = 403


class RouteUnknown(Refusal):
    """Nothing is served under this path."""

    code = "not-found"
    status = 404


class MethodRefused(Refusal):
    """The path is known, the method is not one of its own."""

    code = "method-not-allowed"
    status = 405


class BodyTooLarge(Refusal):
    """The body is larger than the station takes."""

    code = "body-too-large"
    status = 413


class ContentTypeUnsupported(Refusal):
    """The body is of a kind that the route does not read."""

    code = "content-type-unsupported"
    status = 415


class StationStopping(Refusal):
    """The station is about to end and finishes nothing new."""

    code = "station-stopping"
    status = 503
