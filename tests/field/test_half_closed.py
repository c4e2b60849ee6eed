"""A client that ends its own side of the connection after its request, as `nc -N` and some libraries do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import anyio
import pytest

from moondream_station.http.api import Answer
from support.http_server import PATIENCE_SECONDS, Served, serving
from support.station_api import FakeStation, chunks

pytestmark = pytest.mark.anyio

REQUEST = """\
POST /v1/query HTTP/1.1
Host: HOST
Content-Type: application/json
Content-Length: 17
Connection: {connection}

{{"question":"hi"}}"""


@pytest.fixture
def anyio_backend() -> str:
    """The server knows asyncio only."""
    return "asyncio"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server in front of a fake station."""
    async with serving(FakeStation()) as running:
        yield running


async def answer_to(served: Served, request: str) -> bytes:
    """All that comes back to a client that sends a request and ends its side."""
    received = b""
    async with served.line() as line:
        await line.send(request.replace("HOST", f"127.0.0.1:{served.port}"))
        await line.stream.send_eof()
        async for data in line.stream:
            received += data
    return received


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize("seconds", [0.0, 0.2, 1.2])
async def test_it_gets_its_answer(served: Served, connection: str, seconds: float) -> None:
    """Whole, also where it takes a while (RFC 9112, 9.6); then the connection is closed."""

    async def backend(_arguments: Mapping[str, object]) -> Answer:
        await anyio.sleep(seconds)
        return {"answer": "hello"}

    served.station.backend["query"] = backend
    answer = await answer_to(served, REQUEST.format(connection=connection))
    assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n" * (2 if seconds > 1 else 0)).startswith(
        b"HTTP/1.1 200 "
    )
    assert b'"answer":"hello"' in answer


async def test_it_gets_its_stream(served: Served) -> None:
    """Every chunk of it."""
    served.station.backend["query"] = lambda _: chunks("a", "b")
    request = REQUEST.format(connection="close").replace("Length: 17", "Length: 31")
    answer = await answer_to(served, request.replace("}", ',"stream":true}'))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"completed" in answer


async def test_one_that_has_left_holds_nothing(served: Served) -> None:
    """It looks the same at first, and is found out by what is written to it: its call is cancelled."""

    async def backend(_arguments: Mapping[str, object]) -> Answer:
        await anyio.sleep_forever()
        raise AssertionError

    served.station.backend["query"] = backend
    async with served.line() as line:
        request = REQUEST.format(connection="close")
        await line.send(request.replace("HOST", f"127.0.0.1:{served.port}"))
        while not served.station.calls:  # noqa: ASYNC110  the fake tells nobody
            await anyio.sleep(0.01)
    with anyio.fail_after(PATIENCE_SECONDS):
        while not served.station.left:  # noqa: ASYNC110
            await anyio.sleep(0.01)
