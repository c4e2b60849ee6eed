"""What the active model goes through while another one is fetched and loaded in its place."""

from __future__ import annotations

import anyio
import pytest

from moondream_station.core.bus.bus import Subscription
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    Stage,
    StageProgressed,
    StopReason,
    WorkerStopped,
)
from support.machines import cpu_only
from support.stations import HERE, Premises, caption, course_of, failed, switched

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)

FETCHING = """
import os, time

def fetch_backend(needed, gate=None, progress=None):
    progress(0, 10)
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    if needed is None:
        error = RuntimeError("nobody has the weights")
        error.cause = "weights-unreachable"
        raise error
    return needed

def init_backend(**args):
    pass

def caption(**kwargs):
    return {"caption": "fetched"}
"""
PETABYTE = 10**15


async def first_stopped(events: Subscription) -> str:
    """Whose worker ended first, since the subscription began."""
    with anyio.fail_after(20):
        async for event in events:
            if isinstance(event.fact, WorkerStopped):
                return event.fact.model
    raise AssertionError("the subscription ended")


@pytest.fixture
async def active(premises: Premises) -> Premises:
    """Premises whose active model is `shapes`."""
    premises.add_model("shapes", requirements="")
    async with premises.station(CPU) as station:
        await switched(station, "shapes")
    return premises


async def reasons(premises: Premises, *, needed: int) -> list[StopReason]:
    """Why the worker of `shapes` ended, when a model that needs so much memory was switched to."""
    premises.add_model("fetched", requirements="", source=FETCHING, args={"needed": needed})
    async with premises.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        assert await caption(station) == "a small caption"
        station.request_switch("fetched")
        stops: list[WorkerStopped] = []
        has_succeeded = False
        with anyio.fail_after(30):
            while not (stops and has_succeeded):
                fact = (await anext(events)).fact
                if isinstance(fact, WorkerStopped):
                    stops.append(fact)
                has_succeeded |= isinstance(fact, ActivationSucceeded)
        assert await caption(station) == "fetched"
    assert {stop.model for stop in stops} == {"shapes"}
    return [stop.reason for stop in stops]


async def test_where_memory_suffices_both_are_there(active: Premises) -> None:
    """The old one answers until the new one does."""
    assert await reasons(active, needed=0) == [StopReason.REPLACED]


async def test_where_memory_does_not_suffice_the_old_one_makes_room(active: Premises) -> None:
    """Before the new one loads."""
    assert await reasons(active, needed=PETABYTE) == [StopReason.MEMORY]


async def test_the_old_model_answers_while_weights_are_fetched(active: Premises) -> None:
    """Also where it must make room in the end; cancelled meanwhile, nothing has happened to it."""
    args = {"needed": PETABYTE, "gate": str(active.folder / "gate")}
    active.add_model("fetched", requirements="", source=FETCHING, args=args)
    async with active.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        async with course_of(station, "fetched") as course:
            await course.until(StageProgressed, stage=Stage.VERIFY, unit="bytes")
            assert await caption(station) == "a small caption"
            station.request_cancel()
            await course.end(ActivationCancelled)
        assert await caption(station) == "a small caption"
        assert await first_stopped(events) == "fetched"


async def test_weights_that_can_not_be_had_interrupt_nothing(active: Premises) -> None:
    """The worker that served goes on; it is not even started anew."""
    active.add_model("fetched", requirements="", source=FETCHING, args={"needed": None})
    async with active.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        course = await failed(station, "fetched")
        assert course.only(ActivationFailed).error.code == "weights-unreachable"
        assert await caption(station) == "a small caption"
        assert await first_stopped(events) == "fetched"
