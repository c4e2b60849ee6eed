"""A worker that nobody needs ends, and gives its memory back; the next request starts it and waits."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psutil
import pytest

from moondream_station.core.bus.bus import Subscription
from moondream_station.core.facts.errors import NoActiveModel, WorkerReplaced
from moondream_station.core.facts.events import StopReason, WorkerStarted, WorkerStopped
from moondream_station.core.station import Station
from support.backends import ECHO
from support.machines import cpu_only
from support.stations import HERE, Premises, activate, caption, open_premises

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)
trio_testing = pytest.importorskip("trio.testing")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """A home whose active model is `shapes`."""
    with open_premises(tmp_path_factory.mktemp("home")) as premises:
        premises.add_model("shapes", requirements="", source=ECHO)
        activate(premises, "shapes")
        yield premises


@asynccontextmanager
async def serving(home: Premises, **settings: object) -> AsyncIterator[tuple[Station, Subscription]]:
    """A station that serves the active model, and what it publishes from then on."""
    async with home.station(CPU, serves=True, **settings) as station:
        await station.start_active()
        async with station.bus.subscribe() as events:
            yield station, events


async def pid(station: Station) -> int:
    """Whose process answers."""
    async with station.call("pid", {}) as answer:
        assert isinstance(answer, dict)
        return int(answer["pid"])


async def stopped(events: Subscription) -> WorkerStopped:
    """Wait until a worker has ended."""
    with anyio.fail_after(30):
        async for event in events:
            if isinstance(event.fact, WorkerStopped):
                return event.fact
    raise AssertionError("the subscription ended")


async def starts_before_its_end(events: Subscription, pid: int) -> list[int]:
    """The processes that started, up to the end of one of them."""
    pids: list[int] = []
    with anyio.fail_after(30):
        async for event in events:
            if isinstance(event.fact, WorkerStarted):
                pids.append(event.fact.pid)
            if isinstance(event.fact, WorkerStopped) and event.fact.pid == pid:
                return pids
    raise AssertionError("the subscription ended")


def worker(station: Station) -> Any:
    """What status says of the worker."""
    return station.status()["active"]["worker"]


async def held(station: Station) -> Any:
    """The bytes that workers hold."""
    return (await station.inspection.usage())["memory"]["worker_bytes"] or 0


async def test_stop_gives_the_memory_back_and_the_next_request_starts_it(home: Premises) -> None:
    """The process is gone when `stop` says so; status says stopped. A second one has nothing to do."""
    async with serving(home) as (station, events):
        first = await pid(station)
        assert await held(station) > 1 << 20
        assert await station.stop() == {"model": "shapes", "stopped": True}
        assert not psutil.pid_exists(first)
        assert await held(station) == 0
        assert (await stopped(events)).reason is StopReason.SHUTDOWN
        assert worker(station) == "stopped"
        assert station.stats()["status"] == "running"
        assert "caption" in station.signatures()
        assert await station.stop() == {"model": "shapes", "stopped": False}
        assert await pid(station) != first
        assert worker(station) == "ready"


async def test_stop_ends_what_runs_and_what_loads(home: Premises, tmp_path: Any) -> None:
    """Who waits for an answer is told to send it again; who waits for the worker gets another one."""
    async with serving(home) as (station, _):

        async def be_ended() -> None:
            with pytest.raises(WorkerReplaced, match="was ended before it was done with `gate`"):
                async with station.call("gate", {"path": str(tmp_path / "never")}):
                    pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(be_ended)
            while not station.status()["calls"]:  # noqa: ASYNC110  nothing tells it
                await anyio.sleep(0.01)
            assert (await station.stop())["stopped"]
        async with anyio.create_task_group() as tasks, station.bus.subscribe() as events:
            tasks.start_soon(caption, station)
            async for event in events:
                if isinstance(event.fact, WorkerStarted):
                    break
            assert worker(station) == "loading"
            assert (await station.stop())["stopped"]
        assert worker(station) == "ready"


async def test_fifty_requests_at_once_start_one_worker(home: Premises) -> None:
    """All of them are answered by it."""
    pids: list[int] = []
    async with serving(home, inference_max_queue_size=100) as (station, events):
        await station.stop()

        async def ask() -> None:
            pids.append(await pid(station))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
        assert len(pids) == 50
        (one,) = set(pids)
        await station.stop()
        assert await starts_before_its_end(events, one) == [one]


async def test_an_idle_worker_ends_after_the_settings_time(home: Premises) -> None:
    """Its memory is what it ends for."""
    async with serving(home, keep_alive=0.2) as (station, events):
        first = (await stopped(events)).pid
        assert not psutil.pid_exists(first)
        assert worker(station) == "stopped"
        assert await pid(station) != first
        assert (await stopped(events)).reason is StopReason.MEMORY


async def test_what_the_manifest_says_of_a_model_goes_first(premises: Premises) -> None:
    """0 ends it as soon as it has answered, although the setting is for ever."""
    premises.add_model("brief", requirements="", keep_alive=0)
    await anyio.to_thread.run_sync(activate, premises, "brief")
    async with premises.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        station.expect_active()
        await station.start_active()
        assert await caption(station) == "a small caption"
        assert (await stopped(events)).model == "brief"
        assert await caption(station) == "a small caption"


async def test_nothing_to_stop(premises: Premises) -> None:
    """Without an active model."""
    async with premises.station(CPU, serves=True) as station:
        with pytest.raises(NoActiveModel):
            await station.stop()


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": trio_testing.MockClock()})], ids=["trio, its clock"]
)
async def test_a_day_of_nights_and_work(home: Premises) -> None:
    """24 hours by a clock that the test turns: at night the worker is gone, by day it is always the same."""
    clock = pytest.importorskip("trio").lowlevel.current_clock()
    async with serving(home, keep_alive=1800, inference_max_queue_size=100) as (station, events):
        pids = {await pid(station)}
        busy_bytes = await held(station)
        assert busy_bytes > 1 << 20
        for hour in range(24):
            if 8 <= hour < 18:
                for _ in range(6):  # every ten minutes
                    async with anyio.create_task_group() as tasks:
                        for _ in range(10):
                            tasks.start_soon(caption, station)
                    pids.add(await pid(station))
                    clock.jump(600)
                    await anyio.wait_all_tasks_blocked()
                assert worker(station) == "ready"
                continue
            clock.jump(3600)
            if hour in {0, 18}:
                await stopped(events)
            assert await held(station) == 0
            assert worker(station) == "stopped"
        assert len(pids) == 2
        assert not any(map(psutil.pid_exists, pids))
        figures = station.figures()
        assert figures["worker_restarts"] == 0
        assert sum(shown["requests"]["ok"] for shown in figures["functions"]) == 1 + 10 * 6 * 11
        assert os.getpid() not in pids
