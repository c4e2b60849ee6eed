"""Several requests at once: in threads or processes, where a backend can and memory allows it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio.lowlevel import checkpoint

from moondream_station.core.station import Station
from support.machines import cpu_only
from support.posix import SIGKILL
from support.stations import HERE, Premises, caption, switched

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)
MEETING = '''
"""Answers only where another call runs at the same time."""
import os, time

def meet(mine, other, **kwargs):
    open(mine, "w").close()
    end = time.monotonic() + 20
    while not os.path.exists(other):
        if time.monotonic() > end:
            raise RuntimeError("nobody else is here")
        time.sleep(0.005)
    return {"pid": os.getpid()}

def caption(**kwargs):
    return {"caption": f"by {os.getpid()}"}
'''
LARGE = (
    MEETING
    + """
def fetch_backend(**kwargs):
    return 10**15
"""
)


@asynccontextmanager
async def serving(premises: Premises, parallel: str | None, source: str = MEETING) -> AsyncIterator[Station]:
    """A station that is to answer two requests at once, with a model whose backend says how."""
    premises.add_model("shapes", requirements="", source=source, parallel=parallel)
    async with premises.station(CPU, serves=True, inference_workers=2) as station:
        await switched(station, "shapes")
        yield station


async def until(station: Station, condition: Callable[[], object]) -> None:
    """Wait until something that is told with a seat or a worker is so."""
    with anyio.fail_after(30):
        await checkpoint()
        while not condition():
            await station._pool._line.changed.wait()


async def pids_of_two(station: Station, tmp_path: Path) -> set[int]:
    """Who answered two calls that wait for each other."""
    pids = set()

    async def meet(mine: str, other: str) -> None:
        paths = {"mine": str(tmp_path / mine), "other": str(tmp_path / other)}
        async with station.call("meet", paths, timeout_seconds=30) as answer:
            assert isinstance(answer, dict)
            pids.add(answer["pid"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(meet, "a", "b")
        tasks.start_soon(meet, "b", "a")
    for name in "ab":
        (tmp_path / name).unlink()
    return pids


def limited(station: Station) -> Any:
    """Why fewer requests are answered at once than asked for."""
    return station.figures()["workers_limited"]


async def test_threads_where_the_backend_is_safe_in_them(premises: Premises, tmp_path: Path) -> None:
    """One process answers both."""
    async with serving(premises, "threads") as station:
        assert len(await pids_of_two(station, tmp_path)) == 1
        assert station.stats()["workers"] == 2
        assert limited(station) is None


async def test_one_at_a_time_where_the_backend_says_nothing(premises: Premises) -> None:
    """The setting alone makes no code safe to run twice at once; why is told."""
    async with serving(premises, None) as station:
        assert await caption(station)
        assert station.stats()["workers"] == 1
        assert "`parallel`" in limited(station)


async def test_processes_each_with_one_call_and_one_that_crashes(premises: Premises, tmp_path: Path) -> None:
    """Two processes; the model stays ready while one of them is gone, which then comes back."""
    async with serving(premises, "processes") as station:
        await until(station, lambda: station.stats()["workers"] == 2)
        before = await pids_of_two(station, tmp_path)
        assert len(before) == 2
        assert station.status()["active"]["worker"] == "ready"
        os.kill(min(before), SIGKILL)
        await until(station, lambda: station.stats()["workers"] == 1)
        assert await caption(station) == f"by {max(before)}"
        assert station.status()["active"]["worker"] == "ready"
        await until(station, lambda: station.stats()["workers"] == 2)
        after = await pids_of_two(station, tmp_path)
        assert max(before) in after
        assert len(after) == 2
        assert station.figures()["worker_restarts"] == 1
        assert await station.stop() == {"model": "shapes", "stopped": True}
        assert not any(psutil.pid_exists(pid) for pid in after)


async def test_a_switch_ends_them_all(premises: Premises, tmp_path: Path) -> None:
    """And the other model's processes answer."""
    premises.add_model("other", requirements="", source=MEETING, parallel="processes")
    async with serving(premises, "processes") as station:
        await until(station, lambda: station.stats()["workers"] == 2)
        before = await pids_of_two(station, tmp_path)
        await switched(station, "other")
        await until(station, lambda: station.stats()["workers"] == 2)
        async with station._active._starting:  # nobody else wanted to start one more
            assert station.stats()["workers"] == 2
        after = await pids_of_two(station, tmp_path)
        assert len(after) == 2
        assert not before & after
        with anyio.fail_after(10):
            while any(psutil.pid_exists(pid) for pid in before):  # noqa: ASYNC110  its own time
                await anyio.sleep(0.01)


async def test_no_further_process_where_memory_does_not_suffice(premises: Premises) -> None:
    """One serves, and a sentence says what another would need."""
    async with serving(premises, "processes", LARGE) as station:
        with anyio.fail_after(30):
            while not (why := limited(station)):  # noqa: ASYNC110  nothing tells it
                await anyio.sleep(0.05)
        assert why.startswith("1 of 2 workers run: another one needs 2000001.1 GB of memory, and ")
        assert station.stats()["workers"] == 1
        assert (await caption(station)).startswith("by ")
        assert station.status()["active"]["worker"] == "ready"


async def test_a_process_that_memory_does_not_bring_back(premises: Premises, tmp_path: Path) -> None:
    """The other one serves, and a sentence says why it is alone."""
    taken = tmp_path / "taken"
    needs = f"def fetch_backend(**kwargs):\n    return 10**15 if os.path.exists({str(taken)!r}) else 1\n"
    async with serving(premises, "processes", f"{MEETING}\n{needs}") as station:
        await until(station, lambda: station.stats()["workers"] == 2)
        assert limited(station) is None
        taken.touch()
        os.kill(min(await pids_of_two(station, tmp_path)), SIGKILL)
        await until(station, lambda: limited(station))
        assert limited(station).startswith("1 of 2 workers run: another one needs ")
        assert station.stats()["workers"] == 1
