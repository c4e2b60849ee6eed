"""Detects the machine: all probes at once, each with one deadline, none raising and none hanging."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import anyio
import anyio.lowlevel

from moondream_station.core.capabilities.conflicts import combine, is_smi_spare
from moondream_station.core.capabilities.probes.adapters import AMD, INTEL, WINDOWS_GPUS
from moondream_station.core.capabilities.probes.nvidia import NVIDIA_DRIVER, NVIDIA_SMI
from moondream_station.core.capabilities.probes.probe import Probe, Reading, one_line
from moondream_station.core.capabilities.probes.system import MACOS, NVCC, PLATFORM, SYSCTL
from moondream_station.core.facts.capabilities import Capabilities, Outcome, ProbeReport
from moondream_station.core.facts.errors import StationError
from moondream_station.core.home.log import Log
from moondream_station.core.machine.machine import Machine
from moondream_station.core.machine.record import Recorder

PROBES: Final = (PLATFORM, NVIDIA_SMI, NVIDIA_DRIVER, NVCC, SYSCTL, MACOS, AMD, INTEL, WINDOWS_GPUS)
"""Every probe, in the order in which reports list them."""

SLOW_AFTER_SECONDS: Final = 2.0
"""A probe that takes longer is reported by name."""

SPARE_AFTER_SECONDS: Final = 2.0
"""How long nvidia-smi is waited for where kernel and bus tell the same."""


_log = Log()


def _log_slow(probe: str) -> None:
    _log.warning("probe.slow", probe=probe)


async def detect(
    machine: Machine,
    *,
    on_probe: Callable[[ProbeReport], None],
    on_slow: Callable[[str], None] = _log_slow,
    probes: tuple[Probe, ...] = PROBES,
    slow_after_seconds: float = SLOW_AFTER_SECONDS,
    spare_after_seconds: float = SPARE_AFTER_SECONDS,
) -> Capabilities:
    """Ask all probes at once and make one snapshot of their answers, with reports in the probes' order.

    It takes as long as the slowest probe, and no longer than the longest deadline. Nothing that the machine
    answers, or fails to answer, makes it raise. Probes of another system are left out.
    """
    asked = [probe for probe in probes if probe.system in {None, machine.facts.system}]
    done: dict[str, tuple[Reading, ProbeReport]] = {}
    started = anyio.current_time()
    deadlines = {probe.name: anyio.CancelScope() for probe in asked}

    def shorten() -> None:
        """Wait no longer for the tool that may hang once its answer could not change the choice."""
        waiting = deadlines.get(NVIDIA_SMI.name)
        if waiting and is_smi_spare(machine.facts, {probe: reading for probe, (reading, _) in done.items()}):
            waiting.deadline = min(waiting.deadline, started + spare_after_seconds)

    async def ask(probe: Probe) -> None:
        began = time.perf_counter()
        reading = await _read(probe, machine, deadlines[probe.name])
        report = ProbeReport(
            probe=probe.name,
            outcome=reading.outcome,
            seconds=time.perf_counter() - began,
            detail=reading.detail,
        )
        done[probe.name] = (reading, report)
        on_probe(report)
        shorten()

    async def name_slow_ones() -> None:
        await anyio.sleep(slow_after_seconds)
        for probe in asked:
            if probe.name not in done:
                on_slow(probe.name)

    async with anyio.create_task_group() as watching:
        watching.start_soon(name_slow_ones)
        async with anyio.create_task_group() as asking:
            for probe in asked:
                asking.start_soon(ask, probe)
        watching.cancel_scope.cancel()

    return combine(
        machine.facts,
        machine.variables,
        {probe: reading for probe, (reading, _) in done.items()},
        tuple(done[probe.name][1] for probe in asked),
    )


async def _read(probe: Probe, machine: Machine, within: anyio.CancelScope) -> Reading:
    """Ask a probe's questions, and read what was answered before its deadline."""
    recorder = Recorder(machine)
    failure, began = "", anyio.current_time()
    within.deadline = began + probe.deadline_seconds
    with within:
        failure = await _ask(probe, recorder)
    reading = probe.read(recorder.record)
    if within.cancelled_caught and reading.outcome is not Outcome.TIMED_OUT:
        late = f"not finished after {within.deadline - began:.0f} s; so far: {reading.detail}"
        return replace(reading, outcome=Outcome.TIMED_OUT, detail=one_line(late))
    if failure:
        return replace(reading, outcome=Outcome.FAILED, detail=one_line(failure))
    return reading


async def _ask(probe: Probe, machine: Machine) -> str:
    """Ask a probe's questions; what could not even be asked is returned in words."""
    failures: list[BaseException] = []
    try:
        await probe.ask(machine)
    except* (OSError, StationError) as errors:
        failures = _leaves(errors)
    await anyio.lowlevel.checkpoint()
    return "; ".join(str(error) or type(error).__name__ for error in failures)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
