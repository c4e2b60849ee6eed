"""What a real station shows of itself beside its state."""

from __future__ import annotations

import os

import pytest

from moondream_station.core.facts.errors import NoActiveModel, StationRunning, UnknownModel, UsageError
from moondream_station.core.home.locks import announce_station
from support.stations import Premises, caption, switched

pytestmark = pytest.mark.anyio


async def test_a_station_is_looked_at(premises: Premises) -> None:
    """Plan, journal, memory, functions; a model is forgotten, but not the one that is served."""
    premises.add_model("colours")
    premises.add_model("shapes", requirements="")
    async with premises.station(serves=True) as station:
        with pytest.raises(NoActiveModel):
            await station.inspection.remove("colours")
        course = await switched(station, "shapes")
        course = await switched(station, "colours")
        await caption(station)
        plan = await station.inspection.plan("colours", None)
        assert (plan["build"], plan["strategy"]) == ("cpu", "auto")
        assert {row["build"] for row in plan["candidates"] if row["verdict"] == "rejected"} > {"cu126"}
        with pytest.raises(UsageError):
            await station.inspection.plan("colours", "fastest")
        with pytest.raises(UnknownModel):
            await station.inspection.plan("nope", None)
        listed = (await station.inspection.activations())["activations"]
        assert [(row["model"], row["outcome"]) for row in listed] == [
            ("colours", "succeeded"),
            ("shapes", "succeeded"),
        ]
        journal = await station.inspection.activation(course.activation)
        assert journal is not None
        assert journal["events"][-1]["event"] == "ActivationSucceeded"
        usage = await station.inspection.usage()
        assert 0 < usage["memory"]["worker_bytes"] < usage["memory"]["total_bytes"]
        assert 0 < usage["disk"]["free_bytes"] < usage["disk"]["total_bytes"]
        worker = station.status()["worker"]
        assert "caption" in worker["functions"]
        assert (worker["failure"], worker["pid"] in (None, os.getpid())) == (None, False)
        assert (await station.inspection.logs(None))["model"] == "colours"
        announce_station(premises.home, address="http://127.0.0.1:9", instance="i", version="0")
        with pytest.raises(StationRunning):
            await station.inspection.remove("colours")
        await station.inspection.remove("shapes")
        models = {model["id"]: model for model in station.models()["models"]}
        assert models["shapes"]["environment"] is None
        assert models["colours"]["environment"]["build"] == "cpu"
