"""Environments that exist already: when they are used again, and when another one must be made."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest

from moondream_station.core.bus.bus import Subscription
from moondream_station.core.environments.store import Committed, check_whole, load_commit, place_of
from moondream_station.core.facts.errors import EnvironmentBroken
from moondream_station.core.facts.events import (
    ActivationSucceeded,
    ActivationWaiting,
    BuildSelected,
    CapabilitiesDetected,
    EnvironmentBuilt,
    FallbackChosen,
    RequirementsLocked,
)
from moondream_station.core.home.active_file import read_active
from support.machines import cpu_only, nvidia_linux
from support.stations import HERE, Course, Premises, failed, switched
from support.wheels import TorchBehaviour

T = TypeVar("T")

pytestmark = pytest.mark.anyio

CUDA_12 = nvidia_linux(driver="560.35.03", cuda="12.6", platform=HERE)
CPU = cpu_only(HERE)


def built(course: Course) -> tuple[str, bool]:
    """The environment that an activation ended with, and whether it existed before."""
    fact = course.every(EnvironmentBuilt)[-1]
    return fact.environment, fact.reused


async def next_of(events: Subscription, kind: type[T], *, activation: str | None) -> T:
    """The next fact of a kind, of an activation or of none."""
    async for event in events:
        if isinstance(event.fact, kind) and event.activation == activation:
            return event.fact
    raise AssertionError("the subscription ended")


async def test_the_next_switch_of_a_station_does_not_wait_for_the_one_before(premises: Premises) -> None:
    """When the terminal fact of one has been told, the next one finds the home free."""
    async with premises.station(CPU) as station:
        first = await switched(station, "colours")
        second = await switched(station, "colours")
    assert second.activation != first.activation
    assert second.every(ActivationWaiting) == []
    assert built(second) == (built(first)[0], True)


async def test_it_is_used_again_when_nothing_can_be_reached(premises: Premises) -> None:
    """Neither the index nor PyTorch's is needed for what is here already, in another run of the station."""
    async with premises.station(CPU) as station:
        first = await switched(station, "colours")
    premises.variables.update(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS="/no/such/folder")
    premises.variables["MOONDREAM_STATION_TORCH_INDEX"] = "http://127.0.0.1:9/whl"
    async with premises.station(CPU) as station:
        assert built(await switched(station, "colours")) == (built(first)[0], True)


def lose_a_file(home: Path) -> None:
    """Damage every environment."""
    for path in home.glob("environments/*/venv/lib/python*/site-packages/torch/cuda.py"):
        path.unlink()


def cut_a_file(home: Path) -> None:
    """Damage every environment, in a way that only a size shows."""
    for path in home.glob("environments/*/venv/lib/python*/site-packages/torch/cuda.py"):
        content = path.read_bytes()
        path.unlink()  # it may be a hard link
        path.write_bytes(content[:-1])


def lose_the_python(home: Path) -> None:
    """Take away what every environment runs."""
    for path in home.glob("environments/*/venv/bin/python"):
        path.unlink()


def lose_its_settings(home: Path) -> None:
    """Without `pyvenv.cfg` every environment's Python is the base one, with the base one's packages."""
    for path in home.glob("environments/*/venv/pyvenv.cfg"):
        path.unlink()


def change_its_settings(home: Path) -> None:
    """Let every environment see the packages of the system."""
    for path in home.glob("environments/*/venv/pyvenv.cfg"):
        path.write_text(f"{path.read_text()}include-system-site-packages = true\n")


def change_the_python(home: Path) -> None:
    """Let every environment run another Python."""
    for path in home.glob("environments/*/venv/bin/python"):
        path.unlink()
        path.symlink_to("/bin/true")


def lose_a_script(home: Path) -> None:
    """Take a script of every environment's own away."""
    for path in home.glob("environments/*/venv/bin/activate"):
        path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        *(lose_a_file, cut_a_file, lose_the_python, lose_its_settings, change_its_settings),
        *(change_the_python, lose_a_script),
    ],
)
async def test_a_damaged_one_is_made_anew_from_what_was_downloaded(
    premises: Premises, damage: object
) -> None:
    """It is no longer whole, so that another one takes its place; the wheel need not come again."""
    assert callable(damage)
    async with premises.station(CPU) as station:
        first = await switched(station, "colours")
        damage(premises.home.root)
        premises.index.clear_requests()
        second = await switched(station, "colours")
    environment, reused = built(second)
    assert not reused
    assert environment != built(first)[0]
    assert environment.partition("-")[0] == built(first)[0].partition("-")[0]
    assert read_active(premises.home).models["colours"].previous == built(first)[0]
    gets = [request.path for request in premises.index.requests if request.method == "GET"]
    assert [path for path in gets if path.endswith(".whl")] == []


async def test_other_requirements_are_another_environment(premises: Premises) -> None:
    """And going back to the former ones finds the former environment."""
    async with premises.station(CPU) as station:
        first = await switched(station, "colours")
    premises.add_model("colours", requirements="torch==2.8.0\n")
    async with premises.station(CPU) as station:
        second = await switched(station, "colours")
        assert second.only(BuildSelected).torch == "2.8.0"
        assert not second.only(EnvironmentBuilt).reused
    premises.add_model("colours")
    async with premises.station(CPU) as station:
        assert built(await switched(station, "colours")) == (built(first)[0], True)


async def test_another_strategy_is_another_environment(premises: Premises) -> None:
    """What was made for `auto` is not what a named build asks for."""
    async with premises.station(CUDA_12) as station:
        await switched(station, "colours")
        forced = await switched(station, "colours", "cpu")
    assert not forced.only(EnvironmentBuilt).reused
    assert forced.only(ActivationSucceeded).build == "cpu"


async def test_a_build_that_the_machine_can_no_longer_run_is_not_used_again(premises: Premises) -> None:
    """An older driver, or none: the environment is whole and of no use."""
    async with premises.station(CUDA_12) as station:
        await switched(station, "colours")
    premises.home.capabilities.unlink(missing_ok=True)
    async with premises.station(CPU) as station:
        second = await switched(station, "colours")
    assert second.only(BuildSelected).build == second.only(ActivationSucceeded).build == "cpu"
    assert second.every(RequirementsLocked) != []


async def test_one_that_failed_verification_is_never_used_again(premises: Premises) -> None:
    """Where no check sees the damage, torch does: the next switch makes another one."""
    async with premises.station(CPU) as station:
        first = await switched(station, "colours")
        place = place_of(premises.home, built(first)[0])
        (behaviour,) = place.venv.glob("lib/python*/site-packages/torch/behaviour.json")
        size = behaviour.stat().st_size
        told = TorchBehaviour(compute_errors={"cpu": "x"}).as_json("2.9.1+cpu").replace(b"\n ", b"")
        behaviour.unlink()  # it may be a hard link
        behaviour.write_bytes(told.ljust(size))
        await failed(station, "colours")
        environment, reused = built(await switched(station, "colours"))
    assert not reused
    assert environment != place.name
    record = load_commit(place)
    assert record is not None
    with pytest.raises(EnvironmentBroken, match="PyTorch did not work"):
        await check_whole(Committed(place=place, record=record))


async def test_one_in_which_torch_no_longer_computes_gives_way(premises: Premises) -> None:
    """The machine is looked at again, which the station tells beside it, and another build is chosen."""
    async with premises.station(CUDA_12) as station:
        first = await switched(station, "colours")
        place = place_of(premises.home, built(first)[0])
        (behaviour,) = place.venv.glob("lib/python*/site-packages/torch/behaviour.json")
        size = behaviour.stat().st_size
        behaviour.unlink()
        told = TorchBehaviour(cuda="12.8", compute_errors={"cuda": "no kernel image is available"})
        behaviour.write_bytes(told.as_json("2.9.1+cu128").ljust(size))
        async with station.bus.subscribe() as events:
            second = await switched(station, "colours")
            looked = await next_of(events, CapabilitiesDetected, activation=None)
    assert not looked.from_cache
    assert len(second.every(CapabilitiesDetected)) == 1
    fallback = second.only(FallbackChosen)
    assert (fallback.from_build, fallback.to_build) == ("cu128", "cu126")
    assert second.only(ActivationSucceeded).build == "cu126"


async def test_a_model_whose_record_is_lost_is_still_the_active_one(premises: Premises) -> None:
    """`active.json` names it: a station that serves makes it again."""
    async with premises.station(CPU) as station:
        first = await switched(station, "colours")
    place_of(premises.home, built(first)[0]).commit.write_text("{")
    async with premises.station(CPU, serves=True) as station:
        active = station.state.active
        assert active is not None
        assert (active.model, active.backend, active.build) == ("colours", "colours", None)
