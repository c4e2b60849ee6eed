"""An active model whose environment is damaged and can't be made again, for now."""

from __future__ import annotations

import os
import shutil

import anyio
import pytest

from moondream_station.core.environments.store import place_of
from moondream_station.core.facts.errors import WorkerFailed
from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    WorkerStarted,
)
from moondream_station.core.home.active_file import read_active
from support.backends import ECHO
from support.index_traffic import Fault
from support.machines import cpu_only
from support.posix import SIGKILL
from support.stations import HERE, Course, Premises, caption, switched

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)


@pytest.fixture
async def damaged(premises: Premises) -> Premises:
    """Premises whose active model lost a part of its environment and its downloads; the index fails."""
    async with premises.station(CPU) as station:
        await switched(station, "colours")
    place_of(premises.home, read_active(premises.home).models["colours"].environment).pylock.unlink()
    for folder in (premises.home.downloads, premises.home.cache):
        shutil.rmtree(folder, ignore_errors=True)
    premises.index.faults.append(Fault(match="*", status=404))
    return premises


@pytest.mark.parametrize("lost", ["venv/pyvenv.cfg", "venv/bin/python", "*/site-packages/torch/__init__.py"])
async def test_it_is_made_again_from_its_own_lock_without_a_network(premises: Premises, lost: str) -> None:
    """The same packages, from the wheels in the home, although no index answers and a newer torch exists."""
    async with premises.station(CPU) as station:
        await switched(station, "colours")
    before = read_active(premises.home).models["colours"].environment
    place = place_of(premises.home, before)
    next(place.path.rglob(lost)).unlink()
    shutil.rmtree(premises.home.cache, ignore_errors=True)
    premises.index.faults.append(Fault(match="*", status=404))
    asked = len(premises.index.requests)
    async with premises.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        station.expect_active()
        await station.start_active()
        latest = station.state.activation
        assert latest is not None
        await Course(events, latest.id, joined=False).end(ActivationSucceeded)
        assert await caption(station) == "a small caption"
    after = read_active(premises.home).models["colours"].environment
    assert after != before
    assert place_of(premises.home, after).pylock.read_bytes() == place.pylock.read_bytes()
    assert len(premises.index.requests) == asked


async def test_damage_is_found_when_the_worker_ends_and_repaired(premises: Premises) -> None:
    """A worker can't be restarted there: the environment is made again at once, without a network."""
    async with premises.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await switched(station, "colours")
        place = place_of(premises.home, read_active(premises.home).models["colours"].environment)
        next(place.path.rglob("*/site-packages/torch/__init__.py")).unlink()
        premises.index.faults.append(Fault(match="*", status=404))
        async with station.call("pid", {}) as answer:
            assert isinstance(answer, dict)
            os.kill(answer["pid"], SIGKILL)
        with anyio.fail_after(30):
            async for event in events:
                fact = event.fact
                if isinstance(fact, ActivationSucceeded) and fact.environment != place.name:
                    break
        assert await caption(station) == "a small caption"


@pytest.mark.parametrize("asks_again", [True, False], ids=["by the user", "by itself"])
async def test_it_is_told_at_once_and_tried_again(damaged: Premises, *, asks_again: bool) -> None:
    """Requests get cause and remedy, not a minute of waiting; status has a failed worker."""
    async with damaged.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        station.expect_active()
        await station.start_active()
        latest = station.state.activation
        assert latest is not None
        failure = await Course(events, latest.id, joined=False).end(ActivationFailed)
        with anyio.fail_after(5), pytest.raises(WorkerFailed) as refused:
            await caption(station)
        assert failure.error.message in refused.value.message
        assert "moondream-station switch colours" in (refused.value.hint or "")
        assert station.status()["active"]["worker"] == "failed"
        damaged.index.faults.clear()
        if asks_again:
            await switched(station, "colours")
        else:
            with anyio.fail_after(30):
                async for event in events:
                    if isinstance(event.fact, ActivationSucceeded):
                        break
        assert await caption(station) == "a small caption"
        assert station.status()["active"]["worker"] == "ready"


async def test_a_worker_that_failed_too_often_is_tried_again_after_a_pause(
    premises: Premises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in its way may be gone by then: it serves again, without another installation."""
    monkeypatch.setattr("moondream_station.core.activation.active_model.RECOVERY_PAUSES", (2.0,))
    ill = premises.folder / "ill"
    source = f"import os\nif os.path.exists({str(ill)!r}):\n    raise RuntimeError('ill')\n\n{ECHO}"
    premises.add_model("frail", source=source)
    async with premises.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        station._pool.back_off_seconds = (0.0, 0.0)
        await switched(station, "frail")
        async with station.call("pid", {}) as answer:
            assert isinstance(answer, dict)
            ill.touch()
            os.kill(answer["pid"], SIGKILL)
        with anyio.fail_after(30), pytest.raises(WorkerFailed, match="ill"):
            await caption(station)
        ill.unlink()
        seen = station.state.seq
        with anyio.fail_after(30):
            async for event in events:
                if isinstance(event.fact, WorkerStarted) and event.seq > seen:
                    break
        assert await caption(station) == "a small caption"
        activations = {event.activation for event in station.bus._history.after(0)}
    assert len(activations - {None}) == 1
