"""What an inspection reads of the GPUs, as NVIDIA's own tool tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moondream_station.core.activation.inspection import Inspection
from moondream_station.core.activation.workshop import Tools
from moondream_station.core.facts.inspection import GpuMemory
from moondream_station.core.facts.state import StationState
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.record import MachineRecord, RecordedMachine
from support.machines import answer, cpu_only, look, nvidia_linux

pytestmark = pytest.mark.anyio

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits")


async def _gpus(machine: MachineRecord) -> tuple[GpuMemory, ...]:
    capabilities = await look(machine)
    inspection = Inspection(
        settings=Settings(),
        machine=RecordedMachine(machine),
        tools=_no_tools,
        state=lambda: StationState(capabilities=capabilities),
    )
    return await inspection._gpus()


def _no_tools() -> Tools:
    raise AssertionError("no GPU needs them")


async def test_the_memory_of_each_gpu() -> None:
    """Used and whole, in bytes; a GPU without memory of its own is left out, and so is a tool that fails."""
    lines = "NVIDIA H200, 81920, 143771\nNVIDIA GB10, [N/A], [N/A]\n"
    machine = nvidia_linux()
    asked = replace(machine, commands=(*machine.commands, answer(*_QUERY, stdout=lines)))
    (gpu,) = await _gpus(asked)
    assert gpu == GpuMemory(name="NVIDIA H200", used_bytes=81920 << 20, total_bytes=143771 << 20)
    assert await _gpus(machine) == ()
    assert await _gpus(cpu_only()) == ()
