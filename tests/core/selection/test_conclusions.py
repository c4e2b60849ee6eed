"""What is thought of a build and of the machine it was chosen for."""

from __future__ import annotations

import pytest

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.selection.select import Conclusions, conclusions
from support.snapshots import amd, linux, macos, nvidia, windows

CATALOG = load_catalog()
RTX_4090 = nvidia("8.9", "NVIDIA GeForce RTX 4090")


def test_a_cuda_build_has_its_list_its_toolkit_and_the_drivers_cuda() -> None:
    """As torch would write them; the list is that of the platform."""
    thought = conclusions("cu126", "2.14.1+cu126", linux(RTX_4090, driver="550.54.14", cuda="12.4"), CATALOG)
    assert thought == Conclusions(
        arch_list=("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
        toolkit="12.6",
        driver_cuda="12.4",
    )
    there = conclusions("cu126", "2.14.1+cu126", windows(RTX_4090, driver="566.36"), CATALOG)
    assert "sm_61" in there.arch_list
    assert there.driver_cuda == "12.7"  # by the driver's branch, where no header tells it


def test_a_rocm_build_has_its_list() -> None:
    """AMD's driver tells no CUDA."""
    thought = conclusions("rocm6.4", "2.9.1", linux(amd("gfx1100")), CATALOG)
    assert "gfx1100" in thought.arch_list
    assert (thought.toolkit, thought.driver_cuda) == ("6.4", None)


@pytest.mark.parametrize(
    ("build", "machine"), [("cpu", linux()), ("mps", macos("15.1")), ("xpu", linux()), ("odd", linux())]
)
def test_of_the_others_nothing_is_thought(build: str, machine: Capabilities) -> None:
    """The processor has no list of architectures that torch would tell."""
    own = "cu130" if build == "cpu" else None  # PyPI's wheel, which may stand in for the CPU's
    assert conclusions(build, "2.14.1", machine, CATALOG) == Conclusions(pypi_build=own)
