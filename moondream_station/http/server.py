"""Binds addresses and runs the HTTP server on them."""

from __future__ import annotations

import ctypes
import errno
import itertools
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

from moondream_station.core.facts.errors import AddressInUse, AddressUnusable, UsageError
from moondream_station.http.connection import Connection, Patience

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BLOCK_BYTES: Final = 16 * 1024 * 1024
_LOOKS_UNTIL_TRIM: Final = 15

PORTS_TRIED: Final = 20
MAX_PORT: Final = 65535
BACKLOG: Final = 128
FAREWELL_SECONDS: Final = 0.4
"""How long clients may delay the server's end; then their connections are closed."""
_ACCEPTED_AT_ONCE: Final = 4
"""asyncio takes its backlog for how many to accept before it looks at any: few, where descriptors are few."""

_LOOPBACK: Final = ("127.0.0.1", "::1")
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what a user may ask for, never a default
_ABSENT: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


@dataclass(frozen=True, slots=True)
class Listeners:
    """Listening sockets, all on one port; connections wait in them until the server answers."""

    sockets: tuple[socket.socket, ...]
    hosts: tuple[str, ...]
    """The requested name and the bound addresses."""
    port: int

    @property
    def url(self) -> str:
        """The base URL for programs on this computer, without a trailing slash."""
        address = str(self.sockets[0].getsockname()[0])
        address = _WILDCARDS.get(address, address)
        return f"http://[{address}]:{self.port}" if ":" in address else f"http://{address}:{self.port}"

    def close(self) -> None:
        """Close the sockets, where `serve` never ran."""
        for listener in self.sockets:
            listener.close()


def listen(host: str, port: int, *, explicit: bool) -> Listeners:
    """Listen, so that nobody else can take the port. May ask DNS for the host, so call it in a thread.

    `127.0.0.1` and `localhost` mean both, 127.0.0.1 and, where there is one, ::1. Port 0 is any; unless the
    port is `explicit`, the next ones are tried too. `AddressInUse`: none is free; `AddressUnusable`: the
    address is not this computer's, or the port not permitted; `UsageError`: there is no such port.
    """
    if not 0 <= port <= MAX_PORT:
        raise UsageError(f"{port} is not a port; ports go from 0 to {MAX_PORT}")
    addresses = _addresses(host)
    # A port that is free on IPv4 may be taken on IPv6, so any port is tried as often.
    last = port if explicit or port == 0 else min(port + PORTS_TRIED - 1, MAX_PORT)
    candidates = range(port, last + 1) if port else [0] * PORTS_TRIED
    for candidate in candidates:
        if sockets := _listen_on(host, addresses, candidate):
            bound = [str(listener.getsockname()[0]) for listener in sockets]
            hosts = tuple(dict.fromkeys((host, *bound)))
            return Listeners(tuple(sockets), hosts, int(sockets[0].getsockname()[1]))
    taken = f"port {port}" if len(candidates) == 1 else f"every port from {port} to {candidates[-1]}"
    raise AddressInUse(f"On {host}, {taken} is in use", hint="Use any free port: serve --port 0")


async def serve(
    app: ASGIApp,
    listeners: Listeners,
    *,
    stopping: anyio.Event,
    patience: Patience = Patience(),  # noqa: B008  it can't be changed
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests, on asyncio, until `stopping` is set; sets it when it ends for another reason.

    Leaves signals to the station. Ends within a second, whatever clients do, also when it is cancelled.
    """
    has_ended = anyio.Event()

    async def end() -> None:
        try:
            await stopping.wait()
        finally:
            stopping.set()
            for connection in server.connections:
                connection.stop()
            with anyio.move_on_after(FAREWELL_SECONDS, shield=True):
                await has_ended.wait()
            for connection in server.connections:
                connection.transport.abort()

    def on_started() -> None:
        task_status.started()

    server = _Server(app, stopping, patience, on_started=on_started)
    async with anyio.create_task_group() as serving:
        serving.start_soon(end)
        try:
            with anyio.CancelScope(shield=True):
                await server.serve(sockets=list(listeners.sockets))
        finally:
            has_ended.set()
            listeners.close()
        serving.cancel_scope.cancel()


class _Server(uvicorn.Server):
    """uvicorn, quiet and without signal handlers, that ends with an event and reports its start."""

    def __init__(
        self, app: ASGIApp, stopping: anyio.Event, patience: Patience, *, on_started: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_ACCEPTED_AT_ONCE,
                timeout_graceful_shutdown=1,
            )
        )
        self._stopping = stopping
        self._patience = patience
        self._on_started = on_started

    @property
    def connections(self) -> list[Connection]:
        """The connections there are."""
        return [known for known in self.server_state.connections if isinstance(known, Connection)]

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the station."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then report it."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)
        self._on_started()

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own loop wakes ten times a second, and once is enough."""
        give_back = _memory_allocator()
        for looks in itertools.count(1):
            if self._stopping.is_set():
                return
            await self.on_tick(0)
            if looks % _LOOKS_UNTIL_TRIM == 0:
                give_back()
            with anyio.move_on_after(self._patience.looks):
                await self._stopping.wait()
            for connection in self.connections:
                connection.look_after(self._patience)


def _memory_allocator() -> Callable[[], object]:
    """Make the C library keep large blocks for the next body; what it gives makes it return what is free.

    glibc takes blocks of megabytes from the system anew each time, until it has seen one go; from then on it
    returns none of those between others: eight bodies of 31 MB left 830 MiB.
    """
    library = ctypes.CDLL(None if sys.platform != "win32" else "msvcrt")
    if not hasattr(library, "malloc_trim"):  # glibc's own
        return lambda: None
    library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
    library.mallopt(_M_TRIM_THRESHOLD, _LARGE_BLOCK_BYTES)
    return partial(library.malloc_trim, 0)


def _addresses(host: str) -> list[str]:
    if host in (_LOOPBACK[0], "localhost"):
        return list(_LOOPBACK)
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA can't encode
        raise AddressUnusable(
            f"Can't listen on {host!r}: {getattr(error, 'strerror', None) or error}",
            hint="127.0.0.1 serves programs on this computer.",
        ) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in addresses))


def _listen_on(host: str, addresses: list[str], port: int) -> list[socket.socket]:
    """Listen on all addresses, or on none where the port is taken on one of them."""
    sockets: list[socket.socket] = []
    for address in addresses:
        try:
            sockets.append(_listener(address, port))
        except OSError as error:
            if sockets and error.errno in _ABSENT:
                continue  # no IPv6, or a name's second address that is not this computer's
            for listener in sockets:
                listener.close()
            if error.errno == errno.EADDRINUSE:
                return []
            raise AddressUnusable(
                f"Can't listen on port {port} of {host}: {error.strerror or error}",
                hint="Ports below 1024 may be reserved; the address must be one of this computer's own.",
            ) from error
        port = int(sockets[0].getsockname()[1])
    return sockets


def _listener(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # TCP is named, because asyncio sets TCP_NODELAY only where a socket says that it speaks it. Without it an
    # answer's body waits for the acknowledgement of its head: 44 ms instead of 1.4 when kept alive.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            # Windows' SO_REUSEADDR would take the port away from a program that listens on it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # A restarted station gets its port back while old connections are in TIME_WAIT; bind or listen
            # still fails where another program has the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
