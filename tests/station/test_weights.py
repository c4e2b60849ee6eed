"""Weights are asked for before anything is installed: what they take, and whether they can be downloaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moondream_station.core.facts.events import (
    ActivationFailed,
    BuildSelected,
    CapabilitiesDetected,
    Stage,
    StageProgressed,
)
from moondream_station.core.facts.selection import FitVerdict
from support.commands import run, run_json
from support.index_traffic import Fault
from support.machines import cpu_only
from support.model_hub import COMMIT, ModelHub
from support.stations import HERE, Premises, caption, failed, switched
from support.weights import Tensors, write_model
from support.wheels import module_wheel

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)
ARGS = {"model_id": "me/tiny"}
FILES: dict[str, Tensors] = {"model.safetensors": {"x": ("BF16", (1000,))}}


@pytest.fixture
def hub(premises: Premises) -> Iterator[ModelHub]:
    """A hub on loopback that has me/tiny, for a station whose backend loads with transformers."""
    with ModelHub() as hub:
        hub.repositories["me/tiny"] = write_model(premises.folder / "tiny", FILES)
        premises.variables["HF_ENDPOINT"] = hub.address
        premises.index.add_simple(module_wheel("transformers", "4.57.6"))
        premises.add_model("tiny", requirements="torch>=2.8\ntransformers>=4.56\n", args=ARGS)
        yield hub


def fetched_wheels(premises: Premises) -> list[str]:
    """The wheels that the index was asked for."""
    return [request.path for request in premises.index.requests if request.path.endswith(".whl")]


async def test_what_the_manifest_does_not_say_the_weights_do(premises: Premises, hub: ModelHub) -> None:
    """The choice of the build is told with the sum; afterwards `models` and `plan --offline` know it too."""
    async with premises.station(CPU) as station:
        course = await switched(station, "tiny")
        fit = course.only(BuildSelected).fit
        assert fit is not None
        assert fit.verdict in {FitVerdict.FITS, FitVerdict.TIGHT}
        assert "4 kB for weights in float32" in fit.reason
        hub.server.clear_requests()
        listed = {model["id"]: model["fit"] for model in station.models()["models"]}
        assert listed["tiny"]["reason"].partition("(")[2] == fit.reason.partition("(")[2]
    planned = run_json(premises, "plan", "--model", "tiny", "--offline")
    assert "4 kB for weights in float32" in planned["fit"]["reason"]
    assert not hub.server.requests


async def test_weights_that_are_too_large_fetch_nothing(premises: Premises, hub: ModelHub) -> None:
    """Neither for the memory, by their numbers, nor for the disk, by their files."""
    hub.huge.add("me/tiny")
    async with premises.station(CPU) as station:
        course = await failed(station, "tiny")
        failure = course.only(ActivationFailed)
        assert (failure.error.code, failure.stage) == ("does-not-fit", Stage.SELECT)
        assert "needs 1000001.1 GB of memory; " in failure.error.message
        assert "needs 1000000.1 GB on the disk; " in failure.error.message
        assert "(1000000.0 GB for weights, 67 MB to stay free)" in failure.error.message
        assert fetched_wheels(premises) == []
        await switched(station, "tiny", anyway=True)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(match="*", status=403, headers={"X-Error-Code": "GatedRepo"}), "have accepted its terms"),
        (Fault(match="*", status=404), "There is no model me/tiny on 127.0.0.1"),
    ],
)
async def test_weights_that_can_not_be_had_install_nothing(
    premises: Premises, hub: ModelHub, fault: Fault, words: str
) -> None:
    """A refusal ends the switch before the index is asked for a wheel; a user may go on regardless."""
    hub.server.faults.append(fault)
    async with premises.station(CPU) as station:
        course = await failed(station, "tiny")
        failure = course.only(ActivationFailed)
        assert (failure.error.code, failure.stage) == ("weights-unreachable", Stage.PREPARE)
        assert words in failure.error.message
        assert fetched_wheels(premises) == []
        hub.server.clear_requests()
        await switched(station, "tiny", anyway=True)
        assert not hub.server.requests


async def test_a_backend_that_may_mean_something_else_goes_on(premises: Premises, hub: ModelHub) -> None:
    """Without the hub's client among its requirements `model_id` may be another shop's."""
    premises.add_model("other", args={"model_id": "shop/another"})
    async with premises.station(CPU) as station:
        fit = (await switched(station, "other")).only(BuildSelected).fit
    assert fit is not None
    assert fit.verdict is FitVerdict.UNKNOWN
    assert fit.reason.endswith("how much memory it needs, and 127.0.0.1 does not give it")


async def test_a_hub_that_is_busy_ends_nothing(premises: Premises, hub: ModelHub) -> None:
    """It may answer by the time the weights are downloaded."""
    hub.server.faults.append(Fault(match="*", status=429))
    async with premises.station(CPU) as station:
        fit = (await switched(station, "tiny")).only(BuildSelected).fit
    assert fit is not None
    assert "127.0.0.1 can't tell: it answers 429" in fit.reason


async def test_a_slow_hub_is_waited_for_visibly(premises: Premises, hub: ModelHub) -> None:
    """The machine is detected by then: whoever looks sees what is still missing."""
    hub.server.faults.append(Fault(match="/api/*", bytes_per_second=150))
    async with premises.station(CPU) as station:
        course = await switched(station, "tiny")
    told = [fact for fact in course.every(StageProgressed) if fact.stage is Stage.DETECT]
    assert {(fact.done, fact.total, fact.unit) for fact in told} == {(0, 1, "answers from the hub")}
    assert course.facts.index(told[0]) > course.facts.index(course.only(CapabilitiesDetected))


async def test_offline_by_the_users_wish(premises: Premises, hub: ModelHub) -> None:
    """A snapshot in the hub's cache will do; without one, nothing is installed."""
    premises.variables["HF_HUB_OFFLINE"] = "1"
    async with premises.station(CPU) as station:
        failure = (await failed(station, "tiny")).only(ActivationFailed)
        assert failure.error.code == "weights-unreachable"
        assert "HF_HUB_OFFLINE" in failure.error.message
        assert fetched_wheels(premises) == []
        cache = premises.folder / ".cache" / "huggingface" / "hub" / "models--me--tiny"
        write_model(cache / "snapshots" / COMMIT, FILES)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(COMMIT)
        fit = (await switched(station, "tiny")).only(BuildSelected).fit
    assert fit is not None
    assert fit.is_known
    assert not hub.server.requests


async def test_a_folder_is_read(premises: Premises, hub: ModelHub) -> None:
    """Its weights say what they take; one that is not there ends the switch at once."""
    folder = premises.folder / "tiny"
    premises.add_model("local", requirements="transformers\n", args={"model_id": str(folder)})
    absent = {"model_id": str(folder / "nowhere")}
    premises.add_model("absent", requirements="transformers\n", args=absent)
    async with premises.station(CPU) as station:
        await switched(station, "colours")  # which detects the machine
        listed = {model["id"]: model["fit"] for model in station.models()["models"]}
        assert "4 kB for weights in float32" in listed["local"]["reason"]
        failure = (await failed(station, "absent")).only(ActivationFailed)
    assert failure.error.code == "weights-unreachable"
    assert "does not exist" in failure.error.message
    assert not hub.server.requests


def test_a_plan_asks(premises: Premises, hub: ModelHub) -> None:
    """It says whether the model fits, and warns where its weights are out of reach; `models` asks nobody."""
    hub.server.faults.append(Fault(match="*", status=404))
    planned = run_json(premises, "plan", "--model", "tiny")
    assert planned["fit"]["verdict"] == "unknown"
    assert "There is no model me/tiny on 127.0.0.1, or it is private." in planned["warnings"]
    hub.server.faults.clear()
    assert "4 kB for weights in float32" in run_json(premises, "plan", "--model", "tiny")["fit"]["reason"]
    hub.server.clear_requests()
    assert run(premises, "models").returncode == 0
    assert not hub.server.requests


@pytest.mark.parametrize(("chosen", "given"), [({}, "1"), ({"HF_HUB_DISABLE_XET": "0"}, "0")])
async def test_backends_fetch_without_xet_unless_it_is_turned_on(
    premises: Premises, chosen: dict[str, str], given: str
) -> None:
    """Its client starts again at zero; over HTTPS that of 0.1's backends resumes."""
    premises.variables.update(chosen)
    source = "import os\ndef caption(**kwargs):\n    return {'caption': os.environ['HF_HUB_DISABLE_XET']}\n"
    premises.add_model("told", requirements="", source=source)
    async with premises.station(CPU, serves=True) as station:
        await switched(station, "told")
        assert await caption(station) == given
