"""Who may send requests: `Host`, `Origin`, the token, and the size of a body.

A browser sends requests to 127.0.0.1 on behalf of any page. Two checks keep pages out: DNS rebinding, where a
foreign name resolves to this computer, shows in `Host`, and a page of another origin in `Origin`. They hold
on every route, before anything else of the request is read.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moondream_station.core.facts.errors import WorkerBusy
from moondream_station.http.api import (
    BodyTooLarge,
    ContentEncodingUnsupported,
    HostForbidden,
    OriginForbidden,
    TokenRequired,
)

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_BODIES_BYTES = 48 * 1024 * 1024
"""What the bodies of all requests together may come to; parsing takes twice that for a moment."""
_SMALL_BODY_BYTES = 256 * 1024
"""Bodies of this size are not counted: connections are limited too."""
_ROOM_SECONDS = 30.0
"""How long a request waits until there is room for its body."""
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_OPEN_PATHS = frozenset({"/health"})

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")


def _normal(host: str) -> str:
    """The canonical spelling of a name or address."""
    bare = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(bare).compressed
    except ValueError:
        return bare


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this computer only."""
    name = _normal(host)
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def split_authority(authority: str) -> tuple[str | None, str | None]:
    """Host, in its canonical spelling, and port of `HOST[:PORT]`; None for a text that is not that."""
    match = _AUTHORITY.fullmatch(authority)
    return (None, None) if match is None else (_normal(match["v6"] or match["name"]), match["port"])


@dataclass(frozen=True, slots=True)
class Access:
    """Who may request what."""

    hosts: frozenset[str]
    """What `Host` may name, in canonical spelling."""
    token: str
    """Who has it can read the station's home, and so is the same user."""
    is_open: bool
    """Whether other computers reach the station; then every route but `/health` needs the token."""

    @classmethod
    def of(cls, *, bound: Iterable[str], allowed: Iterable[str] = (), token: str) -> Access:
        """The rules for a station that listens on `bound`, with the further names of `--allow-host`."""
        bound = tuple(bound)
        is_open = not all(is_loopback(host) for host in bound)
        names = {_normal(host) for host in (*bound, *allowed)}
        return cls(hosts=_LOOPBACK_NAMES | names, token=token, is_open=is_open)

    def check(self, path: str, headers: Headers) -> None:
        """Accept a request, or raise why not."""
        hosts = headers.getlist("host")
        authority = hosts[0].lower() if len(hosts) == 1 else ""
        if split_authority(authority)[0] not in self.hosts:
            raise HostForbidden(
                f"The host {', '.join(hosts) or '(none)'!r} is not allowed",
                hint="Use localhost, or allow this name: serve --allow-host NAME",
            )
        for origin in headers.getlist("origin"):
            if not _is_own(origin, authority):
                raise OriginForbidden(
                    f"The origin {origin!r} is not allowed",
                    hint="Use the station's own page, or a program outside the browser.",
                )
        if self.is_open and path not in _OPEN_PATHS:
            self.check_token(headers, "This station is reachable from other computers and requires its token")

    def check_token(self, headers: Headers, because: str) -> None:
        """Accept a request with the station's token; `because` says why it is required."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        offered = [headers.get("x-moondream-auth", "")]
        if scheme.lower() == "bearer":
            offered.append(bearer.strip())
        if not any(hmac.compare_digest(value.encode(), self.token.encode()) for value in offered):
            raise TokenRequired(
                because,
                hint="Send 'Authorization: Bearer TOKEN'; station.json in the home has the token.",
                headers={"WWW-Authenticate": "Bearer"},
            )


def client_of(scope: Scope) -> tuple[str, int]:
    """Whose request it is, for taking turns: the address, and which key came from there."""
    headers = Headers(scope=scope)
    keys = (headers.get("authorization"), headers.get("x-moondream-auth"))
    return (scope["client"] or ("",))[0], hash(keys)  # a Unix socket's clients have no address


def _is_own(origin: str, authority: str) -> bool:
    """Whether a page of this origin came from the station itself, by this or another loopback name."""
    scheme, _, place = origin.lower().partition("://")
    if scheme not in {"http", "https"}:  # https: behind a proxy that terminates TLS the authority is the same
        return False
    if place == authority:
        return True
    # The station listens on all loopback addresses on one port, so nobody else can have such an origin.
    (name, port), (own_name, own_port) = split_authority(place), split_authority(authority)
    return {name, own_name} <= _LOOPBACK_NAMES and port == own_port


class _Room:
    """Memory for the bodies of requests: who wants more than is left waits for it, in order."""

    def __init__(self, size_bytes: int) -> None:
        self._left_bytes = size_bytes
        self._turn = anyio.Lock()
        self._changed = anyio.Event()

    async def take(self, size_bytes: int) -> None:
        """Wait for so much room, and take it."""
        with anyio.move_on_after(_ROOM_SECONDS):
            async with self._turn:
                while self._left_bytes < size_bytes:
                    await self._changed.wait()
                self._left_bytes -= size_bytes
                return
        raise WorkerBusy(
            f"Other large requests left no room for this body within {_ROOM_SECONDS:g} s",
            hint="Try again in a second, or scale the image down.",
        )

    def give_back(self, size_bytes: int) -> None:
        """Make room for others."""
        self._left_bytes += size_bytes
        self._changed.set()
        self._changed = anyio.Event()


def guarded(app: ASGIApp, *, access: Access) -> ASGIApp:
    """Passes on to an application what is allowed, and a body of a size that there is room for."""
    room = _Room(MAX_BODIES_BYTES)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        access.check(scope["path"], headers)
        if (coding := headers.get("content-encoding", "").strip().lower()) not in {"", "identity"}:
            raise ContentEncodingUnsupported(
                f"Unsupported content encoding {coding!r}",
                hint="Send the body as it is, without Content-Encoding.",
                headers={"Accept-Encoding": "identity"},
            )
        announced_bytes = int(headers.get("content-length", "0"))
        received_bytes = taken_bytes = 0

        async def take(size_bytes: int) -> None:
            nonlocal taken_bytes
            if size_bytes > MAX_BODY_BYTES:
                text = f"The body is larger than {MAX_BODY_BYTES >> 20} MiB"
                raise BodyTooLarge(text, hint="Scale the image down.")
            if size_bytes > _SMALL_BODY_BYTES and not taken_bytes:
                # One that says no size may become as large as any.
                await room.take(size := announced_bytes or MAX_BODY_BYTES)
                taken_bytes = size

        async def counted() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            await take(received_bytes)
            return message

        try:
            await take(announced_bytes)
            await app(scope, counted, send)
        finally:
            room.give_back(taken_bytes)

    return guard
