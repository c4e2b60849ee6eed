"""What the tests of agents share."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The station serves on asyncio only."""
    return "asyncio"
