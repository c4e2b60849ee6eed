"""Handing out wheels while they arrive: what is on disk at once, the rest as it comes, nothing spoilt."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from moondream_station.core.environments.building import Building, open_building
from moondream_station.core.fetch.download import fetch
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.fetch.wheel_server import Arrival, Arrivals
from moondream_station.core.home.layout import Home
from moondream_station.core.resolve.interpreter import own_interpreter
from support.environments import HASTY, loopback_config, made_home, served_lock
from support.index_traffic import Fault
from support.torch_index import TorchIndex
from support.wheels import module_wheel, torch_wheel

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 40_000
NAME = "torch-2.9.0+cpu-py3-none-any.whl"
TORCH = torch_wheel("2.9.0", "cpu", filler_bytes=3_000_000)
MODULE = module_wheel("module", "1.0")


@asynccontextmanager
async def served(folder: Path, content: bytes = CONTENT) -> AsyncIterator[tuple[str, Arrival, Path]]:
    """One wheel that is on its way: its URL, its arrival, and the partial file."""
    partial, finished = folder / "partial", folder / "finished"
    partial.touch()
    arrival = Arrival(len(content), partial, finished)
    arrivals = Arrivals()
    arrivals.expect({}, {NAME: arrival})
    async with arrivals.served() as urls:
        yield urls[NAME], arrival, partial


def arrive(arrival: Arrival, partial: Path, content: bytes) -> None:
    """So much of it is on disk now."""
    partial.write_bytes(content)
    arrival.grew(len(content))


async def test_what_is_on_disk_is_sent_before_the_rest_is_there(tmp_path: Path) -> None:
    """A reader gets each part when it has arrived, and the whole, whatever the file is called by then."""
    async with served(tmp_path) as (url, arrival, partial), httpx2.AsyncClient() as client:
        arrive(arrival, partial, CONTENT[:100])
        async with client.stream("GET", url) as response:
            assert response.headers["Content-Length"] == str(len(CONTENT))
            pieces = response.aiter_raw()
            read = await anext(pieces)
            while len(read) < 100:
                read += await anext(pieces)
            assert read == CONTENT[:100]
            arrive(arrival, partial, CONTENT)
            partial.rename(tmp_path / "finished")
            async for piece in pieces:
                read += piece
        assert read == CONTENT
        assert (await client.get(url)).content == CONTENT  # on the same connection, under its final name
        assert (await client.head(url)).headers["Content-Length"] == str(len(CONTENT))


async def test_only_who_knows_the_address_gets_anything(tmp_path: Path) -> None:
    """Any other path is unknown, on this server's loopback address alone."""
    async with served(tmp_path) as (url, arrival, partial), httpx2.AsyncClient() as client:
        arrive(arrival, partial, CONTENT)
        address = httpx2.URL(url)
        assert address.host == "127.0.0.1"
        assert (await client.get(address.copy_with(path=f"/{NAME}"))).status_code == 404
        assert (await client.get(address.copy_with(path="/"))).status_code == 404


async def test_a_spoilt_wheel_is_broken_off(tmp_path: Path) -> None:
    """Whoever has the beginning of a file that begins anew learns that it is none, and gets no other."""
    async with served(tmp_path) as (url, arrival, partial), httpx2.AsyncClient() as client:
        arrive(arrival, partial, CONTENT[:100])
        response = await client.send(client.build_request("GET", url), stream=True)
        arrival.spoil()
        with pytest.raises(httpx2.RemoteProtocolError):
            await response.aread()
        assert (await client.get(url)).status_code == 404


async def test_a_reader_that_goes_away_harms_nobody(tmp_path: Path) -> None:
    """The server goes on, and ends with its context, also while somebody waits for more."""
    async with served(tmp_path) as (url, arrival, partial), httpx2.AsyncClient() as client:
        arrive(arrival, partial, CONTENT[:100])
        async with client.stream("GET", url):
            pass
        request = client.build_request("GET", url)
        await client.send(request, stream=True)


@pytest.fixture
def index() -> Iterator[TorchIndex]:
    """A loopback index with a large and a small wheel."""
    with TorchIndex() as index:
        index.add_simple(TORCH)
        index.add_simple(MODULE)
        yield index


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the test's own."""
    return made_home(tmp_path)


async def fetched_into(building: Building, lock: Lock, home: Home, index: TorchIndex) -> int:
    """Fetch a lock for an environment that is on its way, and finish it; gives the number of its files."""
    async with open_client(loopback_config(index)) as client:
        wheels = await fetch(
            lock,
            home=home,
            client=client,
            publish=lambda _: None,
            patience=HASTY,
            arrivals=building.arrivals,
        )
    await building._tried.wait()
    return await building.finish(wheels)


@asynccontextmanager
async def building_of(lock: Lock, home: Home) -> AsyncIterator[Building]:
    """An environment on its way; a proxy that the user has must not come between it and its wheels."""
    environ = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    async with open_building(
        lock, home=home, interpreter=own_interpreter(), environ=environ, progress=lambda *_: None
    ) as building:
        yield building


async def test_wheels_are_unpacked_while_they_are_fetched(index: TorchIndex, home: Home) -> None:
    """When all have arrived the environment is filled, and nothing of how that was done is left in it."""
    lock = served_lock(index, TORCH, MODULE)
    async with building_of(lock, home) as building:
        files = await fetched_into(building, lock, home, index)
        assert building._is_filled
    assert files > 0
    assert not list(building.place.venv.rglob("direct_url.json"))
    assert not (building.place.path / ".build").exists()


async def test_a_damaged_arrival_is_unpacked_from_disk(index: TorchIndex, home: Home) -> None:
    """What was handed out of a file that came damaged counts for nothing: filling begins anew."""
    index.faults.append(Fault(match="*torch*", corrupt_byte=1000, times=1))
    lock = served_lock(index, TORCH, MODULE)
    async with building_of(lock, home) as building:
        await fetched_into(building, lock, home, index)
        assert not building._is_filled
    assert building.place.python.exists()


async def test_a_resumed_arrival_goes_on(index: TorchIndex, home: Home) -> None:
    """Whoever unpacks notices nothing of a connection that broke between the index and the station."""
    index.faults.append(Fault(match="*torch*", reset_after_bytes=1_200_000, times=1))
    lock = served_lock(index, TORCH, MODULE)
    async with building_of(lock, home) as building:
        await fetched_into(building, lock, home, index)
        assert building._is_filled


async def test_wheels_that_are_here_are_used_from_disk(index: TorchIndex, home: Home) -> None:
    """With one of two wheels here already, only the other one is handed out; both end up installed."""
    async with open_client(loopback_config(index)) as client:
        await fetch(served_lock(index, MODULE), home=home, client=client, publish=lambda _: None)
    lock = served_lock(index, TORCH, MODULE)
    async with building_of(lock, home) as building:
        await fetched_into(building, lock, home, index)
        assert set(building.arrivals.finished) == {MODULE.filename}
        assert building._is_filled
