"""An active model whose environment is damaged and can't be made again, for now."""

from __future__ import annotations

import shutil

import anyio
import pytest

from moondream_station.core.environments.store import place_of
from moondream_station.core.facts.errors import WorkerFailed
from moondream_station.core.facts.events import ActivationFailed, ActivationSucceeded
from moondream_station.core.home.active_file import read_active
from support.index_traffic import Fault
from support.machines import cpu_only
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
