"""Who may ask: `Host`, `Origin`, the token, and how much a request may bring.

A browser sends requests to 127.0.0.1 on behalf of any page. Two checks keep pages out: a name that a foreign
DNS server pointed at this computer shows in `Host` (DNS rebinding), and a page of another origin shows in
`Origin`. Both hold on every route, before anything else of the request is looked at.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moondream_station.http.refusals import BodyTooLarge, HostForbidden, OriginForbidden, TokenRequired

MAX_BODY_BYTES = 32 * 1024 * 1024
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
OPEN_PATHS = frozenset({"/health"})

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")


def _normal(host: str) -> str:
    """One spelling for a name or address: lower case, addresses in their shortest form."""
    bare = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(bare).compressed
    except ValueError:
        return bare


def is_loopback(host: str) -> bool:
    """Whether nobody outside this computer reaches what is bound to this address."""
    if _normal(host) == "localhost":
        return True
    try:
        return ipaddress.ip_address(_normal(host)).is_loopback
    except ValueError:
        return False


def host_of(authority: str) -> str | None:
    """The name or address in `HOST[:PORT]`, in one spelling; None where it is not one."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    return _normal(match["v6"] or match["name"])


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask what.

    Args:
        hosts: Names and addresses that `Host` may carry, in one spelling.
        token: The station's token. Whoever has it may read the station's home: it is the same user.
        is_open: Whether other computers reach the station; then every request but `/health` must carry it.
    """

    hosts: frozenset[str]
    token: str
    is_open: bool

    @classmethod
    def of(cls, *, bound: Iterable[str], allowed: Iterable[str] = (), token: str) -> Access:
        """The rules for a station.

        Args:
            bound: Addresses or names the station listens on.
            allowed: Further names by which it may be called (`--allow-host`).
            token: The station's token, asked for on every route where `bound` reaches beyond this computer.
        """
        bound = tuple(bound)
        is_open = not all(is_loopback(host) for host in bound)
        names = {_normal(host) for host in (*bound, *allowed)}
        return cls(hosts=LOOPBACK_NAMES | names, token=token, is_open=is_open)

    def check(self, path: str, headers: Headers) -> None:
        """Let a request pass, or raise the `Refusal` that says why not."""
        authority = self._check_host(headers)
        _check_origin(authority, headers)
        if self.is_open and path not in OPEN_PATHS:
            self.check_token(headers, "This station is reachable from other computers and asks for its token")

    def check_token(self, headers: Headers, because: str) -> None:
        """Let a request pass that carries the station's token.

        Args:
            headers: The request's.
            because: Why the token is asked for, as a sentence.

        Raises:
            TokenRequired: It does not.
        """
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        offered = [headers.get("x-moondream-auth", "")]
        if scheme.lower() == "bearer":
            offered.append(bearer.strip())
        if not any(hmac.compare_digest(value.encode(), self.token.encode()) for value in offered):
            raise TokenRequired(
                because,
                hint="Send it as 'Authorization: Bearer TOKEN'; it stands in the home's station.json.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_host(self, headers: Headers) -> str:
        values = headers.getlist("host")
        authority = values[0].lower() if len(values) == 1 else ""
        if host_of(authority) not in self.hosts:
            raise HostForbidden(
                f"The station does not answer for the host {', '.join(values) or '(none)'!r}",
                hint="Call it as localhost, or let it answer for this name: serve --allow-host NAME",
            )
        return authority


def _check_origin(authority: str, headers: Headers) -> None:
    for origin in headers.getlist("origin"):
        # https is the station's own where a proxy in front of it speaks TLS: the authority is the same then.
        if origin.lower() not in (f"http://{authority}", f"https://{authority}"):
            raise OriginForbidden(
                f"Requests from pages of {origin!r} are not answered",
                hint="Ask from the station's own page or from a program outside the browser.",
            )


class Guard:
    """Lets through what `Access` allows and stops a body that grows too large while it is read.

    Args:
        app: What answers the requests that pass.
        access: Who may ask.
        max_body_bytes: How large a body may be.
    """

    def __init__(self, app: ASGIApp, *, access: Access, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._access = access
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise the `Refusal` that says why not."""
        headers = Headers(scope=scope)
        self._access.check(scope["path"], headers)
        if int(headers.get("content-length", "0")) > self._max_body_bytes:
            raise self._too_large()
        received_bytes = 0

        async def counted() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._max_body_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> BodyTooLarge:
        mebibytes = self._max_body_bytes / (1024 * 1024)
        return BodyTooLarge(
            f"The body is larger than {mebibytes:g} MiB", hint="Scale the image down before sending it."
        )
