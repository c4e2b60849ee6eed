"""Taking a port, and beginning and ending on it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.facts.errors import AddressInUse, AddressUnusable, UsageError
from moondream_station.core.facts.events import ProbeFinished
from moondream_station.http.app import create_app
from moondream_station.http.guard import Access
from moondream_station.http.server import PORTS_TRIED, Listeners, listen, serve
from support.http_server import PATIENCE_SECONDS, TOKEN, Line
from support.station_api import FakeStation

pytestmark = pytest.mark.anyio


@contextmanager
def taken(address: str, port: int = 0, *, listening: bool = True) -> Iterator[int]:
    """Somebody else's socket on a port, one that would share it if that were possible."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind((address, port))
        if listening:
            other.listen()
        yield int(other.getsockname()[1])


@contextmanager
def listening(host: str, port: int, *, explicit: bool) -> Iterator[Listeners]:
    """Listen for as long as the block runs."""
    listeners = listen(host, port, explicit=explicit)
    try:
        yield listeners
    finally:
        listeners.close()


def addresses(listeners: Listeners) -> list[str]:
    """What was bound."""
    return [str(listener.getsockname()[0]) for listener in listeners.sockets]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_answer_waits_for_no_acknowledgement() -> None:
    """Connections that the station accepts send at once what is written to them (TCP_NODELAY)."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with listening("127.0.0.1", 0, explicit=True) as listeners:
        async with await asyncio.start_server(look, sock=listeners.sockets[0]):
            _, client = await asyncio.open_connection("127.0.0.1", listeners.port)
            assert await accepted
            client.close()
            await client.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_bound_on_both_families(host: str) -> None:
    """One port, both addresses, and a URL that works everywhere."""
    with listening(host, 0, explicit=True) as listeners:
        assert addresses(listeners) == ["127.0.0.1", "::1"]
        assert {listener.getsockname()[1] for listener in listeners.sockets} == {listeners.port}
        assert listeners.url == f"http://127.0.0.1:{listeners.port}"
        assert set(listeners.hosts) == {host, "127.0.0.1", "::1"}


def test_one_address_alone_can_be_bound() -> None:
    """An address of one family brings no other; a wildcard is reached by loopback from here."""
    with listening("::1", 0, explicit=True) as listeners:
        assert addresses(listeners) == ["::1"]
        assert listeners.url == f"http://[::1]:{listeners.port}"
    with listening("0.0.0.0", 0, explicit=True) as listeners:
        assert addresses(listeners) == ["0.0.0.0"]
        assert listeners.url == f"http://127.0.0.1:{listeners.port}"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
def test_a_port_that_is_taken_moves_on(address: str) -> None:
    """Also where only one of the two addresses is in use, or all are by a wildcard."""
    with taken(address) as port, listening("127.0.0.1", port, explicit=False) as listeners:
        assert port < listeners.port < port + PORTS_TRIED


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
def test_an_explicit_port_that_is_taken_is_refused(address: str) -> None:
    """Whoever asks for a port by number means that one; nothing stays bound of a half success."""
    with taken(address) as port:
        with pytest.raises(AddressInUse, match=f"port {port} is in use"):
            listen("127.0.0.1", port, explicit=True)
        other = "127.0.0.1" if address == "::1" else "::1"
        with taken(other, port):
            pass


def test_a_port_bound_by_somebody_who_will_listen_is_free_until_then() -> None:
    """Whoever listens first has it; the other one is told when it wants to listen too."""
    with (
        taken("127.0.0.1", listening=False) as port,
        listening("127.0.0.1", port, explicit=True) as listeners,
    ):
        assert listeners.port == port


def test_two_stations_take_two_ports() -> None:
    """The second one moves on from the first one's, which listens before it answers."""
    with (
        listening("127.0.0.1", 0, explicit=True) as first,
        listening("127.0.0.1", first.port, explicit=False) as second,
    ):
        assert second.port != first.port


def test_after_twenty_ports_it_is_enough() -> None:
    """The error names the whole range."""
    with listening("127.0.0.1", 0, explicit=True) as first:
        held = [first]
        try:
            while held[-1].port < first.port + PORTS_TRIED - 1:
                held.append(listen("127.0.0.1", held[-1].port + 1, explicit=False))
            if held[-1].port == first.port + PORTS_TRIED - 1:
                with pytest.raises(AddressInUse, match=f"every port from {first.port} to {held[-1].port}"):
                    listen("127.0.0.1", first.port, explicit=False)
        finally:
            for listeners in held[1:]:
                listeners.close()


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("192.0.2.7", "Can't listen"),
        ("a..b", "Can't listen on 'a..b'"),
        ("fe80::1%nothing", r"fe80::1%nothing': (?!\[Errno)"),
    ],
)
def test_an_address_of_another_computer_is_refused(host: str, cause: str) -> None:
    """With the system's own reason."""
    with pytest.raises(AddressUnusable, match=cause):
        listen(host, 0, explicit=True)


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    """The command line was wrong, not the port taken."""
    with pytest.raises(UsageError):
        listen("127.0.0.1", port, explicit=False)


def test_the_last_port_has_no_next_one() -> None:
    """Counting ends where ports do."""
    with taken("127.0.0.1", 65535), pytest.raises(AddressInUse, match="port 65535 is in use"):
        listen("127.0.0.1", 65535, explicit=False)


def test_a_port_just_left_can_be_taken_again() -> None:
    """A restarted station gets its port back, although old connections linger."""
    with (
        listening("127.0.0.1", 0, explicit=True) as first,
        socket.create_connection(("127.0.0.1", first.port)) as connection,
    ):
        accepted, _ = first.sockets[0].accept()
        accepted.close()  # the side that closes first is the one that lingers
        assert connection.recv(1) == b""
    with listening("127.0.0.1", first.port, explicit=True) as again:
        assert again.port == first.port


@asynccontextmanager
async def running(station: FakeStation) -> AsyncIterator[Running]:
    """A server whose end a test can wait for while it holds connections."""
    listeners = listen("127.0.0.1", 0, explicit=True)
    server = Running(listeners)
    access = Access.of(bound=listeners.hosts, token=TOKEN)
    app = create_app(station, access=access)

    async def run() -> None:
        with server.scope:
            await serve(app, listeners, stopping=server.stopping)
        server.ended.set()

    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield server
            server.stopping.set()


@dataclass
class Running:
    """A server, what ends it, and whether it has ended."""

    listeners: Listeners
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    stopping: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        """A connection to it."""
        async with await anyio.connect_tcp("127.0.0.1", self.listeners.port) as stream:
            yield Line(stream)


async def test_connections_wait_until_the_server_answers() -> None:
    """From the moment of listening nobody is turned away."""
    with listening("127.0.0.1", 0, explicit=True) as listeners:
        async with await anyio.connect_tcp("127.0.0.1", listeners.port) as early:
            line = Line(early)
            await line.send("GET /health HTTP/1.1\nHost: localhost\n\n")
            stopping = anyio.Event()
            access = Access.of(bound=listeners.hosts, token=TOKEN)
            app = create_app(FakeStation(), access=access)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(serve, app, listeners, stopping=stopping))
                assert (await line.read_reply()).status == 200
                stopping.set()


async def test_the_server_leaves_the_signals_alone() -> None:
    """They are the station's."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with running(FakeStation()) as server, server.line() as line:
        await line.send("GET /health HTTP/1.1\nHost: localhost\n\n")
        assert (await line.read_reply()).status == 200
        assert {number: signal.getsignal(number) for number in before} == before


async def test_the_server_ends_although_its_clients_do_not() -> None:
    """Held streams, an idle connection, half a request, a client that does not read: none delays the end."""
    station = FakeStation()
    async with (
        running(station) as server,
        server.line() as idle,
        server.line() as half,
        server.line() as following,
        server.line() as deaf,
    ):
        for line in (following, deaf):
            await line.send("GET /v1/station/events HTTP/1.1\nHost: localhost\n\n")
            assert (await line.read_head())[0] == 200
        await idle.send("GET /health HTTP/1.1\nHost: localhost\n\n")
        assert (await idle.read_reply()).status == 200
        await half.send("POST /v1/caption HTTP/1.1\nHost: localhost\nContent-Length: 9\n\n{")
        for number in range(200):  # more than a connection's buffers hold
            station.bus.publish(
                ProbeFinished(probe=str(number), outcome=Outcome.FOUND, seconds=0.1, detail="x" * 100_000)
            )
            await anyio.lowlevel.checkpoint()
        server.stopping.set()
        await server.ended.wait()
    assert station.followers == 0


async def test_a_cancelled_server_ends_in_order() -> None:
    """Its sockets are closed and nothing of it goes on."""
    async with running(FakeStation()) as server, server.line() as following:
        await following.send("GET /v1/station/events HTTP/1.1\nHost: localhost\n\n")
        assert (await following.read_head())[0] == 200
        server.scope.cancel()
        await server.ended.wait()
        assert server.stopping.is_set()
        with pytest.raises(OSError, match="connection"):
            await anyio.connect_tcp("127.0.0.1", server.listeners.port)
