"""What every test shares."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings

from support.commands import in_process
from support.stations import Premises, activate, open_premises

# How long one example takes says more about the machine that runs it, and what else it does, than about us.
settings.register_profile("station", deadline=None)
settings.register_profile("short", deadline=None, max_examples=20)  # for further interpreters
settings.register_profile("long", deadline=None, max_examples=2_000)  # pytest --hypothesis-profile=long
settings.load_profile("station")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let CI run the core on asyncio alone where further interpreters are checked."""
    parser.addoption("--asyncio-only", action="store_true", help="run the core's tests on asyncio only")
    parser.addoption(
        "--in-process", action="store_true", help="start no process for commands where none is needed"
    )
    parser.addoption("--faults", action="store_true", help="run every fault of tests/faults, too")


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist hand out files in the order of their collection."""
    # A shell ignores SIGINT and SIGQUIT in what it puts into the background, nohup SIGHUP; every child would
    # inherit that, and tests send them.
    for number in (signal.SIGINT, *(getattr(signal, name, None) for name in ("SIGQUIT", "SIGHUP"))):
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if hasattr(config.option, "loadscopereorder"):  # its own order puts the longest last
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run commands in processes of their own where a test says that it is about these."""
    in_process.wanted = (
        item.config.getoption("--in-process") or item.get_closest_marker("own_process") is None
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs on trio, when asked to, and the long tests of faults unless asked for.

    Files of few tests come first: theirs start processes and take seconds, the hundreds of others none.
    """
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        on_trio = callspec is not None and callspec.params.get("anyio_backend") == "trio"
        is_long = item.get_closest_marker("faults") is not None
        unwanted = (on_trio and config.getoption("--asyncio-only")) or (
            is_long and not config.getoption("--faults")
        )
        (left_out if unwanted else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    tests = Counter(item.path for item in kept)
    items[:] = sorted(kept, key=lambda item: tests[item.path])


def pytest_collection_finish() -> None:
    """Keep what was collected out of each pass of the garbage collector, which took 7 % of the time."""
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every event loop the core supports; edges that know only asyncio override this fixture."""
    return str(request.param)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """A home with the active model `colours`, one for all tests of a file: they leave it whole."""
    with open_premises(tmp_path_factory.mktemp("lasting")) as premises:
        premises.add_model("colours")
        activate(premises, "colours")
        yield premises
