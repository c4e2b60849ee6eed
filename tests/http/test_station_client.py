"""The command line's client against a real server, and against what is none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import (
    NothingToCancel,
    StationError,
    StationUnreachable,
    UnknownModel,
)
from moondream_station.core.facts.events import Stage, StageStarted
from moondream_station.http.api import TokenRequired
from moondream_station.http.client import StationClient
from support.http_server import TOKEN, Served, serving
from support.station_api import MODELS, FakeStation

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(served: Served) -> AsyncIterator[StationClient]:
    """A client of the server."""
    async with StationClient(served.url) as station:
        yield station


async def test_it_asks_for_everything_that_is_offered(served: Served, client: StationClient) -> None:
    """Shapes as the station gives them."""
    assert await client.is_healthy()
    assert await client.status() == served.station.status()
    assert await client.models() == MODELS
    accepted = await client.switch("selftest", "cpu")
    assert not accepted.joined
    assert (await client.switch("selftest")).joined
    assert await client.cancel() == accepted.activation
    await client.switch("selftest", "auto", upgrade=True, anyway=True, accept_notice=True)
    assert served.station.consents[-2:] == [(False, False), (True, True)]
    assert served.station.wishes == [
        ("selftest", "cpu", False, None),
        ("selftest", None, False, None),
        ("selftest", "auto", True, None),
    ]


async def test_errors_come_out_as_what_they_were(client: StationClient) -> None:
    """With class, message and hint, so that the command line treats them like its own."""
    with pytest.raises(UnknownModel, match="no model 'gpt'") as caught:
        await client.switch("gpt")
    assert caught.value.hint == "moondream-station models lists them."
    with pytest.raises(NothingToCancel):
        await client.cancel()


async def test_it_carries_the_token() -> None:
    """Where the station asks for one."""
    async with serving(FakeStation(), bound="192.0.2.7") as served:
        async with StationClient(served.url) as stranger:
            assert await stranger.is_healthy()
            with pytest.raises(TokenRequired):
                await stranger.status()
            with pytest.raises(TokenRequired):
                async with stranger.follow():
                    pass
        async with StationClient(served.url, token=TOKEN) as friend:
            assert await friend.status() == served.station.status()


async def test_it_follows_from_a_snapshot_on(served: Served, client: StationClient) -> None:
    """Subscribed as soon as the context is entered: what is asked for next is seen from its beginning."""
    async with client.follow() as messages:
        accepted = await client.switch("selftest")
        assert (await anext(messages))["event"] == "Snapshot"
        assert (await anext(messages))["activation"] == accepted.activation


async def test_it_resumes_where_it_was(served: Served, client: StationClient) -> None:
    """No snapshot where the history reaches back."""
    first = served.station.bus.publish(StageStarted(stage=Stage.PREPARE), activation="a")
    second = served.station.bus.publish(StageStarted(stage=Stage.DETECT), activation="a")
    async with client.follow(after=first.seq) as messages:
        assert await anext(messages) == event_to_json(second)


async def test_a_broken_connection_is_made_again(served: Served, client: StationClient) -> None:
    """Each event once, in order, however often the line breaks."""
    seen = []
    async with (
        relayed(served) as relay,
        StationClient(f"http://127.0.0.1:{relay.port}") as distant,
        distant.follow() as messages,
    ):
        assert (await anext(messages))["event"] == "Snapshot"
        for stage in Stage:
            served.station.bus.publish(StageStarted(stage=stage), activation="a")
            seen.append((await anext(messages))["stage"])
            await relay.cut()
    assert seen == list(Stage)


async def test_a_station_that_ends_is_told() -> None:
    """After a few tries to find it again."""
    async with serving(FakeStation()) as served:
        client = StationClient(served.url, pauses=(0.0, 0.01))
        async with client, client.follow() as messages:
            await anext(messages)
            served.stopping.set()
            with pytest.raises(StationUnreachable, match="no longer answers"):
                await anext(messages)
            assert not await client.is_healthy()
            with pytest.raises(StationUnreachable, match="No station answers"):
                await client.status()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "text"}', b'{"error": 1}'])
async def test_what_is_no_station_is_told_apart(body: bytes) -> None:
    """Another server may have got the port since."""

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 404 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  anyio's, not Django's
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer)
            async with StationClient(f"http://127.0.0.1:{port}") as client:
                assert not await client.is_healthy()
                with pytest.raises(StationUnreachable, match="not a Moondream Station") as unknown:
                    await client.status()
                assert "doctor --fix" in (unknown.value.hint or "")
            tasks.cancel_scope.cancel()


async def test_an_error_of_an_unknown_kind_keeps_its_words() -> None:
    """A newer station may have codes that this client does not know."""
    body = json.dumps({"error": {"code": "brand-new", "message": "New trouble", "hint": None}}).encode()

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  anyio's, not Django's
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer)
            async with StationClient(f"http://127.0.0.1:{port}") as client:
                with pytest.raises(StationError, match="New trouble"):
                    await client.status()
            tasks.cancel_scope.cancel()


def test_it_is_imported_without_the_server() -> None:
    """The command line pays for what it uses only."""
    code = (
        "import sys, moondream_station.http.client;"
        "sys.exit(bool({'starlette', 'uvicorn', 'pydantic', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Relay:
    """Passes bytes on, until it is told to break every connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._open: set[SocketStream] = set()

    async def cut(self) -> None:
        """Break every connection there is."""
        for stream in list(self._open):
            await anyio.aclose_forcefully(stream)

    async def carry(self, client: SocketStream, target: int) -> None:
        """Carry one connection, both ways."""
        async with client, await anyio.connect_tcp("127.0.0.1", target) as server:
            self._open |= {client, server}
            async with anyio.create_task_group() as ways:
                ways.start_soon(self._pass_on, client, server)
                ways.start_soon(self._pass_on, server, client)
            self._open -= {client, server}

    async def _pass_on(self, source: SocketStream, target: SocketStream) -> None:
        try:
            async for data in source:
                await target.send(data)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            await anyio.aclose_forcefully(target)


@asynccontextmanager
async def relayed(served: Served) -> AsyncIterator[Relay]:
    """A relay in front of the server."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        relay = Relay(listener.extra(SocketAttribute.local_port))  # noqa: S610  anyio's, not Django's

        async def run(*, task_status: TaskStatus[None]) -> None:
            task_status.started()
            await listener.serve(lambda client: relay.carry(client, served.port))

        async with anyio.create_task_group() as tasks:
            await tasks.start(run)
            yield relay
            tasks.cancel_scope.cancel()
