"""What needs no reading but a version: Python's own facts, the CUDA toolkit's compiler, and macOS.

The toolkit's version is reported and never chooses a build: torch ships its own CUDA runtime.
"""

from __future__ import annotations

import re
from functools import partial

import anyio.lowlevel

from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    answer_to,
    ask_commands,
    not_answered,
    one_line,
)
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord


async def _ask_nothing(machine: Machine) -> None:
    del machine  # its facts are there already
    await anyio.lowlevel.checkpoint()


def _read_facts(record: MachineRecord) -> Reading:
    facts = record.platform
    libc = " ".join(facts.libc).strip()
    parts = (f"{facts.system} {facts.release} {facts.machine}", f"Python {facts.python}", libc)
    return Reading(outcome=Outcome.FOUND, detail=one_line(", ".join(part for part in parts if part)))


def _version_probe(
    name: str, argv: tuple[str, ...], pattern: str, what: str, system: str | None = None
) -> Probe:
    def read(record: MachineRecord) -> Reading:
        result = answer_to(record, *argv)
        if result is None:
            return Reading(detail=f"{argv[0]} is not installed")
        match = re.search(pattern, result.stdout.strip(), re.ASCII)
        if result.timed_out or match is None:
            return not_answered(result, argv[0])
        return Reading(outcome=Outcome.FOUND, detail=f"{what} {match[1]}", version=match[1])

    return Probe(
        name=name, ask=partial(ask_commands, argvs=(argv,)), read=read, system=system, programs=argv[:1]
    )


PLATFORM = Probe(name="platform", ask=_ask_nothing, read=_read_facts)
NVCC = _version_probe("nvcc", ("nvcc", "--version"), r"\brelease (\d{1,3}\.\d{1,3})\b", "CUDA toolkit")
MACOS = _version_probe(
    "macos",
    ("sw_vers", "-productVersion"),
    r"\A(\d{1,3}(?:\.\d{1,3}){0,3})\Z",
    "macOS",
    system="Darwin",
)
