"""What the tests of HTTP share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from support.http_server import Served, serving
from support.station_api import FakeStation


@pytest.fixture
def anyio_backend() -> str:
    """The server knows asyncio only."""
    return "asyncio"


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Facts by the hundred are not logged in full."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server in front of a fake station."""
    async with serving(FakeStation()) as running:
        yield running
