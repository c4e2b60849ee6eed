"""AMD's GPUs: the kernel's compute topology, and ROCm's own enumeration where it is installed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import anyio

from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    answer_to,
    ask_file,
    ask_folder,
    one_line,
    refused,
)
from moondream_station.core.facts.capabilities import BUS_ALONE, Gpu, Outcome
from moondream_station.core.machine.machine import Machine
from moondream_station.core.machine.record import MachineRecord

NODES: Final = "/sys/class/kfd/kfd/topology/nodes"
_ARGV: Final = ("rocm_agent_enumerator",)

_PROPERTY = re.compile(r"(?m)^(\w+) (\d{1,20})[ \t]*\r?$", re.ASCII)
_AGENT = re.compile(r"(gfx[0-9a-f]{3,5})(?::[\w:+-]*)?", re.ASCII)
_AMD: Final = 0x1002

_INTEGRATED: Final = frozenset({
    "gfx700", "gfx801", "gfx810", "gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036",
    "gfx1037", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153",
})  # fmt: skip
"""Those that LLVM lists as APU (llvm.org/docs/AMDGPUUsage.html, "Processors"); gfx942 is either."""


async def _ask(machine: Machine) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(machine.run, *_ARGV)
        for node in await ask_folder(machine, NODES):
            await ask_file(machine, _properties_of(node))


def _read(record: MachineRecord) -> Reading:
    result = answer_to(record, *_ARGV)
    agents = _agents(result.stdout) if result is not None else ()
    gpus = _with_agents(_kernel_gpus(record), agents)
    if NODES not in record.directories and not refused(record, NODES):
        # On WSL2, where /dev/kfd is missing, the enumerator answers all the same; torch's wheels see no GPU.
        gpus = tuple(replace(gpu, architecture_source=BUS_ALONE) for gpu in gpus)
    slow = result is not None and result.timed_out
    if gpus:
        outcome = Outcome.TIMED_OUT if slow else Outcome.FOUND
        names = ", ".join(gpu.architecture or "of unknown architecture" for gpu in gpus)
        return Reading(outcome=outcome, detail=one_line(names), gpus=gpus)
    if slow:
        return Reading(outcome=Outcome.TIMED_OUT, detail="rocm_agent_enumerator did not answer in time")
    if unreadable := refused(record, NODES):
        return Reading(outcome=Outcome.FAILED, detail=unreadable)
    where = "the kernel knows no AMD GPU for computing"
    return Reading(detail=where if NODES in record.directories else f"{where} (no KFD)")


def _properties_of(node: str) -> str:
    return f"{NODES}/{node}/properties"


def _kernel_gpus(record: MachineRecord) -> tuple[Gpu, ...]:
    nodes = sorted(record.directories.get(NODES, ()), key=lambda node: (len(node), node))
    texts = (record.files.get(_properties_of(node)) for node in nodes)
    gpus = [gpu for text in texts if text is not None and (gpu := _gpu_of(text)) is not None]
    return tuple(replace(gpu, index=n) for n, gpu in enumerate(gpus))


def _gpu_of(text: str) -> Gpu | None:
    values = {key: int(value) for key, value in _PROPERTY.findall(text)}
    if not values.get("simd_count") or values.get("vendor_id", _AMD) != _AMD:
        return None
    architecture = _gfx(values.get("gfx_target_version", 0))
    on_processor = bool(values.get("cpu_cores_count")) or architecture in _INTEGRATED
    return Gpu(
        vendor="amd",
        architecture=architecture,
        architecture_source="kfd" if architecture else None,
        # 0 since the kernel lists memory banks apart
        memory_bytes=values.get("local_mem_size") or None,
        integrated=on_processor if architecture or on_processor else None,
    )


def _gfx(version: int) -> str | None:
    """The name of a target version: decimal pairs, of which the last two are written in hexadecimal."""
    major, minor, stepping = version // 10_000, version // 100 % 100, version % 100
    if not 1 <= major <= 99 or minor > 15 or stepping > 15:  # noqa: PLR2004  what one hexadecimal digit holds
        return None
    return f"gfx{major}{minor:x}{stepping:x}"


def _agents(output: str) -> tuple[str, ...]:
    matches = (_AGENT.fullmatch(line.strip()) for line in output.splitlines())
    names = (match.group(1) for match in matches if match is not None)
    return tuple(name for name in names if name != "gfx000")  # the CPU is an agent too


def _with_agents(gpus: tuple[Gpu, ...], agents: tuple[str, ...]) -> tuple[Gpu, ...]:
    """What the kernel does not tell (before 5.16 no target version), ROCm does, in the same order."""
    if not gpus:
        return tuple(_from_agent(Gpu(vendor="amd", index=n), name) for n, name in enumerate(agents))
    if len(gpus) != len(agents):
        return gpus
    return tuple(
        gpu if gpu.architecture else _from_agent(gpu, name) for gpu, name in zip(gpus, agents, strict=True)
    )


def _from_agent(gpu: Gpu, name: str) -> Gpu:
    return replace(
        gpu,
        architecture=name,
        architecture_source="rocm_agent_enumerator",
        integrated=gpu.integrated or name in _INTEGRATED,
    )


AMD = Probe(name="amd", ask=_ask, read=_read, programs=_ARGV)
