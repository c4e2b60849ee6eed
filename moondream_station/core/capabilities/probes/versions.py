"""Programs of which nothing but their version is asked: the CUDA toolkit's compiler, and macOS's own.

The toolkit's version is reported and never chooses a build: torch ships its own CUDA runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moondream_station.core.capabilities.probes.probe import Probe, Reading, answer_to, not_answered
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class NvccReading(Reading):
    """The toolkit's version ("13.0"), None where there is none."""

    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MacosReading(Reading):
    """The system's version ("14.5")."""

    version: str | None = None


def _version_probe(
    name: str,
    argv: tuple[str, ...],
    pattern: str,
    what: str,
    reading: type[NvccReading | MacosReading],
    system: str | None = None,
) -> Probe:
    async def ask(machine: Machine) -> None:
        await machine.run(*argv)

    def read(record: MachineRecord) -> Reading:
        result = answer_to(record, *argv)
        if result is None:
            return reading(outcome=Outcome.ABSENT, detail=f"{argv[0]} is not installed")
        match = re.search(pattern, result.stdout.strip(), re.ASCII)
        if result.timed_out or match is None:
            return not_answered(result, argv[0])
        return reading(outcome=Outcome.FOUND, detail=f"{what} {match[1]}", version=match[1])

    return Probe(name=name, ask=ask, read=read, system=system, programs=argv[:1])


NVCC = _version_probe(
    "nvcc", ("nvcc", "--version"), r"\brelease (\d{1,3}\.\d{1,3})\b", "CUDA toolkit", NvccReading
)
MACOS = _version_probe(
    "macos",
    ("sw_vers", "-productVersion"),
    r"\A(\d{1,3}(?:\.\d{1,3}){0,3})\Z",
    "macOS",
    MacosReading,
    system="Darwin",
)
