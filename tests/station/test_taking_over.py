"""Workers that get ready late: whatever the order, the station serves the active model and no other."""

from __future__ import annotations

import builtins
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from moondream_station.core.bus.bus import Subscription
from moondream_station.core.environments.store import place_of
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    Fact,
    StopReason,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.home.active_file import read_active
from support.machines import cpu_only
from support.stations import HERE, Premises, caption, course_of, switched

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)

GATED = """
import os, time

def init_backend(gate, **args):
    open(gate + ".loading", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.01)
    with open(gate) as file:
        if file.read():
            raise RuntimeError("no weights here")

def caption(**kwargs):
    return {"caption": "late"}
"""
"""Loads until a file is there, and fails where that says something."""


def open_gate(gate: Path, text: str = "") -> None:
    """Make the file with all that it says: a model that finds it reads it at once."""
    whole = gate.with_name(f"{gate.name}.new")
    whole.write_text(text)
    whole.replace(gate)


async def next_fact(events: Subscription, kind: type[Fact], model: str) -> Fact:
    """Read on to the next fact of a kind about a model."""
    with anyio.fail_after(20):
        async for event in events:
            if isinstance(event.fact, kind) and getattr(event.fact, "model", None) == model:
                return event.fact
    raise AssertionError("the subscription ended")


@pytest.fixture
async def late(premises: Premises) -> Premises:
    """Premises whose active model `late` loads until the file `late` is there, and `later` likewise."""
    for model in ("late", "later"):
        args = {"gate": str(premises.folder / model)}
        premises.add_model(model, requirements="", source=GATED, args=args)
    premises.add_model("shapes", requirements="")
    (premises.folder / "late").touch()
    async with premises.station(CPU) as station:
        await switched(station, "late")
    for name in ("late", "late.loading"):
        (premises.folder / name).unlink()
    return premises


async def test_one_that_was_replaced_while_it_loaded(late: Premises) -> None:
    """It makes room even for a small one, and does not come back."""
    late.add_model("selftest", requirements="")
    async with (
        late.station(CPU, serves=True) as station,
        station.bus.subscribe() as events,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(station.start_active)
        await next_fact(events, WorkerStarted, "late")
        await switched(station, "selftest")
        stopped = await next_fact(events, WorkerStopped, "late")
        assert isinstance(stopped, WorkerStopped)
        assert stopped.reason is StopReason.MEMORY
        assert await caption(station) == "a small caption"
        assert station.stats()["model"] == "selftest"


async def test_one_that_still_loads_makes_room(late: Premises) -> None:
    """Two never load side by side; where the new one is cancelled, the former one is loaded again."""
    async with (
        late.station(CPU, serves=True) as station,
        station.bus.subscribe() as events,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(station.start_active)
        await next_fact(events, WorkerStarted, "late")
        async with course_of(station, "later") as course:
            while not (late.folder / "later.loading").exists():  # noqa: ASYNC110  the worker makes it
                await anyio.sleep(0.01)
            station.request_cancel()
            await course.end(ActivationCancelled)
        stopped = await next_fact(events, WorkerStopped, "late")
        assert isinstance(stopped, WorkerStopped)
        assert stopped.reason is StopReason.MEMORY
        await next_fact(events, WorkerStarted, "late")
        (late.folder / "late").touch()
        assert await caption(station) == "late"


@pytest.mark.parametrize("fails", [True, False])
async def test_one_that_is_to_start_while_another_loads(late: Premises, *, fails: bool) -> None:
    """As `serve --model` has it: the active model's worker is started only where the new one fails."""
    async with late.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        async with course_of(station, "later") as course:
            while not (late.folder / "later.loading").exists():  # noqa: ASYNC110  the worker makes it
                await anyio.sleep(0.01)
            with anyio.move_on_after(5):  # it waits for nobody
                await station.start_active()
            assert not (late.folder / "late.loading").exists()
            (late.folder / "late").touch()
            open_gate(late.folder / "later", "broken" if fails else "")
            await course.end(ActivationFailed if fails else ActivationSucceeded)
        assert await caption(station) == "late"
        assert station.stats()["model"] == ("late" if fails else "later")
    started = [event.fact.model async for event in events if isinstance(event.fact, WorkerStarted)]
    assert started == (["later", "late"] if fails else ["later"])


async def test_one_that_was_replaced_before_it_failed(late: Premises) -> None:
    """Nobody asked for it any more: it is not activated anew in the place of what was."""
    async with late.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(station.start_active)
            await next_fact(events, WorkerStarted, "late")
            await switched(station, "shapes")
            open_gate(late.folder / "late", "broken")
        assert station.state.activation is None
        assert station.active_model == "shapes"
        async with station.call("caption", {}, timeout_seconds=30) as answer:
            assert answer == {"caption": "a small caption"}


@pytest.mark.parametrize("is_whole", [True, False])
async def test_one_that_was_replaced_before_it_began(
    late: Premises, monkeypatch: pytest.MonkeyPatch, *, is_whole: bool
) -> None:
    """While its environment was looked at, another one took over: that one serves, whatever was found."""
    lock = place_of(late.home, read_active(late.home).models["late"].environment).pylock
    may_read, open_now = threading.Event(), builtins.open

    def open_later(file: Any, *args: Any, **options: Any) -> Any:
        if str(file) == str(lock):
            may_read.wait(60)
        return open_now(file, *args, **options)

    monkeypatch.setattr(builtins, "open", open_later)
    async with late.station(CPU, serves=True) as station:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(station.start_active)
            await switched(station, "shapes")
            (late.folder / "late").touch()
            if not is_whole:
                lock.write_text("broken")
            may_read.set()
        assert station.state.activation is None
        async with station.call("caption", {}, timeout_seconds=30) as answer:
            assert answer == {"caption": "a small caption"}
        assert station.stats()["model"] == station.active_model == "shapes"
