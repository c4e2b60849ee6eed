"""What the tests of HTTP share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from moondream_station.core.home.log import set_up_logging
from support.http_server import Served, serving
from support.station_api import FakeStation


@pytest.fixture
def anyio_backend() -> str:
    """The server knows asyncio only."""
    return "asyncio"


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Facts by the hundred are not logged in full."""
    set_up_logging(logging.CRITICAL, lambda: None)
    yield
    set_up_logging(logging.NOTSET, lambda: None)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server in front of a fake station."""
    async with serving(FakeStation()) as running:
        yield running
