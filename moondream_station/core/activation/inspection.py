"""What people look at in a serving station beside its state: plans, journals, logs, memory; and `remove`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import psutil

from moondream_station.core.activation.choice import plan_here
from moondream_station.core.activation.housekeeping import forget
from moondream_station.core.activation.models import check_model
from moondream_station.core.activation.workshop import Tools
from moondream_station.core.backends.provide import known_requirements
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.inspection import ActivationList, Disk, GpuMemory, Memory, Usage, WorkerLog
from moondream_station.core.facts.state import StationState
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.machine import Machine
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.selection.outward import plan_to_json
from moondream_station.core.views.records import list_activations, show_activation, worker_lines
from moondream_station.core.worker.loading import available_bytes, held_bytes, total_bytes

_GPU_FIELDS: Final = ("name", "memory.used", "memory.total")
_GPU_SECONDS: Final = 5.0
_MIB: Final = 1 << 20


@dataclass(kw_only=True)
class Inspection:
    """Reads what a station's home and machine have to show; nothing of it is kept."""

    settings: Settings
    machine: Machine
    tools: Callable[[], Tools]
    """What the next activation will work with."""
    state: Callable[[], StationState]

    async def plan(self, model: str, strategy: str | None) -> Mapping[str, Any]:
        """Which build a switch to the model would install, and why no other: the shape of `plan --json`.

        Raises:
            UnknownModel, UnsupportedModel: There is no such model, or not for this machine.
            UsageError: There is no such strategy.
        """
        check_strategy(strategy or self.settings.strategy)
        tools = self.tools()
        entry = check_model(tools.manifest, model)
        known = await anyio.to_thread.run_sync(
            partial(known_requirements, model, manifest=tools.manifest, home=tools.home)
        )
        selection = await plan_here(
            known or parse_requirement_args(["torch"]),
            self.machine,
            python=own_interpreter().name,
            strategy=strategy or self.settings.strategy,
            home=tools.home,
            settings=self.settings,
            environ=tools.environ,
            catalog=tools.catalog,
            model=entry,
        )
        return plan_to_json(selection)

    async def activations(self) -> Mapping[str, Any]:
        """The last activations, the newest first."""
        past = await anyio.to_thread.run_sync(list_activations, self.tools().home)
        return _shape(ActivationList(activations=past))

    async def activation(self, activation: str) -> Mapping[str, Any] | None:
        """One activation's journal; None where there is none."""
        journal = await anyio.to_thread.run_sync(show_activation, self.tools().home, activation)
        return None if journal is None else _shape(journal)

    async def logs(self, model: str | None) -> Mapping[str, Any]:
        """The last lines that the workers of a model, by default of the active one, wrote."""
        active = self.state().active
        name = model or (active.model if active else None)
        lines = await anyio.to_thread.run_sync(worker_lines, self.tools().home, name) if name else []
        return _shape(WorkerLog(model=name, lines=tuple(lines)))

    async def usage(self) -> Mapping[str, Any]:
        """Memory of the station, its worker, the machine and its GPUs, and the home's disk, in bytes."""
        gpus = await self._gpus()
        return _shape(await anyio.to_thread.run_sync(self._usage, gpus))

    async def remove(self, model: str) -> None:
        """Forget a model's environments; as `forget`."""
        await forget(self.tools().home, model, on_wait=lambda _: None)

    def _usage(self, gpus: tuple[GpuMemory, ...]) -> Usage:
        active = self.state().active
        pids = active.worker_pids if active else ()
        disk = psutil.disk_usage(str(self.tools().home.root))
        memory = Memory(
            station_bytes=psutil.Process().memory_info().rss,
            worker_bytes=sum(map(held_bytes, pids)) if pids else None,
            available_bytes=available_bytes(),
            total_bytes=total_bytes(),
        )
        return Usage(memory=memory, gpus=gpus, disk=Disk(free_bytes=disk.free, total_bytes=disk.total))

    async def _gpus(self) -> tuple[GpuMemory, ...]:
        """The memory of NVIDIA's GPUs, by their own tool; other makers have none that tells it everywhere."""
        capabilities = self.state().capabilities
        if capabilities is None or not capabilities.gpus_of("nvidia"):
            return ()
        with anyio.move_on_after(_GPU_SECONDS):
            query = f"--query-gpu={','.join(_GPU_FIELDS)}"
            answer = await self.machine.run("nvidia-smi", query, "--format=csv,noheader,nounits")
            lines = answer.stdout.splitlines() if answer is not None and answer.returncode == 0 else []
            return tuple(gpu for line in lines if (gpu := _gpu(line)) is not None)
        return ()


def _shape(value: object) -> Mapping[str, Any]:
    data: Mapping[str, Any] = to_json(value)
    return data


def _gpu(line: str) -> GpuMemory | None:
    """One line of nvidia-smi; None where it has no numbers, as for a GPU that shares the CPU's memory."""
    with suppress(ValueError):
        name, used, total = line.rsplit(",", 2)
        return GpuMemory(name=name.strip(), used_bytes=int(used) * _MIB, total_bytes=int(total) * _MIB)
    return None
