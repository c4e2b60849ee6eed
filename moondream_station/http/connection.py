"""A client's connection: requests by RFC 9112 to the letter, and bounds on clients that keep it waiting."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

import anyio
import h11
from starlette.requests import ClientDisconnect
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from moondream_station.core.facts.errors import StationError
from moondream_station.http.api import (
    ConnectionsExhausted,
    RequestInvalid,
    RequestTimeout,
    StationStopping,
)
from moondream_station.http.messages import error_response

T = TypeVar("T")

BODY_BYTES_PER_SECOND: Final = 64 * 1024
"""What a body must come to on average, but for as long as a client may be silent."""
MOST_CONNECTIONS: Final = 512
DESCRIPTORS_KEPT: Final = 40
"""For the station's own work: an idle one has 15 open, and starting a worker takes 10 more."""

_LINGER_SECONDS: Final = 1.0
"""How long a refused client may still send: closing at once would reset the refusal before it is read."""
_ARE_YOU_THERE_SECONDS: Final = (0.5, 0.75)
"""After a client ended its side: by then most answers are written, and need no question before them."""
_MOST_HEAD_BYTES: Final = 64 * 1024
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_FOLD: Final = re.compile(rb"\n[ \t]")
_LENGTH: Final = re.compile(rb"(?im)^content-length:(.*)$")
_CODING: Final = re.compile(rb"(?im)^transfer-encoding:")
_ABSOLUTE: Final = re.compile(rb"(?i)https?://(?P<authority>[^/?]*)(?P<rest>.*)")
_QUOTATION: Final = re.compile(r":? (?:bytearray\()?b['\"]")
"""Where h11 begins to quote, as Python writes bytes, what it could not read."""


class Patience(NamedTuple):
    """How long a client may keep the station waiting, in seconds."""

    head: float = 15.0
    """For the whole head of a request, from the connection or from the last answer on."""
    silence: float = 20.0
    """While nothing of a body comes that the station wants to read."""
    deafness: float = 60.0
    """While it reads nothing of its answer."""
    looks: float = 1.0
    """Between two looks at it."""


def most_connections() -> int:
    """How many connections there may be at once, by the limit on descriptors as it is now."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415  not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY:
            return max(4, min(MOST_CONNECTIONS, limit - DESCRIPTORS_KEPT))
    return MOST_CONNECTIONS


class Parser(h11.Connection):
    """h11's parser, and strict where others may read a head differently (request smuggling)."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _MOST_HEAD_BYTES)
        self.error: h11.RemoteProtocolError | None = None

    def next_event(self) -> Any:
        """The next event; a target in absolute form becomes path and `Host` (3.2.2)."""
        try:
            if self.their_state is h11.IDLE:
                _check_head(self.trailing_data[0])
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.error = error
            raise
        return _in_origin_form(event) if isinstance(event, h11.Request) else event


def _check_head(received: bytes) -> None:
    """Refuse what h11 repairs."""
    end = _END_OF_HEAD.search(received)
    if end is None:
        return
    head = received[: end.start() + 1]
    lengths = _LENGTH.findall(head)
    if _FOLD.search(head):
        raise h11.RemoteProtocolError("A header is folded over several lines (RFC 9112, 5.2)")
    if len(lengths) > 1 or b"," in b"".join(lengths):
        raise h11.RemoteProtocolError("There is more than one Content-Length (RFC 9112, 6.3)")
    if lengths and _CODING.search(head):
        raise h11.RemoteProtocolError("There are both Content-Length and Transfer-Encoding (RFC 9112, 6.3)")


def _in_origin_form(request: h11.Request) -> h11.Request:
    match = _ABSOLUTE.fullmatch(request.target)
    if match is None:
        return request
    rest = match["rest"] if match["rest"].startswith(b"/") else b"/" + match["rest"]
    headers = [(b"host", match["authority"]), *(item for item in request.headers if item[0] != b"host")]
    return h11.Request(method=request.method, target=rest, headers=headers, http_version=request.http_version)


class Connection(H11Protocol):
    """A connection, by the same parser everywhere, that answers a client which has ended its own side.

    A client may send its request and say at once that nothing more comes (RFC 9112, 9.6); uvicorn takes that
    for having left (encode/uvicorn#1264). One that has left looks the same until something is written to it.
    """

    conn: Parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = Parser()
        self.app_state = {**self.app_state, "connection": self}
        self.work: anyio.CancelScope | None = None
        self.is_stopping = False
        self.patience_seconds = 0.0
        self.waiting_since = self.loop.time()
        self._is_refused = False
        self._silent_seconds = 0.0  # in which nothing due was sent, or nothing written was read
        self._due_seconds = 0.0  # in which this head or body has been due
        self._received_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, at the expense of the one that has kept the station waiting longest."""
        super().connection_made(transport)
        most = most_connections()
        if len(self.connections) <= most:
            return
        others = [other for other in self.connections if isinstance(other, Connection) and other is not self]
        others = [other for other in others if not other.transport.is_closing()]
        if len(others) < most:
            return
        if waiting := [other for other in others if other.is_waiting]:
            min(waiting, key=lambda other: other.waiting_since).transport.abort()
        else:
            text = f"{most} clients are connected, the most that the limit on open files allows"
            self._refuse(ConnectionsExhausted(text, hint="Try again in a second."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more for what is worked on."""
        super().connection_lost(exc)
        if self.work is not None:
            self.work.cancel()

    def stop(self) -> None:
        """The station stops: what is worked on has its patience left."""
        self.is_stopping = True
        if self.work is not None:
            self.work.deadline = anyio.current_time() + self.patience_seconds

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for the client to send something."""
        state = self.conn.their_state
        return state is h11.IDLE or (
            state is h11.SEND_BODY and not self.flow.read_paused and not self.cycle.waiting_for_100_continue
        )

    def look_after(self, patience: Patience) -> None:
        """End the connection where the client keeps it waiting too long."""
        if self._is_refused or not (self.flow.write_paused or self.is_waiting):
            self._silent_seconds = 0.0
            return
        self._silent_seconds += patience.looks
        self._due_seconds += patience.looks
        if self.flow.write_paused:
            if self._silent_seconds > patience.deafness:
                self.transport.abort()
        elif self.conn.their_state is h11.SEND_BODY:
            slowness = patience.silence + self._received_bytes / BODY_BYTES_PER_SECOND
            if self._silent_seconds > patience.silence or self._due_seconds > slowness:
                text = f"The body is still incomplete after {self._due_seconds:.0f} s"
                self._refuse(RequestTimeout(text))
        elif self._due_seconds > patience.head:
            if self.conn.trailing_data[0]:
                self._refuse(
                    RequestTimeout(f"The request head is still incomplete after {patience.head:g} s")
                )
            else:
                self.transport.close()  # it never began: nobody waits for an answer

    def data_received(self, data: bytes) -> None:
        """Parse what has come; after a refusal nothing counts any more."""
        if self._is_refused:
            return
        self._silent_seconds = 0.0
        self._received_bytes += len(data)
        before = self.conn.their_state
        super().data_received(data)
        if self.conn.their_state is not before:
            self._due_seconds = 0.0
            self._received_bytes = 0

    def pause_writing(self) -> None:
        """The client reads too slowly: from now on it counts how long."""
        self._silent_seconds = 0.0
        super().pause_writing()

    def on_response_complete(self) -> None:
        """The next head is due from now on."""
        self.waiting_since = self.loop.time()
        self._due_seconds = 0.0
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read, with its reason."""
        reason = _QUOTATION.split(str(self.conn.error or msg))[0]
        self._refuse(RequestInvalid(f"The request is not valid HTTP: {reason}"))

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection for the answer to a whole request; without one, close it."""
        cycle = self.cycle
        is_whole = self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)
        # What a GET streams has no end: who ends its own side there has left.
        is_endless = is_whole and cycle.response_started and cycle.scope["method"] == "GET"
        if not is_whole or is_endless or cycle.response_complete:
            return None
        cycle.keep_alive = False
        for seconds in _ARE_YOU_THERE_SECONDS:
            self.loop.call_later(seconds, self._ask_whether_there)
        return True

    def _ask_whether_there(self) -> None:
        """Write what every client skips; where nobody is, the system refuses the next such write."""
        if self.cycle.response_started or self.transport.is_closing():
            return
        if self.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, error: StationError) -> None:
        """Answer what never reaches the application, or no longer; into an answer nothing is written."""
        self._is_refused = True
        self._unset_keepalive_if_required()
        path = "/"
        if self.scope is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]
            path = self.cycle.scope["path"]
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        response = error_response(path, error)
        headers = [*response.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=response.status_code, headers=headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)


async def attend(work: Callable[[], Awaitable[T]], scope: Scope, *, patience_seconds: float = 0.0) -> T:
    """Work for a client, once its body is read, until it leaves (`ClientDisconnect`) or the station stops.

    Then the work may continue for `patience_seconds`. A scope that the connection cancels costs a tenth of a
    small request less than a task that waits for either.
    """
    connection: Connection = scope["state"]["connection"]
    connection.flow.resume_reading()  # or nothing would tell that the client leaves
    try:
        with anyio.CancelScope() as connection.work:
            connection.patience_seconds = patience_seconds
            if connection.is_stopping:
                connection.stop()
            if connection.cycle.disconnected:
                connection.work.cancel()
            return await work()
    finally:
        connection.work = None
    raise StationStopping("The station is stopping") if connection.is_stopping else ClientDisconnect
