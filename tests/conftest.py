"""What every test shares."""

from __future__ import annotations

import pytest
from hypothesis import settings

# How long one example takes says more about the machine that runs it, and what else it does, than about us.
settings.register_profile("station", deadline=None)
settings.register_profile("long", deadline=None, max_examples=2_000)  # pytest --hypothesis-profile=long
settings.load_profile("station")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let CI run the core on asyncio alone where further interpreters are checked."""
    parser.addoption("--asyncio-only", action="store_true", help="run the core's tests on asyncio only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs on trio, when asked to."""
    if not config.getoption("--asyncio-only"):
        return
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        on_trio = callspec is not None and callspec.params.get("anyio_backend") == "trio"
        (left_out if on_trio else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every event loop the core supports; edges that know only asyncio override this fixture."""
    return str(request.param)
