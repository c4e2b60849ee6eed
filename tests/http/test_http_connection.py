"""Requests that are not quite HTTP, and clients that keep the station waiting, byte by byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from moondream_station.http.api import Answer
from moondream_station.http.connection import Patience
from moondream_station.http.functions import UNREAD_CHUNKS
from support.http_server import Line, Served, serving
from support.station_api import Chunks, FakeStation, chunks, gives

pytestmark = pytest.mark.anyio

HEAD = "POST /v1/caption HTTP/1.1\nHost: localhost\nContent-Type: application/json\n"
BRIEF = Patience(head=0.2, silence=0.2, deafness=0.2, looks=0.05)


@pytest.fixture
def served_station(served: Served) -> Served:
    """A server whose backend captions."""
    served.station.backend["caption"] = gives({"caption": "a dog"})
    return served


async def all_of(line: Line) -> bytes:
    """Whatever still comes until the station closes the connection."""
    received = b""
    try:
        async for data in line.stream:
            received += data
    except anyio.BrokenResourceError:
        pass
    return received


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\nTransfer-Encoding: chunked\n",
        "Transfer-Encoding: chunked\nContent-Length: 5\n",
        "Content-Length: 2, 2\n",
        "Content-Length: 2\nContent-Length: 2\n",
        "content-length: 2\nX-Long: one\n two\n",
        "X-Long: one\n\ttwo\nContent-Length: 2\n",
        "Content-Length: two\n",
        "Content-Length : 2\n",
    ],
)
async def test_a_head_that_others_read_differently_is_refused(served_station: Served, head: str) -> None:
    """With 400 and the reason, and the connection is closed (RFC 9112, 5.2, 6.1 and 6.3)."""
    async with served_station.line() as line:
        await line.send(HEAD + head + "\n{}")
        reply = await line.read_reply()
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert json.loads(reply.body)["error"]["code"] == "request-invalid"
        assert await all_of(line) == b""
    assert served_station.station.calls == []


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://HOST/health", 200),
        ("HTTP://localhost/v1/stats?x=1", 200),
        ("http://localhost", 200),
        ("http://rebound.example/health", 403),
        ("http://user@localhost/health", 403),
    ],
)
async def test_a_target_may_be_absolute(served: Served, target: str, status: int) -> None:
    """Its authority counts, not the `Host` header (RFC 9112, 3.2.2)."""
    reply = await served.exchange(f"GET {target} HTTP/1.1\nHost: ignored.example\n\n")
    assert reply.status == status


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("GET  /health HTTP/1.1\nHost: localhost\n\n", "illegal request line"),
        ("GET /health HTTP/1.1\nHost: localhost\nno header\n\n", "illegal header line"),
        (HEAD + "Transfer-Encoding: chunked\n\nnone\n", "illegal chunk header"),
    ],
)
async def test_what_is_not_valid_is_named_and_not_quoted(served: Served, head: str, reason: str) -> None:
    """Least of all as Python writes bytes."""
    async with served.line() as line:
        await line.send(head)
        reply = await line.read_reply()
    assert f'"The request is not valid HTTP: {reason}"' in reply.body.decode()


async def test_a_chunk_size_that_never_ends(served_station: Served) -> None:
    """It is refused after 64 KiB, and nothing is called."""
    async with served_station.line() as line:
        await line.send(HEAD + "Transfer-Encoding: chunked\n\n")
        await line.send(b"0" * 70_000)
        assert (await line.read_reply()).status == 400
        assert await all_of(line) == b""
    assert served_station.station.calls == []


async def test_nothing_is_written_into_an_answer(served: Served) -> None:
    """Where the request breaks off in its body after the answer has begun, the connection just ends."""
    async with served.line() as line:
        await line.send("GET /v1/station/events HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n")
        assert (await line.read_head())[0] == 200
        await line.send("not a chunk\n")
        rest = await all_of(line)
    assert b"HTTP/1.1" not in rest
    assert b"not valid HTTP" not in rest


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        ("", None),
        ("POST /v1/caption HT", 408),
        (HEAD, 408),
        (HEAD + "Content-Length: 10\n\n", 408),
        (HEAD + 'Content-Length: 10\n\n{"a"', 408),
        (HEAD + "Transfer-Encoding: chunked\n\n5\n{", 408),
    ],
)
async def test_a_client_that_stops_half_way_is_let_go(begun: str, status: int | None) -> None:
    """One that said nothing is hung up on; the others are told."""
    station = FakeStation()
    station.backend["caption"] = gives({})
    async with serving(station, patience=BRIEF) as served, served.line() as line:
        if begun:
            await line.send(begun)
        answer = await all_of(line)
    assert answer[:12] == (b"" if status is None else b"HTTP/1.1 %d" % status)
    assert station.calls == []


async def test_a_body_that_drips_is_let_go() -> None:
    """One byte after the other would hold a connection, and what it may take, for ever."""
    station = FakeStation()
    station.backend["caption"] = gives({})

    async def drip() -> None:
        while True:
            await line.send(" ")
            await anyio.sleep(0.05)

    async with serving(station, patience=BRIEF) as served, served.line() as line:
        await line.send(HEAD + "Content-Length: 100\n\n")
        async with anyio.create_task_group() as dripping:
            dripping.start_soon(drip)
            assert (await line.read_reply()).status == 408
            dripping.cancel_scope.cancel()


async def test_patience_is_for_clients_alone() -> None:
    """How long the backend takes is no concern of the connection's."""

    async def slowly(_arguments: Mapping[str, Any]) -> Answer:
        await anyio.sleep(0.8)
        return {"caption": "a dog"}

    station = FakeStation()
    station.backend["caption"] = slowly
    async with serving(station, patience=BRIEF) as served, served.line() as line:
        for _ in range(2):
            await line.send(HEAD + "Content-Length: 2\n\n{}")
            assert (await line.read_reply()).status == 200


async def test_a_client_that_reads_nothing_frees_the_worker() -> None:
    """What the backend says is kept for it up to a bound, and up to the call's own limit."""
    taken = 0

    async def endless() -> AsyncIterator[str]:
        nonlocal taken
        while True:
            await anyio.lowlevel.checkpoint()
            taken += 1
            yield "x" * 10_000

    station = FakeStation()
    station.backend["caption"] = lambda _: Chunks(endless(), {})
    async with serving(station) as served, served.line() as line:
        body = '{"stream": true, "timeout": 0.2}'
        await line.send(f"{HEAD}Content-Length: {len(body)}\n\n{body}")
        assert (await line.read_head())[0] == 200
        while not station.left:  # noqa: ASYNC110  the fake tells nobody
            await anyio.sleep(0.01)
        assert taken < UNREAD_CHUNKS + 2000  # and what the system's buffers hold
        assert b'"code":"worker-timeout"' in await all_of_stream(line)


async def all_of_stream(line: Line) -> bytes:
    """The rest of a stream, up to its end."""
    received = b""
    while not received.endswith(b"\r\n0\r\n\r\n"):
        received += await line.stream.receive()
    return received


async def test_a_client_that_reads_slowly_holds_no_worker() -> None:
    """A backend that is done is free, although the client has not read what it said."""
    texts = ["x" * 10_000] * UNREAD_CHUNKS
    station = FakeStation()
    station.backend["caption"] = lambda _: chunks(*texts)
    async with serving(station) as served, served.line() as line:
        body = '{"stream": true}'
        await line.send(f"{HEAD}Content-Length: {len(body)}\n\n{body}")
        while not station.left:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        assert b'"completed":true' in await all_of_stream(line)


async def test_a_client_that_never_reads_is_let_go() -> None:
    """Its connection is closed; until then it costs nothing but what is kept for it."""
    station = FakeStation()
    text = "x" * (8 << 20)
    station.backend["caption"] = gives({"caption": text})
    async with serving(station, patience=BRIEF) as served, served.line() as line:
        await line.send(HEAD + "Content-Length: 2\n\n{}")
        await anyio.sleep(0.5)
        assert len(await all_of(line)) < len(text)


async def test_a_lone_surrogate_is_no_text(served_station: Served) -> None:
    """It can be written in JSON, but no backend can encode it (RFC 8259, 8.2)."""
    for body in (b'{"question": "\\ud800"}', b'{"question": "\xed\xa0\x80"}', b'{"\\udfff": 1}'):
        async with served_station.line() as line:
            await line.send(
                HEAD.replace("\n", "\r\n").encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            reply = await line.read_reply()
        assert (reply.status, json.loads(reply.body)["code"]) == (400, "request-invalid")
    async with served_station.line() as line:
        body = b'{"question": "\\ud83d\\ude00"}'
        await line.send(
            HEAD.replace("\n", "\r\n").encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        assert (await line.read_reply()).status == 200
    assert served_station.station.calls[0][1]["question"] == "\N{GRINNING FACE}"
