"""Whole switches with AMD's own index: on loopback, in its shape. Nobody has run the real one from here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moondream_station.core.activation.choice import plan_here
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.environments.store import load_commit, place_of
from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    BuildSelected,
    EnvironmentBuilt,
    FallbackChosen,
)
from moondream_station.core.facts.selection import Selection
from moondream_station.core.home.settings import load_settings
from moondream_station.core.index.catalog_loader import open_catalog
from moondream_station.core.machine.record import MachineRecord, RecordedMachine, load_record
from moondream_station.core.resolve.interpreter import own_interpreter
from support.catalogs import catalog_text
from support.index_traffic import Fault
from support.stations import HERE, Course, Premises, failed, switched
from support.wheels import TorchBehaviour, module_wheel

pytestmark = pytest.mark.anyio

MACHINES = Path(__file__).parents[1] / "machines"
KFD = "/sys/class/kfd/kfd/topology/nodes/1/properties"


def radeon(version: int) -> MachineRecord:
    """This computer with a Radeon, by its target version (100301: gfx1031)."""
    record = load_record(MACHINES / "amd-rx6700xt-gfx1031.json")
    files = {**record.files, KFD: record.files[KFD].replace("100301", str(version))}
    return replace(record, platform=HERE, files=files)


GFX1031, GFX1100, GFX1201 = radeon(100301), radeon(110000), radeon(120001)
FUTURE = ("2.16.0", "10.2.0")
"""A torch and a ROCm that the bundled catalog does not know."""


@pytest.fixture
def amd(premises: Premises) -> Premises:
    """Premises whose catalog has AMD's indexes on loopback; the older one has nothing at all."""
    own = premises.folder / "catalog.toml"
    own.write_text(
        catalog_text(
            ("https://repo.amd.com/rocm/whl-multi-arch", f"{premises.index.address}/elsewhere"),
            ("https://stable.repo.amd.com/rocm/whl-next", premises.index.amd_url),
        )
    )
    premises.variables["MOONDREAM_STATION_CATALOG"] = str(own)
    premises.variables["MOONDREAM_STATION_VENDOR_INDEXES"] = "1"
    premises.index.add_amd(*FUTURE, "gfx1031", "gfx1100", "gfx1201")
    # PyPI has packages of these names that are something else.
    premises.index.add_simple(module_wheel("rocm", "99.0"))
    premises.index.add_simple(module_wheel("rocm-sdk-core", "99.0"))
    return premises


def packages_of(premises: Premises, course: Course) -> dict[str, str]:
    """What the environment of a switch holds."""
    record = load_commit(place_of(premises.home, course.only(ActivationSucceeded).environment))
    assert record is not None
    return dict(record.packages)


async def plan(premises: Premises, machine: MachineRecord, *texts: str) -> Selection:
    """What `plan` says of that machine, with what the indexes have."""
    settings = load_settings(premises.home, premises.environ)
    premises.home.create()
    return await plan_here(
        parse_requirement_args(texts or ("torch",)),
        RecordedMachine(machine),
        python=own_interpreter().name,
        home=premises.home,
        settings=settings,
        environ=premises.environ,
        catalog=await open_catalog(settings, home=premises.home, environ=premises.environ),
    )


async def test_a_radeon_gets_amds_torch_with_the_code_for_it(amd: Premises) -> None:
    """Also one from the future: its device package is locked, `rocm` built, all else from where it was."""
    amd.add_model("painter", requirements="torch>=2.8\ntorchvision\n")
    async with amd.station(GFX1031) as station:
        course = await switched(station, "painter")
        again = await switched(station, "painter")
    selected = course.only(BuildSelected)
    assert (selected.build, selected.torch, selected.source) == ("rocm10.2.0", "2.16.0", "vendor")
    assert selected.index_url == amd.index.amd_url
    packages = packages_of(amd, course)
    assert packages["torch"] == packages["amd-torch-device-gfx1031"] == "2.16.0+rocm10.2.0"
    assert packages["amd-torchvision-device-gfx1031"] == packages["torchvision"]
    assert packages["rocm"] == packages["rocm-sdk-core"] == packages["rocm-sdk-device-gfx1031"] == "10.2.0"
    assert packages["numpy"] == "2.3.4"
    assert not [name for name in packages if "gfx1100" in name or "gfx1201" in name]
    assert again.only(EnvironmentBuilt).reused


async def test_torch_that_another_package_asks_for_has_its_code_too(amd: Premises) -> None:
    """The extras are asked for once torch is known to be needed."""
    amd.add_model("wrapped", requirements="wrapstorch\n")
    async with amd.station(GFX1031) as station:
        course = await switched(station, "wrapped")
    packages = packages_of(amd, course)
    assert packages["amd-torch-device-gfx1031"] == packages["torch"] == "2.16.0+rocm10.2.0"
    assert "torchvision" not in packages


async def test_another_gpu_gets_another_environment(amd: Premises) -> None:
    """The code for the one before is none for it, although the build is the same."""
    async with amd.station(GFX1031) as station:
        before = await switched(station, "colours")
    async with amd.station(GFX1201) as station:
        course = await switched(station, "colours")
    assert "amd-torch-device-gfx1031" in packages_of(amd, before)
    assert "amd-torch-device-gfx1201" in packages_of(amd, course)


async def test_whoever_wants_pytorchs_index_alone_can_say_so(amd: Premises) -> None:
    """Nothing is asked of AMD's; the GPU that only AMD's serves stays idle."""
    amd.variables["MOONDREAM_STATION_VENDOR_INDEXES"] = "0"
    async with amd.station(GFX1031) as station:
        course = await switched(station, "colours")
        refused = await failed(station, "colours", "rocm10.2.0")
    assert course.only(ActivationSucceeded).build == "cpu"
    assert not [request.path for request in amd.index.requests if request.path.startswith("/amd")]
    assert "AMD's own index, which is not to be asked" in refused.only(ActivationFailed).error.message


async def test_without_an_amd_gpu_amds_index_is_not_asked(amd: Premises) -> None:
    """Nor where the machine has another maker's."""
    async with amd.station(replace(GFX1031, files={}, directories={})) as station:
        await switched(station, "colours")
    assert not [request.path for request in amd.index.requests if request.path.startswith("/amd")]


async def test_with_the_same_torch_pytorchs_own_build_goes_first(amd: Premises) -> None:
    """Nothing has to be built for it; a newer torch of AMD's goes before an older one of PyTorch's."""
    amd.index.add_torch("2.16.0", "rocm7.4")
    chosen = await plan(amd, GFX1100)
    assert (chosen.build, chosen.source) == ("rocm7.4", "index")
    amd.index.add_amd("2.17.0", "10.3.0", "gfx1100")
    for listing in amd.home.cache.rglob("*.json"):
        listing.unlink()
    chosen = await plan(amd, GFX1100)
    assert (chosen.build, chosen.torch, chosen.source) == ("rocm10.3.0", "2.17.0", "vendor")
    assert "torch[device-gfx1100]" in chosen.command
    assert chosen.command[-2:] == ("--index-url", amd.index.amd_url)


async def test_a_silent_index_of_amds_is_named(amd: Premises) -> None:
    """The CPU build is used, and the plan says which index may have more."""
    amd.index.faults.append(Fault(match="/amd/*", status=503))
    chosen = await plan(amd, GFX1031)
    assert chosen.build == "cpu"
    assert any(f"{amd.index.amd_url}/torch/" in warning for warning in chosen.warnings)


async def test_amds_torch_that_does_not_compute_gives_way(amd: Premises) -> None:
    """To the CPU's, visibly; the next choice knows."""
    blind = TorchBehaviour(hip="10.3.0", compute_errors={"cuda": "HIP error: hipErrorInvalidImage"})
    amd.index.add_amd("2.17.0", "10.3.0", "gfx1031", behaviour=blind)
    async with amd.station(GFX1031) as station:
        course = await switched(station, "colours")
    first, *others = course.every(FallbackChosen)
    assert first.from_build == "rocm10.3.0"
    assert course.only(ActivationSucceeded).build in {"rocm10.2.0", "cpu"}
    assert not others
    chosen = await plan(amd, GFX1031)
    assert chosen.build != "rocm10.3.0"
    assert "rocm10.3.0 with torch 2.17.0 failed on this machine" in json.dumps(chosen.reason)
