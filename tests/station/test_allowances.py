"""Requirements beyond names and versions: what a manifest allows by name is installed, nothing else is."""

from __future__ import annotations

import pytest

from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    EnvironmentBuilt,
    RequirementsLocked,
)
from moondream_station.core.home.active_file import read_active
from support.machines import cpu_only
from support.stations import HERE, Premises, failed, switched
from support.wheels import Sources, module_wheel

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)
FILES = {"compiled/__init__.py": b'"""Made from sources."""\n'}


def installed_versions(premises: Premises) -> set[str]:
    """Name and version of everything in the active environment."""
    active = read_active(premises.home)
    place = premises.home.environments / active.models[str(active.model)].environment
    return {path.name.removesuffix(".dist-info") for path in place.rglob("*.dist-info")}


async def test_sources_are_built_only_where_the_manifest_names_the_package(premises: Premises) -> None:
    """Refused with both sides named, then built, with what it requires; a second switch builds nothing."""
    sources = Sources(name="compiled", version="1.2", requires=["numpy"], files=FILES)
    premises.index.add_simple(sources)
    premises.add_model("native", requirements="compiled\n")
    async with premises.station(CPU) as station:
        error = (await failed(station, "native")).only(ActivationFailed).error
    assert error.code == "resolution-conflict"
    assert "compiled" in error.message
    assert "wheels" in error.message
    assert "allow.builds" in str(error.hint)

    premises.add_model("native", requirements="compiled\n", allow={"builds": ["Compiled"]})
    async with premises.station(CPU) as station:
        course = await switched(station, "native")
        assert course.only(RequirementsLocked).packages == 2
        assert (await switched(station, "native")).only(EnvironmentBuilt).reused
    assert {"compiled-1.2", "numpy-2.3.4"} <= installed_versions(premises)


async def test_a_wheel_is_taken_before_sources_are_built(premises: Premises) -> None:
    """Sources of a newer version don't matter as long as a wheel goes: it runs no foreign code."""
    premises.index.add_simple(Sources(name="compiled", version="2.0", files=FILES, failure="must not run"))
    premises.index.add_simple(module_wheel("compiled", "1.0"))
    premises.add_model("native", requirements="compiled\n", allow={"builds": ["compiled"]})
    async with premises.station(CPU) as station:
        await switched(station, "native")
    assert "compiled-1.0" in installed_versions(premises)


async def test_sources_that_can_not_be_built_say_why(premises: Premises) -> None:
    """The backend's own last words are in the sentence or in the journal, and nothing is left of it."""
    premises.index.add_simple(
        Sources(name="compiled", version="1.2", files=FILES, failure="there is no compiler here")
    )
    premises.add_model("native", requirements="compiled\n", allow={"builds": ["compiled"]})
    async with premises.station(CPU) as station:
        course = await failed(station, "native")
        written = station_journal(premises, course.activation)
    assert course.only(ActivationFailed).error.code == "build-failed"
    assert "compiled" in course.only(ActivationFailed).error.message
    assert "there is no compiler here" in written


def station_journal(premises: Premises, activation: str) -> str:
    """Everything that an activation's journal has."""
    return (premises.home.activations / f"{activation}.jsonl").read_text()


async def test_a_url_is_taken_only_where_the_manifest_names_the_package(premises: Premises) -> None:
    """Its wheel is locked with its hash and fetched as any other, also with an older version than others."""
    premises.index.add_simple(module_wheel("extra", "1.0"))
    premises.index.add_simple(module_wheel("extra", "2.0"))
    url = f"{premises.index.simple_url}/files/extra-1.0-py3-none-any.whl"
    premises.add_model("linked", requirements=f"extra @ {url}\n")
    async with premises.station(CPU) as station:
        course = await failed(station, "linked")
    error = course.only(ActivationFailed).error
    assert error.code == "requirements-unsafe"
    assert "allow" in str(error.hint)

    premises.add_model("linked", requirements=f"extra @ {url}\n", allow={"urls": ["extra"]})
    async with premises.station(CPU) as station:
        await switched(station, "linked")
    assert "extra-1.0" in installed_versions(premises)


async def test_torch_never_comes_from_a_url(premises: Premises) -> None:
    """Not even where the manifest names it: its build is the machine's business."""
    wheel = f"{premises.index.torch_url}/cpu/torch-2.9.0.whl"
    premises.add_model("moved", requirements=f"torch @ {wheel}\n", allow={"urls": ["torch"]})
    async with premises.station(CPU) as station:
        error = (await failed(station, "moved")).only(ActivationFailed).error
    assert error.code == "requirements-unsafe"
    assert "the build that the station chooses" in error.message


async def test_a_further_file_is_read_only_where_the_manifest_names_it(premises: Premises) -> None:
    """What it asks for is installed too, and held to the same rules."""
    more = {"more.txt": "numpy\n--extra-index-url https://download.pytorch.org/whl/cu118\n"}
    premises.add_model("several", requirements="torch\n-r more.txt\n", files=more)
    async with premises.station(CPU) as station:
        assert (await failed(station, "several")).only(ActivationFailed).error.code == "requirements-unsafe"
    premises.add_model(
        "several", requirements="torch\n-r more.txt\n", files=more, allow={"files": ["more.txt"]}
    )
    async with premises.station(CPU) as station:
        assert (await switched(station, "several")).only(ActivationSucceeded).build == "cpu"
    assert "numpy-2.3.4" in installed_versions(premises)


async def test_a_requirement_that_no_torch_of_any_build_meets_names_both_sides(premises: Premises) -> None:
    """The package that asks for it and the build's torch stand in one sentence."""
    premises.index.add_simple(module_wheel("stubborn", "1.0", requires=["torch<1.0"]))
    premises.add_model("torn", requirements="torch>=2.8\nstubborn\n")
    async with premises.station(CPU) as station:
        error = (await failed(station, "torn")).only(ActivationFailed).error
    assert error.code == "resolution-conflict"
    assert "stubborn" in error.message
    assert "torch<1.0" in error.message
    assert "2.9.1+cpu" in error.message
    assert f"{premises.index.torch_url}/cpu" in error.message


async def test_a_backend_of_0_1_keeps_its_options_about_pytorch_s_index(premises: Premises) -> None:
    """They are left out, its torch comes from the chosen build's index, and the journal says so."""
    lines = "--extra-index-url https://download.pytorch.org/whl/cu121\ntorch>=2.7.0\n"
    premises.add_model("old", requirements=lines)
    async with premises.station(CPU) as station:
        course = await switched(station, "old")
        written = station_journal(premises, course.activation)
    assert course.only(ActivationSucceeded).build == "cpu"
    assert "requirements.txt of old, line 1" in written
    assert "is ignored" in written
