"""Machines whose tools tell less than they seem to, from the reports of other projects.

What must be true of each, with its reason, is in tests/machines; here stands what a record alone can't hold.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from moondream_station.core.activation.choice import plan_from_catalog
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.facts.selection import Selection
from moondream_station.core.machine.record import MachineRecord, RecordedMachine
from support.machines import RTX_4090, nvidia_linux, windows

pytestmark = pytest.mark.anyio

FREEZE = (Path(__file__).parent / "inputs" / "freeze-with-nvidia-pins.txt").read_text("utf-8").split()


async def chosen(record: MachineRecord, *requirements: str) -> Selection:
    """What is planned for a machine."""
    asked = parse_requirement_args(requirements)
    return await plan_from_catalog(asked, RecordedMachine(record), python="3.12.3")


@pytest.mark.parametrize(
    ("pins", "build"),
    [
        (FREEZE, "cu124"),
        (["torch==2.6.0", "nvidia-cublas-cu12==12.4.5.8"], "cu124"),
        (["torch==2.6.0", "nvidia-cuda-runtime-cu12==12.6.77"], "cu126"),
        (["torch==2.6.0", "nvidia-cuda-runtime-cu11==11.8.89"], "cu118"),
        (["torch==2.6.0", "nvidia-cublas-cu12>=12.1"], "cu126"),
        (["torch==2.6.0", "nvidia-cudnn-cu12==9.1.0.70"], "cu126"),
        (["torch==2.6.0", "nvidia-cublas-cu12==12.4.5.8; sys_platform == 'win32'"], "cu126"),
    ],
)
async def test_pinned_packages_of_nvidias_choose_their_cuda(pins: list[str], build: str) -> None:
    """`pip freeze` names the CUDA that torch came with: the plan is the build that a switch finds."""
    selection = await chosen(nvidia_linux(RTX_4090, driver="560.35.03", cuda="12.6"), *pins)
    assert (selection.build, selection.torch) == (build, "2.6.0")
    refused = {one.build: one.reason for one in selection.candidates}
    if build == "cu124":
        assert "belongs to CUDA 12.4" in refused["cu126"]


async def test_pins_of_nvidias_mean_nothing_where_torch_does_not_name_them() -> None:
    """Windows' wheels carry CUDA themselves."""
    pins = ("torch==2.6.0", "nvidia-cublas-cu12==12.4.5.8")
    selection = await chosen(windows(RTX_4090, driver="560.94"), *pins)
    assert selection.build == "cu126"
